// Package rootca puts the cluster's certificate authority into every namespace
// as the ConfigMap kube-root-ca.crt, from where a projected volume brings it
// into every pod: how a pod knows the API server.
//
// Start reading at reconcile.go.
package rootca
