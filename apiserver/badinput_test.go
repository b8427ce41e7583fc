package apiserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
)

// api sends raw requests.
type api struct {
	*testing.T
	*client.Client
}

func newAPI(t *testing.T, config *client.Config) api {
	t.Helper()
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return api{t, c}
}

// send returns code and body, and the Status if it was an error.
func (a api) send(method, path, contentType, body string) (int, string, *metav1.Status) {
	a.Helper()
	path, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		a.Fatal(err)
	}
	request := client.Request{Method: method, Path: path, Query: values, ContentType: contentType}
	if body != "" {
		request.Body = []byte(body)
	}
	response, err := a.Do(a.Context(), request)
	if status, ok := err.(apierrors.APIStatus); ok {
		s := status.Status()
		return int(s.Code), s.Message, &s
	} else if err != nil {
		a.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		a.Fatal(err)
	}
	return response.StatusCode, string(data), nil
}

// ok sends a request that must succeed.
func (a api) ok(method, path, contentType, body string) map[string]any {
	a.Helper()
	code, text, status := a.send(method, path, contentType, body)
	if status != nil {
		a.Fatalf("%s %s: %d %s", method, path, code, text)
	}
	var out map[string]any
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		a.Fatalf("%s %s: %v in %s", method, path, err, text)
	}
	return out
}

const (
	asJSON      = "application/json"
	asYAML      = "application/yaml"
	asMerge     = "application/merge-patch+json"
	asJSONPatch = "application/json-patch+json"
	asStrategic = "application/strategic-merge-patch+json"
	asApply     = "application/apply-patch+yaml"
)

