package apiserver_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
	"tinykube/internal/testenv"
)

// kindsOfWire returns the objects of testdata/wire/09-kinds.txt, each with the
// path that it is posted to.
func kindsOfWire(t *testing.T) (out [][2]string) {
	t.Helper()
	data, err := os.ReadFile("testdata/wire/09-kinds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range parseConversation(string(data)) {
		head, body, _ := strings.Cut(strings.Join(e.request, "\n"), "\n\n")
		if path, post := strings.CutPrefix(head, "POST "); post && !strings.Contains(e.name, " its ") {
			out = append(out, [2]string{path, body})
		}
	}
	return out
}

// rowOfPath finds the row that a collection's path names.
func rowOfPath(path string) *resources.Row {
	for _, row := range resources.All() {
		prefix := "/api/" + row.Version
		if row.Group != "" {
			prefix = "/apis/" + row.Group + "/" + row.Version
		}
		rest, ours := strings.CutPrefix(path, prefix)
		if ours && (rest == "/"+row.Plural || rest == "/namespaces/k/"+row.Plural) {
			return row
		}
	}
	return nil
}

// Every kind is made from protobuf, and is the same in protobuf as in JSON:
// by itself and in a list.
func TestEveryKindInProtobuf(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	w := newWire(t, env, env.Config.Host)
	a := newAPI(t, env.Config)
	a.ok("POST", "/api/v1/namespaces", asJSON, `{"metadata":{"name":"k"}}`)
	a.ok("POST", "/api/v1/namespaces/k/serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	seen := 0
	for _, posted := range kindsOfWire(t) {
		path, body := posted[0], posted[1]
		row := rowOfPath(path)
		if row == nil || row.Kind == "Namespace" {
			continue
		}
		t.Run(row.Plural+"."+row.Group+"/"+row.Version, func(t *testing.T) {
			obj := row.New()
			if err := yaml.UnmarshalStrict([]byte(body), obj); err != nil {
				t.Fatal(err)
			}
			if obj.GetName() == "default" {
				return
			}
			seen++
			sent, err := storage.EncodeProtobuf(obj, row.GVK())
			if err != nil {
				t.Fatal(err)
			}
			made := row.New()
			w.protobuf(t, "POST", path, sent, made)
			one := path + "/" + obj.GetName()
			inProtobuf, inJSON := row.New(), row.New()
			eventually(t, "the server has written all that it has to say", func() bool {
				inProtobuf, inJSON = row.New(), row.New() // protobuf adds to what is there
				w.protobuf(t, "GET", one, nil, inProtobuf)
				text, err := json.Marshal(a.ok("GET", one, "", ""))
				if err != nil {
					t.Fatal(err)
				}
				if strict, err := kjson.UnmarshalStrict(text, inJSON); err != nil || len(strict) > 0 {
					t.Fatal(err, strict)
				}
				return inJSON.GetResourceVersion() == inProtobuf.GetResourceVersion()
			})
			if made.GetResourceVersion() != inProtobuf.GetResourceVersion() { // a status of the server's
				made = inProtobuf.DeepCopyObject().(resources.Object)
			}
			inJSON.GetObjectKind().SetGroupVersionKind(made.GetObjectKind().GroupVersionKind())
			for _, o := range []resources.Object{made, inProtobuf} {
				row.Strategy.Default(o) // protobuf has no kinds inside, as of claim templates
			}
			same(t, made, inProtobuf)
			same(t, inJSON, inProtobuf)
			list := row.NewList()
			w.protobuf(t, "GET", path+"?fieldSelector=metadata.name%3D"+obj.GetName(), nil, list)
			if text, _ := json.Marshal(list); !strings.Contains(string(text), string(inJSON.GetUID())) {
				t.Errorf("not in the list: %s", text)
			}
		})
	}
	if seen < 55 {
		t.Errorf("only %d kinds", seen)
	}
}

// same compares as JSON: protobuf does not tell an empty list from none.
func same(t *testing.T, want, got any) {
	t.Helper()
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if diff := cmp.Diff(string(a), string(b)); diff != "" {
		t.Error(diff)
	}
}

// protobuf sends and reads protobuf.
func (w *wire) protobuf(t *testing.T, method, path string, body []byte, into runtime.Object) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", storage.ProtobufMediaType)
	request.Header.Set("Content-Type", storage.ProtobufMediaType)
	response, err := w.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); got != storage.ProtobufMediaType {
		t.Fatalf("%s %s answers %d as %s: %s", method, path, response.StatusCode, got, data)
	}
	if response.StatusCode/100 != 2 {
		status := &metav1.Status{}
		_, err := storage.DecodeProtobuf(data, status)
		t.Fatalf("%s %s: %d %s %v", method, path, response.StatusCode, status.Message, err)
	}
	if _, err := storage.DecodeProtobuf(data, into); err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
}

// Who can unpack a large answer gets it packed, watches excepted.
func TestGzipForWhoAsks(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	a := newAPI(t, env.Config)
	const maps = "/api/v1/namespaces/default/configmaps"
	a.ok("POST", maps, asJSON, fmt.Sprintf(`{"metadata":{"name":"big"},"data":{"x":%q}}`, strings.Repeat("y", 200<<10)))
	w := newWire(t, env, env.Config.Host)
	for path, packed := range map[string]bool{maps: true, maps + "/big": true, "/api/v1/namespaces/default/secrets": false} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.host+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Accept-Encoding", "gzip")
		response, err := w.client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if got := response.Header.Get("Content-Encoding") == "gzip"; got != packed {
			t.Errorf("%s: packed is %v, want %v", path, got, packed)
			continue
		}
		if !packed {
			continue
		}
		z, err := gzip.NewReader(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		var out map[string]any
		if err := json.NewDecoder(z).Decode(&out); err != nil || out["metadata"] == nil {
			t.Errorf("%s: %v %v", path, err, out)
		}
	}
}
