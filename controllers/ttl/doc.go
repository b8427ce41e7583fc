// Package ttl tells kubelets how long they may use a Secret or ConfigMap that
// they have read before they ask again. In a large cluster asking often would
// be most of the API server's work.
package ttl
