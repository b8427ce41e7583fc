// Package certificates answers CertificateSigningRequests, in three loops that
// know nothing of each other:
//
//	approving   is the one who asks allowed to have what it asks for?
//	            Only kubelets' client certificates are decided here, by asking
//	            the API server; all others wait for a person.
//	signing     an approved request gets its certificate from the signer's CA
//	cleaning    requests that led to nothing, or long ago to something, go
//
// What may be signed is decided by the request's signer name, not by the one
// who approved: a certificate for serving is never one for a client.
//
// Start reading at approve.go.
package certificates
