// Package serviceaccounttoken fills Secrets of type
// kubernetes.io/service-account-token: the token of the account that the
// Secret's annotation names, the cluster's CA and the namespace.
//
// Such tokens do not expire. Pods have not used them for years: they get bound
// tokens from the kubelet. What is left are programs outside of the cluster
// for which someone makes such a Secret by hand.
//
// It deletes the Secret when its account is gone, which is how the token is
// taken back.
package serviceaccounttoken
