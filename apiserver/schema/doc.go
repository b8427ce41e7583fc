// Package schema derives OpenAPI schemas from the Go types of the API.
//
// The types are the only description of the API that ships with the modules;
// there is no OpenAPI document beside them. Three places together say it all:
//
//	reflection   fields, JSON names, what is a list or a map, patch tags
//	SwaggerDoc   the text of each field
//	markers.txt  what only comments say: +listType, +listMapKey, +default,
//	             +optional; collected from the pinned sources by ./generate
//
// List types and map keys decide how server-side apply merges, so they have
// to be exactly right. The tests compare every schema with the documents that
// a real kube-apiserver serves; those documents are never an input.
//
// Schemas are made when first asked for and then kept: a server starts
// without paying for them.
package schema
