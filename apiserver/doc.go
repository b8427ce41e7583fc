// Package apiserver serves the Kubernetes API: the one program that talks to
// etcd, and the one meeting place of all others.
//
//	kubectl, scheduler, controllers, kubelets, proxies, …
//	       │ HTTPS: JSON, protobuf, YAML; watch; WebSocket and SPDY for exec
//	       ▼
//	request.go   who is it? → may they? → is there room? → what is it about?
//	             authn.go      authz.go    flows.go         target.go, routes.go
//	       │
//	       ├─ read.go, stream.go   GET, LIST, WATCH: bytes that exist already
//	       ├─ write.go, patch.go,  decode → default → prepare → admit → validate
//	       │  fields.go, delete.go   → allocate → store → encode
//	       ├─ kubelet.go, proxy.go logs, exec, attach, port-forward, proxies: passed through
//	       ├─ aggregate.go         whole groups, served by somebody else
//	       ├─ reviews.go, pods.go  questions and commands in the form of objects
//	       └─ discovery.go, openapi.go, table.go   what there is, and how to show it
//	       ▼
//	storage      a watch cache per resource, over etcd
//
// # Rows, not handlers
//
// Nothing here knows a Deployment from a ConfigMap. A resource is a row
// (package resources): names, Go type, what a write does to it, how to print
// it. The handlers are written once against rows, so that a new kind is a new
// row. What is special about a kind and cannot be said in a row has a file of
// its own and is found by name in restMap (routes.go): binding a pod, reviewing
// a token, the address of a Service (services.go).
//
// Rows also come while the server runs: a CustomResourceDefinition is made into
// rows (definitions.go, rows.go, package custom), and then nothing tells them
// from the others.
//
// # What it does of its own accord
//
// Very little (housekeeping.go): the namespaces and roles that every cluster
// has, the kubernetes Service with its endpoints, and the records of allocated
// addresses. Everything else is somebody else's controller, and reaches this
// server by the same door as everybody.
//
// # What it refuses to do
//
// It calls nobody on its own account: a kubelet, a node, pod or Service, or the
// server behind an APIService hears from it only what somebody asked for. It
// keeps no state in memory that etcd does not have: it may be killed at any
// instruction and started anywhere, or run twice.
//
// # Stand-ins
//
// Where a comment says "Simplified:", the comment says what is missing. The
// largest: there are no webhooks and no rules in CEL.
//
// Start reading at Server.serve in request.go, then createObject in write.go.
package apiserver
