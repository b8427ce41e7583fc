package apiserver

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// Whatever comes in, a request ends in an answer and never in a panic.

func rowsByPlural(f *testing.F) map[string]*resources.Row {
	f.Helper()
	rows := map[string]*resources.Row{}
	for _, row := range resources.All() {
		rows[row.Plural] = row
	}
	return rows
}

func fuzzRequest(row *resources.Row) *request {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	return &request{Request: r, w: &answer{ResponseWriter: httptest.NewRecorder()}, row: row, user: anonymous}
}

func FuzzDecode(f *testing.F) {
	rows := rowsByPlural(f)
	for _, media := range []string{storage.JSONMediaType, yamlMediaType, storage.ProtobufMediaType} {
		f.Add("pods", media, []byte(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"containers":[{"name":"c"}]}}`))
		f.Add("deployments", media, []byte("apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: 3}\n"))
		f.Add("configmaps", media, []byte("k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\x00"))
	}
	f.Fuzz(func(_ *testing.T, plural, media string, data []byte) {
		row := rows[plural]
		if row == nil {
			return
		}
		q, obj := fuzzRequest(row), row.New()
		if q.decodeAs(data, media, obj, row.GVK()) != nil {
			return
		}
		// What was accepted goes on to the rules of its kind.
		if row.Strategy.Default != nil {
			row.Strategy.Default(obj)
		}
		if row.Strategy.PrepareCreate != nil {
			row.Strategy.PrepareCreate(obj)
		}
		q.validateNew(obj)
	})
}

func FuzzPatch(f *testing.F) {
	rows := rowsByPlural(f)
	row := rows["deployments"]
	original := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"i"}]}}}}`)
	for _, kind := range []types.PatchType{types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType} {
		f.Add(string(kind), []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"}]}}}}`))
		f.Add(string(kind), []byte(`[{"op":"copy","from":"/spec","path":"/spec/x"}]`))
	}
	f.Fuzz(func(_ *testing.T, kind string, data []byte) {
		q := fuzzRequest(row)
		apply, err := q.patchFunc(types.PatchType(kind), data)
		if err == nil {
			apply(original)
		}
	})
}

func FuzzTarget(f *testing.F) {
	f.Add("GET", "/api/v1/namespaces/default/pods/web/log?fieldSelector=a%3Db")
	f.Add("DELETE", "/apis/apps/v1//x")
	f.Add("PATCH", "//")
	f.Fuzz(func(t *testing.T, method, path string) {
		if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " \r\n\x00") {
			return
		}
		r, err := http.NewRequest(method, path, nil)
		if err != nil {
			return
		}
		if got := parseTarget(r); got.isResource && got.resource == "" && got.name != "" {
			t.Errorf("%s %s is %+v", method, path, got)
		}
		formatOf(r, r.URL.Query(), false)
	})
}

func TestParseTarget(t *testing.T) {
	for _, test := range []struct {
		method, path string
		want         target
	}{
		{"GET", "/api/v1/pods", target{verb: "list", isResource: true, version: "v1", resource: "pods"}},
		{"GET", "/api/v1/namespaces", target{verb: "list", isResource: true, version: "v1", resource: "namespaces"}},
		{"GET", "/api/v1/namespaces/x", target{verb: "get", isResource: true, version: "v1", resource: "namespaces", namespace: "x", name: "x"}},
		{"PUT", "/api/v1/namespaces/x/finalize", target{verb: "update", isResource: true, version: "v1", resource: "namespaces", namespace: "x", name: "x", subresource: "finalize", rest: "/"}},
		{"DELETE", "/apis/apps/v1/namespaces/x/deployments", target{verb: "deletecollection", isResource: true, group: "apps", version: "v1", namespace: "x", resource: "deployments"}},
		{"GET", "/api/v1/namespaces/x/pods?watch=1&fieldSelector=metadata.name%3Dp", target{verb: "watch", isResource: true, version: "v1", namespace: "x", resource: "pods", name: "p"}},
		{"POST", "/api/v1/namespaces/x/pods/p/exec", target{verb: "create", isResource: true, version: "v1", namespace: "x", resource: "pods", name: "p", subresource: "exec", rest: "/"}},
		{"GET", "/api/v1/nodes/n/proxy/stats/summary", target{verb: "get", isResource: true, version: "v1", resource: "nodes", name: "n", subresource: "proxy", rest: "/stats/summary"}},
		{"GET", "/apis/apps", target{verb: "get"}},
		{"GET", "/healthz", target{verb: "get"}},
	} {
		r := httptest.NewRequest(test.method, test.path, nil)
		test.want.path = r.URL.Path
		got := parseTarget(r)
		got.fields = nil // shown by its name
		if got != test.want {
			t.Errorf("%s %s\ngot  %+v\nwant %+v", test.method, test.path, got, test.want)
		}
	}
}

// The seeded roles are upstream's, as far as they go.
func TestDefaultRolesParse(t *testing.T) {
	if len(nodeRules()) < 20 {
		t.Errorf("system:node has %d rules", len(nodeRules()))
	}
	seen := map[string]bool{}
	for _, obj := range defaultObjects() {
		key := strings.Join([]string{typeName(obj), obj.GetNamespace(), obj.GetName()}, "/")
		if seen[key] {
			t.Errorf("%s is there twice", key)
		}
		seen[key] = true
	}
}
