// Package hollow tries whole applications, written by others, on nodes that run
// nothing: our own hollow nodes, and those of kwok, a foreign fake kubelet.
package hollow
