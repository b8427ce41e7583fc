// Package custom is what a CustomResourceDefinition means: pure functions from
// a definition, and from objects that follow it, to what the API server does.
//
//	a definition                              an object of its kind
//	  Complete, Check      (definition.go)      Schema.Prune     unknown fields go
//	  schema rules         (structural.go)      Schema.Default   missing ones come
//	  Names, Accept        (names.go)           Schema.Validate  what is wrong
//	  FromBeta: as etcd    (beta.go)            Path             a column's cell
//	   has it                                   ReadScale        its replicas
//
// A kind made at run time has no Go type. Its schema takes the type's place,
// and must therefore be structural: it says of each field, outside of any
// condition, what it is. That makes three things possible that decoding into
// a struct does for other kinds: dropping what is unknown, filling in
// defaults, and knowing how lists merge.
//
// What it refuses to do: rules in the Common Expression Language are kept and
// not evaluated, and conversion by webhook is refused; both are said to the
// author (see Unsupported).
//
// Start reading at Schema, then Compile.
package custom
