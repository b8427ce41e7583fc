package apiserver

// Discovery is how a client that was compiled before the server learns what
// the server has. There are two dialects:
//
//	legacy      /api, /apis, then one GET for every group and version
//	aggregated  everything below /api and /apis in one document each, asked
//	            for by parameters of the Accept header
//
// Both are made from the rows once and served as bytes; the aggregated ones
// with an ETag, because kubectl asks for them again and again.

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// discovery holds the finished documents.
type discovery struct {
	legacy     map[string][]byte             // path → document
	aggregated map[string]map[string]*tagged // "/api" or "/apis" → version → document
}

// tagged is a document with its entity tag.
type tagged struct {
	body []byte
	etag string
}

// defaultVerbs is what a row without verbs of its own can do.
var defaultVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// newDiscovery makes the documents for rows. Groups and versions are listed in
// the order in which they first appear; a group's first version is preferred.
func newDiscovery(rows []*resources.Row) *discovery {
	d := &discovery{legacy: map[string][]byte{}, aggregated: map[string]map[string]*tagged{}}
	groups := groupRows(rows)
	var named []*groupOfRows
	for _, g := range groups {
		for _, v := range g.versions {
			d.legacy[versionPath(g.name, v.name)] = marshal(legacyResources(g.name, v))
		}
		if g.name == "" {
			d.aggregate("/api", []*groupOfRows{g})
			continue
		}
		named = append(named, g)
		group := legacyGroup(g)
		group.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
		d.legacy["/apis/"+g.name] = marshal(group)
	}
	d.aggregate("/apis", named)
	list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for _, g := range named {
		list.Groups = append(list.Groups, legacyGroup(g))
	}
	d.legacy["/apis"] = marshal(list)
	d.legacy["/api"] = nil // made per request: it names the server's address
	return d
}

// ServeHTTP answers /api, /apis and below, with or without a slash at the end.
func (d *discovery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	w.Header().Set("Vary", "Accept")
	if documents, ok := d.aggregated[path]; ok {
		if version := aggregatedVersion(r.Header.Get("Accept")); version != "" {
			serveTagged(w, r, documents[version], aggregatedContentType(version))
			return
		}
	}
	body, ok := d.legacy[path]
	if !ok {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	if path == "/api" {
		body = marshal(legacyVersions(r))
	}
	w.Header().Set("Content-Type", "application/json")
	if wantsPretty(r, r.URL.Query()) {
		var out bytes.Buffer
		if json.Indent(&out, body, "", "  ") == nil {
			body = append(bytes.TrimRight(out.Bytes(), "\n"), '\n')
		}
	}
	w.Write(body)
}

// aggregatedVersion returns the aggregated discovery version that the client
// prefers, or "" if it would rather have the legacy form.
func aggregatedVersion(accept string) string {
	for clause := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil || media != "application/json" {
			continue
		}
		if params["g"] == "apidiscovery.k8s.io" && params["as"] == "APIGroupDiscoveryList" {
			if params["v"] == "v2" || params["v"] == "v2beta1" {
				return params["v"]
			}
			continue
		}
		if params["as"] == "" {
			return ""
		}
	}
	return ""
}

// aggregatedContentType repeats the parameters of the request: a client takes
// an answer without them for the legacy form.
func aggregatedContentType(version string) string {
	return "application/json;g=apidiscovery.k8s.io;v=" + version + ";as=APIGroupDiscoveryList"
}

func serveTagged(w http.ResponseWriter, r *http.Request, document *tagged, contentType string) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", document.etag)
	w.Header().Set("Cache-Control", "public")
	if r.Header.Get("If-None-Match") == document.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Write(document.body)
}

func (d *discovery) aggregate(path string, groups []*groupOfRows) {
	list := apidiscoveryv2.APIGroupDiscoveryList{Items: []apidiscoveryv2.APIGroupDiscovery{}}
	for _, g := range groups {
		list.Items = append(list.Items, aggregatedGroup(g))
	}
	d.aggregated[path] = map[string]*tagged{}
	for _, version := range []string{"v2", "v2beta1"} {
		list.TypeMeta = metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/" + version}
		body := marshal(list)
		d.aggregated[path][version] = &tagged{body: body, etag: fmt.Sprintf("%q", fmt.Sprintf("%X", sha512.Sum512(body)))}
	}
}

func aggregatedGroup(g *groupOfRows) apidiscoveryv2.APIGroupDiscovery {
	out := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.name}}
	for _, v := range g.versions {
		version := apidiscoveryv2.APIVersionDiscovery{Version: v.name, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
		if v.stale {
			version.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
		}
		for _, row := range v.rows {
			version.Resources = append(version.Resources, aggregatedResource(row))
		}
		out.Versions = append(out.Versions, version)
	}
	return out
}

