// Package bootstraptoken tends the tokens with which new nodes join.
//
//	signer    signs the kubeconfig in kube-public/cluster-info with every
//	          token, so that a node which knows one can tell that the address
//	          and the CA it reads there, from a stranger, are the cluster's
//	cleaner   deletes tokens that have expired
//
// Spec: RFC 7515 appendix F: the signature is a JWS with detached content.
package bootstraptoken
