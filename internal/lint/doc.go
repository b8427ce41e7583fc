// Package lint keeps the project's own rules, as Go tests: what may import what, that files are formatted and of a size
// to be read, and that what the documents cite exists.
//
//	source tree ──Load──▶ []File ──┬─ imports_test.go who may import whom, each rule with its reason
//	 (imports and comments only)   ├─ anchors_test.go {code:internal/lint/anchors_test.go#Resolve} names something that exists
//	                               ├─ docs_test.go    what chapters show is what runs; links lead somewhere
//	                               └─ sizes_test.go   lines of each folder beside its budget; long files
//
// A rule here is an absence that the architecture promises: the scheduler never talks to etcd because nothing under
// scheduler/ can import a client for it. Reading the tree takes parsing, not compiling, so all of it runs in about a
// second.
//
// What a compiler or a type checker knows (unused code, wrong formats, suspicious constructs) is left to go vet and
// staticcheck, which `make lint` runs.
//
// Start reading at importRules.
package lint