func aggregatedResource(row *resources.Row) apidiscoveryv2.APIResourceDiscovery {
	out := apidiscoveryv2.APIResourceDiscovery{
		Resource:         row.Plural,
		ResponseKind:     &metav1.GroupVersionKind{Kind: row.Kind},
		Scope:            apidiscoveryv2.ScopeCluster,
		SingularResource: row.Singular,
		Verbs:            verbs(row),
		ShortNames:       row.ShortNames,
		Categories:       row.Categories,
	}
	if row.Namespaced {
		out.Scope = apidiscoveryv2.ScopeNamespace
	}
	for _, sub := range subresources(row) {
		out.Subresources = append(out.Subresources, apidiscoveryv2.APISubresourceDiscovery{
			Subresource:  sub.Name,
			ResponseKind: &metav1.GroupVersionKind{Group: sub.Group, Version: sub.Version, Kind: sub.Kind},
			Verbs:        sub.Verbs,
		})
	}
	return out
}

func legacyResources(group string, v *versionOfRows) metav1.APIResourceList {
	out := metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: strings.TrimPrefix(group+"/"+v.name, "/"),
	}
	if group == "" {
		out.APIVersion = "" // upstream's legacy group has always left it out
	}
	for _, row := range v.rows {
		resource := metav1.APIResource{
			Name: row.Plural, SingularName: row.Singular, Namespaced: row.Namespaced, Kind: row.Kind,
			Verbs: verbs(row), ShortNames: row.ShortNames, Categories: row.Categories,
		}
		if row.Stored() {
			resource.StorageVersionHash = storageVersionHash(row)
		}
		out.APIResources = append(out.APIResources, resource)
		for _, sub := range subresources(row) {
			out.APIResources = append(out.APIResources, metav1.APIResource{
				Name: row.Plural + "/" + sub.Name, Namespaced: row.Namespaced,
				Group: sub.Group, Version: sub.Version, Kind: sub.Kind, Verbs: sub.Verbs,
			})
		}
	}
	return out
}

func legacyGroup(g *groupOfRows) metav1.APIGroup {
	out := metav1.APIGroup{Name: g.name}
	for _, v := range g.versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: g.name + "/" + v.name, Version: v.name})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

func legacyVersions(r *http.Request) metav1.APIVersions {
	out := metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
	if address, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		out.ServerAddressByClientCIDRs = []metav1.ServerAddressByClientCIDR{
			{ClientCIDR: "0.0.0.0/0", ServerAddress: address.String()},
		}
	}
	return out
}

// storageVersionHash lets a client see that the stored form of a kind changed.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/endpoints/discovery/storageversionhash.go
func storageVersionHash(row *resources.Row) string {
	group, version := row.Group, row.Version
	if row.StoredAs != nil {
		group, version = row.StoredAs.Group, row.StoredAs.Version
	}
	sum := sha256.Sum256([]byte(group + "/" + version + "/" + row.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

func verbs(row *resources.Row) []string {
	if row.Verbs != nil {
		return row.Verbs
	}
	return defaultVerbs
}

// subresources lists a row's subresources by name, status and scale included.
func subresources(row *resources.Row) []resources.Subresource {
	out := slices.Clone(row.Subresources)
	update := []string{"get", "patch", "update"}
	if row.Status {
		out = append(out, resources.Subresource{Name: "status", Kind: row.Kind, Verbs: update})
	}
	if row.Scale != nil {
		out = append(out, resources.Subresource{Name: "scale", Group: "autoscaling", Version: "v1", Kind: "Scale", Verbs: update})
	}
	if row.Custom == nil { // there, status comes first
		slices.SortFunc(out, func(a, b resources.Subresource) int { return strings.Compare(a.Name, b.Name) })
	}
	return out
}

// groupOfRows and versionOfRows arrange the flat table for listing.
type groupOfRows struct {
	name     string
	versions []*versionOfRows
}

type versionOfRows struct {
	name  string
	rows  []*resources.Row
	stale bool // what it has could not be asked
}

func groupRows(rows []*resources.Row) []*groupOfRows {
	var groups []*groupOfRows
	for _, row := range rows {
		i := slices.IndexFunc(groups, func(g *groupOfRows) bool { return g.name == row.Group })
		if i < 0 {
			i = len(groups)
			groups = append(groups, &groupOfRows{name: row.Group})
		}
		g := groups[i]
		j := slices.IndexFunc(g.versions, func(v *versionOfRows) bool { return v.name == row.Version })
		if j < 0 {
			j = len(g.versions)
			g.versions = append(g.versions, &versionOfRows{name: row.Version})
		}
		if row.Plural == "" { // a server that does not answer: there is such a version, and no more is known
			g.versions[j].stale = true
			continue
		}
		g.versions[j].rows = append(g.versions[j].rows, row)
	}
	for _, g := range groups {
		for _, v := range g.versions {
			slices.SortFunc(v.rows, func(a, b *resources.Row) int { return strings.Compare(a.Plural, b.Plural) })
		}
	}
	return groups
}

// versionPath is where a group's version is served.
func versionPath(group, version string) string {
	if group == "" {
		return "/api/" + version
	}
	return "/apis/" + group + "/" + version
}

// marshal encodes one of our own documents, which cannot fail.
func marshal(document any) []byte {
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(document); err != nil {
		panic(fmt.Sprintf("encode a discovery document: %v", err))
	}
	return out.Bytes()
}
