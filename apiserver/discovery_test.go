package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
	"tinykube/internal/reference"
)

// omitted lists what a real server has and we deliberately do not, each with
// its reason. A key is group/version or group/version/resource.
var omitted = map[string]string{
	"v1/componentstatuses":                  "deprecated since 1.19; a Lease or a health endpoint tells more",
	"resource.k8s.io/v1beta2":               "dynamic resource allocation has no driver here",
	"resource.k8s.io/v1beta1":               "dynamic resource allocation has no driver here",
	"resource.k8s.io/v1alpha3":              "dynamic resource allocation has no driver here",
	"internal.apiserver.k8s.io/v1alpha1":    "alpha, and internal to upstream's servers",
	"storagemigration.k8s.io/v1beta1":       "beta, off by default",
	"certificates.k8s.io/v1beta1":           "beta, off by default",
	"certificates.k8s.io/v1alpha1":          "alpha, off by default",
	"networking.k8s.io/v1beta1":             "same kinds as v1, off by default",
	"storage.k8s.io/v1beta1":                "same kind as v1, off by default",
	"admissionregistration.k8s.io/v1beta1":  "same kinds as v1, off by default",
	"admissionregistration.k8s.io/v1alpha1": "same kinds as v1, off by default",
	"scheduling.k8s.io/v1alpha2":            "alpha, off by default",
	"coordination.k8s.io/v1beta1":           "beta, off by default",
	"coordination.k8s.io/v1alpha2":          "alpha, off by default",
}

// get asks the discovery documents as a client would.
func get(t *testing.T, d *discovery, path, accept string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d", path, w.Code)
	}
	return w
}

func readGolden(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(reference.Path(t, "golden/discovery"), name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

func TestLegacyDiscoveryEqualsUpstream(t *testing.T) {
	d := newDiscovery(resources.All())
	files, err := filepath.Glob(filepath.Join(reference.Path(t, "golden/discovery"), "api*__v1*.json"))
	if err != nil {
		t.Fatal(err)
	}
	v2, _ := filepath.Glob(filepath.Join(reference.Path(t, "golden/discovery"), "api*__v2*.json"))
	for _, file := range append(files, v2...) {
		var want, got metav1.APIResourceList
		readGolden(t, filepath.Base(file), &want)
		if omitted[want.GroupVersion] != "" {
			continue
		}
		path := "/apis/" + want.GroupVersion
		if want.GroupVersion == "v1" {
			path = "/api/v1"
		}
		if err := json.Unmarshal(get(t, d, path, "application/json").Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		var kept []metav1.APIResource
		for _, r := range want.APIResources {
			if omitted[want.GroupVersion+"/"+r.Name] == "" {
				kept = append(kept, r)
			}
		}
		want.APIResources = kept
		for i, r := range want.APIResources {
			// Upstream 1.36 still stores these as v1beta1, for servers of 1.35
			// to read; we have no older self and store v1.
			if strings.HasPrefix(r.Name, "mutatingadmissionpolic") || r.Name == "customresourcedefinitions" {
				want.APIResources[i].StorageVersionHash = got.APIResources[i].StorageVersionHash
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs (-upstream +ours):\n%s", want.GroupVersion, diff)
		}
	}
}

func TestAggregatedDiscoveryEqualsUpstream(t *testing.T) {
	d := newDiscovery(resources.All())
	w := get(t, d, "/apis", aggregatedContentType("v2")+",application/json")
	if got := w.Header().Get("Content-Type"); got != aggregatedContentType("v2") {
		t.Errorf("Content-Type is %q; a client would read the answer as legacy discovery", got)
	}
	var want, got apidiscoveryv2.APIGroupDiscoveryList
	readGolden(t, "aggregated_v2.json", &want)
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	var kept []apidiscoveryv2.APIGroupDiscovery
	for _, g := range want.Items {
		var versions []apidiscoveryv2.APIVersionDiscovery
		for _, v := range g.Versions {
			if omitted[g.Name+"/"+v.Version] == "" {
				versions = append(versions, v)
			}
		}
		if g.Versions = versions; len(versions) > 0 {
			kept = append(kept, g)
		}
	}
	want.Items = kept
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("aggregated discovery differs (-upstream +ours):\n%s", diff)
	}
}

func TestDiscoveryAnswersByAcceptHeader(t *testing.T) {
	d := newDiscovery(resources.All())
	for accept, want := range map[string]string{
		"application/json": "application/json",
		"*/*":              "application/json",
		"application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json":      aggregatedContentType("v2"),
		"application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json": aggregatedContentType("v2beta1"),
		"application/json;g=apidiscovery.k8s.io;v=v9;as=APIGroupDiscoveryList,application/json":      "application/json",
		"application/json,application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList":      "application/json",
	} {
		if got := get(t, d, "/api", accept).Header().Get("Content-Type"); got != want {
			t.Errorf("Accept %q: got %q, want %q", accept, got, want)
		}
	}
}

func TestDiscoveryETag(t *testing.T) {
	d := newDiscovery(resources.All())
	accept := aggregatedContentType("v2")
	etag := get(t, d, "/apis", accept).Header().Get("Etag")
	if !strings.HasPrefix(etag, `"`) {
		t.Fatalf("Etag %q is not quoted", etag)
	}
	r := httptest.NewRequest("GET", "/apis", nil)
	r.Header.Set("Accept", accept)
	r.Header.Set("If-None-Match", etag)
	w := httptest.NewRecorder()
	d.ServeHTTP(w, r)
	if w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("same ETag: got %d with %d bytes, want 304 and none", w.Code, w.Body.Len())
	}
}
