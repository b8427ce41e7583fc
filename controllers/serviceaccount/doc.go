// Package serviceaccount sees to it that every namespace has a ServiceAccount
// named default, which pods that name none run as.
//
// It does not issue tokens: a kubelet asks the API server for each pod's.
//
// Start reading at reconcile.go.
package serviceaccount
