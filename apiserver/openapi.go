package apiserver

// OpenAPI tells clients the shape of every object and what can be done with
// it. kubectl explain prints it, kubectl apply asks it whether the server
// validates fields, and server-side apply merges by it.
//
//	/openapi/v3                      one entry per group and version, with a hash
//	/openapi/v3/apis/apps/v1?hash=…  that version's document, cacheable forever
//	/openapi/v2                      everything at once, for old clients
//
// A document is made when first asked for, and kept compressed.

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/schema"
)

// openAPI serves the documents of a set of rows.
type openAPI struct {
	rows []*resources.Row
	v3   map[string]func() *packed // path below /openapi/v3/ → document
	v2   func() *packedV2

	converter func() (managedfields.TypeConverter, error)
}

// packed is a compressed document and its hash.
type packed struct {
	gzipped []byte
	hash    string
}

func newOpenAPI(rows []*resources.Row) *openAPI {
	o := &openAPI{rows: rows, v3: map[string]func() *packed{}}
	groups := groupRows(rows)
	o.addSignposts(groups)
	for _, g := range groups {
		for _, v := range g.versions {
			path := strings.TrimPrefix(versionPath(g.name, v.name), "/")
			o.v3[path] = sync.OnceValue(func() *packed { return pack(documentV3(g.name, v)) })
		}
	}
	o.v2 = sync.OnceValue(func() *packedV2 { return packV2(rows) })
	o.converter = sync.OnceValues(o.makeTypeConverter)
	return o
}

// typeConverter returns what server-side apply needs to merge by schema.
func (o *openAPI) typeConverter() (managedfields.TypeConverter, error) { return o.converter() }

func (o *openAPI) makeTypeConverter() (managedfields.TypeConverter, error) {
	converter, err := managedfields.NewTypeConverter(componentsOf(o.rows), false)
	if err != nil {
		return nil, fmt.Errorf("make types of the OpenAPI schemas: %w", err)
	}
	return converter, nil
}

// ServeHTTP answers /openapi/v2, /openapi/v3 and what lies below.
func (o *openAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/openapi/"), "/")
	switch {
	case path == "v2":
		o.serveV2(w, r)
	case path == "v3":
		o.serveRoot(w, r)
	case o.v3[strings.TrimPrefix(path, "v3/")] != nil:
		o.serveVersion(w, r, strings.TrimPrefix(path, "v3/"))
	default:
		http.NotFound(w, r)
	}
}

// serveRoot lists the documents; the hash changes when the document does, so
// that a client keeps what it has and fetches only what is new.
func (o *openAPI) serveRoot(w http.ResponseWriter, r *http.Request) {
	type entry struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	paths := map[string]entry{}
	for path, document := range o.v3 {
		paths[path] = entry{"/openapi/v3/" + path + "?hash=" + document().hash}
	}
	servePacked(w, r, pack(map[string]any{"paths": paths}), "application/json")
}

func (o *openAPI) serveVersion(w http.ResponseWriter, r *http.Request, path string) {
	document := o.v3[path]()
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != document.hash {
			http.Redirect(w, r, "/openapi/v3/"+path+"?hash="+document.hash, http.StatusMovedPermanently)
			return
		}
		// Under its hash the document never changes.
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	servePacked(w, r, document, "application/json")
}

func servePacked(w http.ResponseWriter, r *http.Request, document *packed, contentType string) {
	etag := fmt.Sprintf("%q", document.hash)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", etag)
	w.Header().Set("Vary", "Accept-Encoding, Accept")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(document.gzipped)
		return
	}
	plain, err := gzip.NewReader(bytes.NewReader(document.gzipped))
	if err == nil {
		io.Copy(w, plain)
	}
}

// pack compresses one of our own documents.
func pack(document any) *packed {
	data, err := json.Marshal(document)
	if err != nil {
		panic(fmt.Sprintf("encode an OpenAPI document: %v", err))
	}
	return packBytes(data)
}

func packBytes(data []byte) *packed {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(data)
	z.Close()
	return &packed{gzipped: out.Bytes(), hash: fmt.Sprintf("%X", sha512.Sum512(data))}
}

// componentsOf derives the schemas of all bodies that rows can have.
func componentsOf(rows []*resources.Row) schema.Components {
	c := schema.Components{}
	kinds := map[*spec.Schema][]any{} // a type may be of several kinds
	add := func(obj any, group, version, kind string) {
		s := c[c.Add(reflect.TypeOf(obj).Elem())]
		for _, known := range kinds[s] {
			if known.(map[string]any)["group"] == group && known.(map[string]any)["version"] == version {
				return
			}
		}
		kinds[s] = append(kinds[s], map[string]any{"group": group, "version": version, "kind": kind})
	}
	for _, row := range rows {
		switch {
		case row.Custom != nil:
			addCustom(c, row)
		case row.NewList != nil:
			add(row.NewList(), row.Group, row.Version, row.Kind+"List")
			fallthrough
		default:
			add(row.New(), row.Group, row.Version, row.Kind)
		}
		for _, sub := range subresources(row) {
			body := subresourceBody(row, sub)
			if _, custom := body.(customModel); body != nil && !custom {
				gvk := subresourceKind(row, sub)
				add(body, gvk.Group, gvk.Version, gvk.Kind)
			}
		}
		if !row.Stored() {
			continue
		}
		for _, body := range sharedBodies {
			add(body.value, row.Group, row.Version, body.kind)
		}
	}
	for s, list := range kinds {
		s.AddExtension("x-kubernetes-group-version-kind", list)
	}
	return c
}
