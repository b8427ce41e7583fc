// Package extensions has the nouns by which an API server is extended while it
// runs, and which k8s.io/api does not carry:
//
//	CustomResourceDefinition   a kind that this server shall store and serve
//	APIService                 a group and version that another server serves
//
// Field names, tags and markers are upstream's wire format; everything else is
// written here. Nothing in this package does I/O: the API server makes rows of
// the one and a proxy of the other.
//
// Start reading at CustomResourceDefinition, then JSONSchemaProps.
package extensions
