// Package csi judges csi/hostpath with csi-sanity, the test suite of the Container Storage Interface's makers.
package csi