func TestBadInput(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	const maps = "/api/v1/namespaces/default/configmaps"
	const pods = "/api/v1/namespaces/default/pods"
	a.ok("POST", maps, asJSON, `{"metadata":{"name":"there"},"data":{"a":"b"}}`)
	a.ok("POST", "/api/v1/namespaces/default/serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	pod := func(spec string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":` + spec + `}`
	}
	operations := "[" + strings.Repeat(`{"op":"test","path":"/data/a","value":"b"},`, 10000) + `{"op":"test","path":"/data/a","value":"b"}]`
	for name, test := range map[string]struct {
		method, path, contentType, body string
		code                            int
		reason                          metav1.StatusReason
		message                         string // a part of it
		field                           string // of a cause
	}{
		"unknown field, strict": {"POST", pods + "?fieldValidation=Strict", asJSON, pod(`{"containers":[{"name":"a","image":"b"}],"foo":1}`),
			400, "BadRequest", `Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo"`, ""},
		"repeated field, strict": {"POST", maps + "?fieldValidation=Strict", asJSON, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":"1"},"data":{"y":"1"}}`,
			400, "BadRequest", `strict decoding error: duplicate field "data"`, ""},
		"repeated key in YAML, strict": {"POST", maps + "?fieldValidation=Strict", asYAML, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: '1'}\ndata: {y: '1'}\n",
			400, "BadRequest", `strict decoding error: yaml`, ""},
		"wrong type": {"POST", pods, asJSON, pod(`{"containers":[{"name":"a","image":7}]}`),
			400, "BadRequest", "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string", ""},
		"broken JSON":               {"POST", maps, asJSON, `{"metadata":`, 400, "BadRequest", "couldn't get version/kind; json parse error: unexpected end of JSON input", ""},
		"broken YAML":               {"POST", maps, asYAML, "metadata: {name: [", 400, "BadRequest", "yaml", ""},
		"broken protobuf":           {"POST", maps, "application/vnd.kubernetes.protobuf", "k8s\x00\xff\xff", 400, "BadRequest", "cannot be handled as a ConfigMap", ""},
		"not protobuf at all":       {"POST", maps, "application/vnd.kubernetes.protobuf", "{}", 400, "BadRequest", "protobuf", ""},
		"no body":                   {"POST", maps, asJSON, "", 400, "BadRequest", "unexpected end of JSON input (<empty>)", ""},
		"unknown media type":        {"POST", maps, "text/plain", "x", 415, "UnsupportedMediaType", "accepted media types include: application/json", ""},
		"unknown patch type":        {"PATCH", maps + "/there", asJSON, "{}", 415, "UnsupportedMediaType", "Unsupported Media Type", ""},
		"too large":                 {"POST", maps, asJSON, `{"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}}`, 413, "RequestEntityTooLarge", "limit is 3145728", ""},
		"bad name":                  {"POST", maps, asJSON, `{"metadata":{"name":"A_b"}}`, 422, "Invalid", `a lowercase RFC 1123 subdomain must consist of`, "metadata.name"},
		"no name":                   {"POST", maps, asJSON, `{}`, 422, "Invalid", "name or generateName is required", "metadata.name"},
		"bad label":                 {"POST", maps, asJSON, `{"metadata":{"name":"a","labels":{"-":"x"}}}`, 422, "Invalid", "name part must consist of", "metadata.labels"},
		"missing field":             {"POST", pods, asJSON, pod(`{"containers":[]}`), 422, "Invalid", "Required value", "spec.containers"},
		"no such namespace":         {"POST", "/api/v1/namespaces/nowhere/configmaps", asJSON, `{"metadata":{"name":"a"}}`, 404, "NotFound", `namespaces "nowhere" not found`, ""},
		"other namespace":           {"POST", maps, asJSON, `{"metadata":{"name":"a","namespace":"kube-system"}}`, 400, "BadRequest", "does not match the namespace sent on the request", ""},
		"no namespace":              {"POST", "/api/v1/configmaps", asJSON, `{"metadata":{"name":"a"}}`, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource", ""},
		"other kind":                {"POST", maps, asJSON, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}`, 400, "BadRequest", "does not match the expected API version (v1, Kind=ConfigMap)", ""},
		"resourceVersion on create": {"POST", maps, asJSON, `{"metadata":{"name":"a","resourceVersion":"7"}}`, 500, "", "resourceVersion should not be set", ""},
		"exists":                    {"POST", maps, asJSON, `{"metadata":{"name":"there"}}`, 409, "AlreadyExists", `configmaps "there" already exists`, ""},
		"stale resourceVersion": {"PUT", maps + "/there", asJSON, `{"metadata":{"name":"there","resourceVersion":"1"}}`, 409, "Conflict",
			`Operation cannot be fulfilled on configmaps "there": the object has been modified; please apply your changes to the latest version and try again`, ""},
		"other UID":                       {"PUT", maps + "/there", asJSON, `{"metadata":{"name":"there","uid":"7"}}`, 409, "Conflict", "Precondition failed: UID in precondition: 7", ""},
		"create in the place of one":      {"POST", maps + "/there", asJSON, `{}`, 405, "MethodNotAllowed", "", ""},
		"update of a collection":          {"PUT", maps, asJSON, `{}`, 405, "MethodNotAllowed", "", ""},
		"other name":                      {"PUT", maps + "/there", asJSON, `{"metadata":{"name":"here"}}`, 400, "BadRequest", "the name of the object (here) does not match the name on the URL (there)", ""},
		"update of nothing":               {"PUT", maps + "/not", asJSON, `{"metadata":{"name":"not"}}`, 404, "NotFound", `configmaps "not" not found`, ""},
		"delete of nothing":               {"DELETE", maps + "/not", "", "", 404, "NotFound", `configmaps "not" not found`, ""},
		"delete of another":               {"DELETE", maps + "/there", asJSON, `{"preconditions":{"uid":"7"}}`, 409, "Conflict", "the UID in the precondition (7) does not match the UID in record", ""},
		"delete of the default namespace": {"DELETE", "/api/v1/namespaces/default", "", "", 403, "Forbidden", "this namespace may not be deleted", ""},
		"bad propagation":                 {"DELETE", maps + "/there", asJSON, `{"propagationPolicy":"Sideways"}`, 422, "Invalid", `DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy`, ""},
		"broken patch":                    {"PATCH", maps + "/there", asMerge, `{`, 400, "BadRequest", "error decoding patch", ""},
		"patch is a list":                 {"PATCH", maps + "/there", asStrategic, `[]`, 400, "BadRequest", "cannot unmarshal array", ""},
		"patch test fails":                {"PATCH", maps + "/there", asJSONPatch, `[{"op":"test","path":"/data/a","value":"c"}]`, 422, "Invalid", "the server rejected our request due to an error in our request", ""},
		"patch with too many operations":  {"PATCH", maps + "/there", asJSONPatch, operations, 413, "RequestEntityTooLarge", "The allowed maximum operations in a JSON patch is 10000, got 10001", ""},
		"patch that copies without end":   {"PATCH", maps + "/there", asJSONPatch, copies(), 422, "Invalid", "the server rejected our request due to an error in our request", ""},
		"a YAML bomb to apply":            {"PATCH", maps + "/there?fieldManager=x", asApply, bomb(), 400, "BadRequest", "excessive aliasing", ""},
		"deep YAML":                       {"POST", maps, asYAML, "metadata: {name: a}\nx: " + strings.Repeat("[", 100000) + strings.Repeat("]", 100000), 400, "BadRequest", "exceeded max depth", ""},
		"deep patch":                      {"PATCH", maps + "/there", asMerge, `{"data":` + strings.Repeat(`{"a":`, 100000) + "1" + strings.Repeat("}", 100001), 400, "BadRequest", "exceeded max depth", ""},
		"patch to a wrong type":           {"PATCH", maps + "/there", asMerge, `{"data":{"a":7}}`, 422, "Invalid", "cannot unmarshal number", "patch"},
		"patch with a stale version":      {"PATCH", maps + "/there", asMerge, `{"metadata":{"resourceVersion":"1"}}`, 409, "Conflict", "the object has been modified", ""},
		"patch of the name":               {"PATCH", maps + "/there", asMerge, `{"metadata":{"name":"x"}}`, 400, "BadRequest", "does not match the name on the URL", ""},
		"apply without manager":           {"PATCH", maps + "/there", asApply, "apiVersion: v1\nkind: ConfigMap\n", 422, "Invalid", "fieldManager: Required value: is required for apply patch", ""},
		"apply of another kind":           {"PATCH", maps + "/there?fieldManager=x", asApply, "apiVersion: v1\nkind: Secret\n", 400, "BadRequest", "invalid object type: /v1, Kind=Secret", ""},
		"bad label selector":              {"GET", maps + "?labelSelector=a+in+b", "", "", 400, "BadRequest", "unable to parse requirement", ""},
		"bad field selector":              {"GET", maps + "?fieldSelector=spec.x%3D1", "", "", 400, "BadRequest", `"spec.x" is not a known field selector`, ""},
		"bad limit":                       {"GET", maps + "?limit=many", "", "", 400, "BadRequest", "many", ""},
		"bad continue":                    {"GET", maps + "?continue=xyz", "", "", 400, "BadRequest", "continue key is not valid", ""},
		"match without version":           {"GET", maps + "?resourceVersionMatch=Exact", "", "", 422, "Invalid", "resourceVersionMatch is forbidden unless resourceVersion is provided", "resourceVersionMatch"},
		"bad resourceVersion":             {"GET", maps + "?resourceVersion=new", "", "", 400, "BadRequest", "new", ""},
		"bad dry run":                     {"POST", maps + "?dryRun=Some", asJSON, `{}`, 422, "Invalid", `CreateOptions.meta.k8s.io "" is invalid: dryRun`, ""},
		"bad field validation":            {"POST", maps + "?fieldValidation=Some", asJSON, `{}`, 422, "Invalid", "fieldValidation", ""},
		"no such resource":                {"GET", "/api/v1/namespaces/default/widgets", "", "", 404, "NotFound", "the server could not find the requested resource", ""},
		"no such subresource":             {"GET", maps + "/there/status", "", "", 404, "NotFound", "the server could not find the requested resource", ""},
		"no such verb":                    {"POST", "/api/v1/namespaces/default/pods/p/log", asJSON, "{}", 405, "MethodNotAllowed", "", ""},
		"negative scale":                  {"PATCH", "/apis/apps/v1/namespaces/default/deployments/d/scale", asMerge, `{"spec":{"replicas":-1}}`, 422, "Invalid", "must be greater than or equal to 0", "spec.replicas"},
		"unknown service account":         {"POST", pods, asJSON, pod(`{"serviceAccountName":"who","containers":[{"name":"a","image":"b"}]}`), 403, "Forbidden", `serviceaccount "who" not found`, ""},
		"unknown priority class":          {"POST", pods, asJSON, pod(`{"priorityClassName":"who","containers":[{"name":"a","image":"b"}]}`), 403, "Forbidden", "no PriorityClass with name who was found", ""},
		"bind to a node of nobody":        {"POST", pods + "/none/binding", asJSON, `{"target":{"kind":"Node","name":"n"}}`, 404, "NotFound", `pods "none" not found`, ""},
		"token for a short time":          {"POST", "/api/v1/namespaces/default/serviceaccounts/default/token", asJSON, `{"spec":{"expirationSeconds":5}}`, 422, "Invalid", "may not specify a duration less than 10 minutes", "spec.expirationSeconds"},
		"a YAML bomb":                     {"POST", maps, asYAML, bomb(), 400, "BadRequest", "", ""},
		"deep JSON":                       {"POST", maps, asJSON, `{"metadata":{"name":"a"},"x":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, 400, "BadRequest", "exceeded max depth", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "negative scale" {
				a.ok("POST", "/apis/apps/v1/namespaces/default/deployments", asJSON,
					`{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"a","image":"b"}]}}}}`)
			}
			code, message, status := a.send(test.method, test.path, test.contentType, test.body)
			if status == nil {
				t.Fatalf("it was accepted: %d %s", code, message)
			}
			if code != test.code || status.Reason != test.reason || !strings.Contains(message, test.message) {
				t.Errorf("%d %s: %.300s\nwant %d %s: %s", code, status.Reason, message, test.code, test.reason, test.message)
			}
			if test.field == "" {
				return
			}
			var fields []string
			if status.Details != nil {
				for _, cause := range status.Details.Causes {
					fields = append(fields, cause.Field)
				}
			}
			if !strings.Contains(strings.Join(fields, " "), test.field) {
				t.Errorf("causes name %q, want %q", fields, test.field)
			}
		})
	}
}

// copies is a JSON patch that doubles an object forty times.
func copies() string {
	operations := []string{`{"op":"add","path":"/data/x","value":{"a":"` + strings.Repeat("x", 1000) + `"}}`}
	for i := range 40 {
		operations = append(operations, fmt.Sprintf(`{"op":"copy","from":"/data/x","path":"/data/x/b%d"}`, i))
	}
	return "[" + strings.Join(operations, ",") + "]"
}

// bomb is a YAML document that grows tenfold with every line.
func bomb() string {
	var out bytes.Buffer
	out.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range 9 {
		prev, next := string(rune('0'+i)), string(rune('1'+i))
		out.WriteString("a" + next + ": &a" + next + " [" + strings.TrimSuffix(strings.Repeat("*a"+prev+",", 10), ",") + "]\n")
	}
	return out.String()
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	response, err := a.Do(t.Context(), client.Request{
		Method: http.MethodPost, Path: "/api/v1/namespaces/default/configmaps",
		Body: []byte(`{"metadata":{"name":"a"},"colour":"\"red\""}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got, want := response.Header.Get("Warning"), `299 - "unknown field \"colour\""`; got != want {
		t.Errorf("Warning: %s, want %s", got, want)
	}
}
