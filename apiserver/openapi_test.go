package apiserver

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	openapiv2 "github.com/google/gnostic-models/openapiv2"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
	"tinykube/internal/reference"
)

// fetch asks for an OpenAPI document and unpacks it.
func fetch(t *testing.T, o *openAPI, url, accept string) []byte {
	t.Helper()
	r := httptest.NewRequest("GET", url, nil)
	r.Header.Set("Accept", accept)
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d", url, w.Code)
	}
	if _, _, err := mime.ParseMediaType(w.Header().Get("Content-Type")); err != nil {
		t.Fatalf("GET %s: no client understands the content type %q: %v", url, w.Header().Get("Content-Type"), err)
	}
	z, err := gzip.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// document is what the comparison looks at.
type document struct {
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas map[string]map[string]any
	}
}

func (d document) operations(t *testing.T) map[string]any {
	t.Helper()
	out := map[string]any{}
	for path, item := range d.Paths {
		var shared []struct{ Name string }
		json.Unmarshal(item["parameters"], &shared)
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var op struct {
				OperationID string
				Tags        []string
				Action      string                   `json:"x-kubernetes-action"`
				Kind        *metav1.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
				Parameters  []struct{ Name string }
				RequestBody struct{ Content map[string]any }
				Responses   map[string]struct {
					Content map[string]struct {
						Schema struct {
							Ref string `json:"$ref"`
						}
					}
				}
			}
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			var names, codes, media []string
			for _, p := range append(op.Parameters, shared...) {
				names = append(names, p.Name)
			}
			for code, response := range op.Responses {
				codes = append(codes, code+" "+response.Content["application/json"].Schema.Ref)
			}
			for m := range op.RequestBody.Content {
				media = append(media, m)
			}
			slices.Sort(names)
			slices.Sort(codes)
			slices.Sort(media)
			out[method+" "+path] = map[string]any{
				"id": op.OperationID, "tags": op.Tags, "action": op.Action, "kind": op.Kind,
				"parameters": names, "codes": codes, "body": media,
			}
		}
	}
	return out
}

// otherOperations are upstream's operations that we leave out.
func otherOperations(path string) bool {
	return strings.Contains(path, "/watch/") || // the old way to watch, long deprecated
		strings.Contains(path, "/proxy") || // any path, any method: nothing to describe
		strings.Contains(path, "componentstatuses")
}

func TestOperationsEqualUpstream(t *testing.T) {
	o := newOpenAPI(resources.All())
	for path := range o.v3 {
		file := filepath.Join(reference.Path(t, "golden/openapi-v3"), strings.ReplaceAll(path, "/", "__")+"_openapi.json")
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// Neither CBOR, which is alpha, nor sharded lists are ours.
		data = bytes.ReplaceAll(data, []byte(`"name": "shardSelector"`), []byte(`"name": ""`))
		var want, got document
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(fetch(t, o, "/openapi/v3/"+path, "application/json"), &got); err != nil {
			t.Fatal(err)
		}
		wanted, gotten := want.operations(t), got.operations(t)
		for name := range wanted {
			if otherOperations(name) {
				delete(wanted, name)
			}
		}
		for name := range gotten {
			if otherOperations(name) {
				delete(gotten, name)
			}
		}
		for _, op := range wanted {
			op := op.(map[string]any)
			unwanted := func(s string) bool { return s == "" || strings.Contains(s, "cbor") }
			op["parameters"] = slices.DeleteFunc(op["parameters"].([]string), unwanted)
			op["body"] = slices.DeleteFunc(op["body"].([]string), unwanted)
		}
		if diff := cmp.Diff(wanted, gotten); diff != "" {
			t.Errorf("%s (-upstream +ours):\n%s", path, diff)
		}
		for name := range got.Components.Schemas {
			if want.Components.Schemas[name] == nil {
				t.Errorf("%s: schema %s is not among upstream's", path, name)
			}
		}
	}
}

// TestDocumentsOfUpstream: what upstream has a document of, we have.
func TestDocumentsOfUpstream(t *testing.T) {
	leftOut := map[string]string{
		"logs":                           "files of the server's machine are nobody's business",
		"apis/internal.apiserver.k8s.io": "see omitted", "apis/storagemigration.k8s.io": "see omitted",
	}
	files, err := filepath.Glob(filepath.Join(reference.Path(t, "golden/openapi-v3"), "*_openapi.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	o := newOpenAPI(resources.All())
	for _, file := range files {
		path := strings.ReplaceAll(strings.TrimSuffix(filepath.Base(file), "_openapi.json"), "__", "/")
		if has := o.v3[path] != nil; has == (leftOut[path] != "") {
			t.Errorf("/openapi/v3/%s is there: %v", path, has)
		}
	}
}

func TestOpenAPIHashes(t *testing.T) {
	o := newOpenAPI(resources.All())
	var root struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(fetch(t, o, "/openapi/v3", "application/json"), &root); err != nil {
		t.Fatal(err)
	}
	url := root.Paths["apis/apps/v1"].ServerRelativeURL
	if !strings.HasPrefix(url, "/openapi/v3/apis/apps/v1?hash=") {
		t.Fatalf("apps/v1 is at %q", url)
	}
	fetch(t, o, url, "application/json")
	w := httptest.NewRecorder()
	o.ServeHTTP(w, httptest.NewRequest("GET", "/openapi/v3/apis/apps/v1?hash=OLD", nil))
	if w.Code != http.StatusMovedPermanently || w.Header().Get("Location") != url {
		t.Errorf("an old hash: got %d to %q", w.Code, w.Header().Get("Location"))
	}
}

func TestOpenAPIV2(t *testing.T) {
	o := newOpenAPI(resources.All())
	var parsed openapiv2.Document
	if err := proto.Unmarshal(fetch(t, o, "/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"), &parsed); err != nil {
		t.Fatal(err)
	}
	if len(parsed.Definitions.AdditionalProperties) < 400 {
		t.Errorf("only %d definitions", len(parsed.Definitions.AdditionalProperties))
	}
}

// TestTypeConverter merges nothing yet; it proves that the schemas are types
// that server-side apply understands.
func TestTypeConverter(t *testing.T) {
	converter, err := newOpenAPI(resources.All()).typeConverter()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range resources.All() {
		obj := row.New()
		row.Strategy.Default(obj)
		obj.GetObjectKind().SetGroupVersionKind(row.GVK())
		if _, err := converter.ObjectToTyped(obj); err != nil {
			t.Errorf("%s: %v", row.GVR(), err)
		}
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "a"}}}}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	if _, err := converter.ObjectToTyped(pod); err == nil {
		t.Error("two containers of one name are accepted: the list's key is lost")
	}
}

func BenchmarkOpenAPIRoot(b *testing.B) {
	for b.Loop() {
		o := newOpenAPI(resources.All())
		w := httptest.NewRecorder()
		o.ServeHTTP(w, httptest.NewRequest("GET", "/openapi/v3", nil))
	}
}

func BenchmarkTypeConverter(b *testing.B) {
	for b.Loop() {
		newOpenAPI(resources.All()).typeConverter()
	}
}
