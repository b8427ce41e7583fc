// Package validation says what is wrong with an object, with upstream's field
// paths, reasons and messages, so that what a user reads, searches for and
// scripts against is the same on both servers.
//
// Two rules decide what is in here:
//
//   - What users get wrong first comes first: names, labels, ports, resources,
//     probes, volumes and their mounts, selectors, fields that cannot change.
//   - Nothing is refused that upstream accepts. Where a check of ours is
//     weaker than upstream's, it is weaker on the side of accepting.
//
// An object arrives here after its defaults (api/defaults): an empty field
// that has a default is an error. Metadata common to all kinds is checked by
// the API server itself; a kind's naming rule is in names.go.
//
//	Pod, PodUpdate          one func per kind for a new object
//	Deployment, …Update     and one for a change, which includes the first
//
// Nothing here does I/O, and nothing changes its argument.
//
// Upstream: kubernetes@v1.36 pkg/apis/*/validation/validation.go
package validation
