// Package podsecurity judges pods by the Pod Security Standards: how much of a
// machine a pod may ask for.
//
//	privileged   anything
//	baseline     nothing that breaks out of a container by itself
//	restricted   what hardening guides recommend, said out loud in the pod
//
// A namespace's labels say which level counts there, and in which of three ways:
//
//	pod-security.kubernetes.io/enforce: restricted       a pod that violates it is refused
//	pod-security.kubernetes.io/enforce-version: v1.30    … as the level was in 1.30
//	pod-security.kubernetes.io/warn: restricted          the client is warned
//	pod-security.kubernetes.io/audit: restricted         the audit log remembers
//
// A check is a row of a table (checks.go) and a function over the pod. It is
// pure: it neither changes the pod nor looks at anything else.
//
// Spec: Kubernetes, "Pod Security Standards".
// Upstream: k8s.io/pod-security-admission@v0.36 policy
package podsecurity
