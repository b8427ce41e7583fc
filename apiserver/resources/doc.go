// Package resources is the table of everything the API server serves: one
// declarative Row per resource. Adding a kind adds a row, never a handler; the
// handlers in the parent package are written once against Row.
//
// What happens to an object on its way in, and whose turn it is:
//
//	decode                          the parent package
//	 → Strategy.Default             api/defaults, by Go type
//	 → Strategy.Prepare…            here: status is not the user's, spec is not
//	                                the controller's, generation counts
//	 → admission                    the parent package
//	 → Strategy.Validate…           api/validation
//	 → store at Prefix, in etcd     apiserver/storage
//
// and on its way out, for kubectl get: Columns and Cells.
//
// Start with row.go, then lifecycle.go, which says what most kinds do, then
// apps.go and pod.go. Rows lie in a file per API group; the cells_*.go files
// hold what is printed. Nothing here does I/O or knows of HTTP.
package resources
