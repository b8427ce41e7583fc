// Package defaults fills in what an author left out, as upstream's versioned
// defaults do: an object that is applied and read back must look the same on
// both servers, or kubectl diff shows changes that nobody made.
//
// A default belongs to a type, not to a kind: a Probe has a period of ten
// seconds wherever it stands. So the package is a table from Go type to a
// small func (core.go, volumes.go, workloads.go, policy.go), and one walk
// (walk.go) that visits an object from the outside in and applies the func of
// every type it meets:
//
//	Deployment ── rule: replicas 1, strategy RollingUpdate 25%
//	  └ PodSpec ── rule: dnsPolicy, restartPolicy, grace period …
//	      └ Container ── rule: imagePullPolicy from the tag …
//	          └ Probe ── rule: every 10 s, 1 s each, 3 failures
//
// Beside true defaults the table holds what upstream's conversion between
// versions changes on the way through its internal types: a Secret's
// stringData becomes data, a pod's serviceAccount follows serviceAccountName.
//
// Nothing here needs anything but the object. What depends on the cluster (a
// service account, a cluster IP, a default storage class) is admission's.
package defaults
