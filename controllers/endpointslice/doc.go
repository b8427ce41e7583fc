// Package endpointslice says where a Service's traffic can go: which pods'
// addresses and ports, and in what condition each is.
//
//	Service (selector, ports) ─┐                 ┌▶ EndpointSlices, at most 100 addresses each
//	Pods (IP, ready, deleting) ┼▶ desired groups ┤
//	Nodes (zone) ──────────────┘                 └▶ Endpoints, the old form, one object
//
// Pods that resolve a Service's named ports to different numbers form
// different groups, since a slice has one list of ports. Slices that exist are
// changed as little as possible (pack.go): every proxy in the cluster hears of
// every slice that is written, so one pod's change should rewrite one slice,
// not reshuffle all.
//
// A pod that is being deleted stays in the slices as terminating, no longer
// ready but perhaps still serving, so that proxies can drain.
//
// It never looks at what a Service's address is, and no proxy's rules.
//
// Simplified: no topology hints, so a Service's trafficDistribution has no
// effect and traffic may leave its zone; and no slices for Endpoints objects
// that people write themselves (upstream's endpointslicemirroring), so Services
// without selector need slices, not Endpoints.
//
// Start reading at plan.go.
package endpointslice
