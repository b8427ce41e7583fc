package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// What the API server of a whole cluster answers to nonsense: the right code
// and reason, and words that name the field.

// asker asks as somebody: an administrator, nobody, the bearer of a token.
type asker struct {
	client *http.Client
	base   string
	token  string
}

func ask(t *testing.T, change func(*rest.Config)) *asker {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "admin.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(config)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	client.Timeout = time.Minute
	return &asker{client: client, base: config.Host}
}

func nobody(c *rest.Config) { c.CertData, c.KeyData = nil, nil }

// do sends one request and returns the answer's code, body and, if it is one, Status.
func (a *asker) do(t *testing.T, method, path, contentType, body string) (*http.Response, string, metav1.Status) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, a.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	if a.token != "" {
		request.Header.Set("Authorization", "Bearer "+a.token)
	}
	response, err := a.client.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	var status metav1.Status
	_ = json.Unmarshal(raw, &status) // some answers are not one
	return response, string(raw), status
}

func TestBadInput(t *testing.T) {
	u := newUser(t, embedded())
	u.ok(`created`, "create", "configmap", "there", "--from-literal=a=b")
	admin := ask(t, nil)
	collection := "/api/v1/namespaces/" + u.namespace + "/configmaps"
	there, pods := collection+"/there", "/api/v1/namespaces/"+u.namespace+"/pods"
	const yaml, merge = "application/yaml", "application/merge-patch+json"
	configMap := func(more string) string {
		return `{"apiVersion":"v1","kind":"ConfigMap",` + more + `}`
	}
	pod := func(name, spec string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"` + name + `"},"spec":` + spec + `}`
	}
	for name, row := range map[string]struct {
		method, path, contentType, body string
		code                            int
		reason                          metav1.StatusReason
		message                         string
	}{
		"broken JSON":          {"POST", collection, "", `{"apiVersion":`, 400, "BadRequest", `unexpected (end|EOF)|couldn't get version/kind`},
		"not JSON at all":      {"POST", collection, "", `hello`, 400, "BadRequest", `.`},
		"nothing":              {"POST", collection, "", ``, 400, "BadRequest", `.`},
		"broken YAML":          {"POST", collection, yaml, "a: [", 400, "BadRequest", `yaml|couldn't get version/kind`},
		"wrong type":           {"POST", collection, "", configMap(`"metadata":{"name":"x"},"data":{"a":1}`), 400, "BadRequest", `data`},
		"wrong type of body":   {"POST", collection, "", `[]`, 400, "BadRequest", `.`},
		"another kind":         {"POST", collection, "", `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}`, 400, "BadRequest", `Secret.*ConfigMap|ConfigMap.*Secret`},
		"another version":      {"POST", collection, "", `{"apiVersion":"v7","kind":"ConfigMap","metadata":{"name":"x"}}`, 400, "BadRequest", `v7`},
		"unknown field":        {"POST", collection + "?fieldValidation=Strict", "", configMap(`"metadata":{"name":"x"},"dato":{}`), 400, "BadRequest", `strict decoding error: unknown field "dato"`},
		"field twice":          {"POST", collection + "?fieldValidation=Strict", "", configMap(`"metadata":{"name":"x"},"data":{},"data":{}`), 400, "BadRequest", `duplicate field "data"`},
		"unknown validation":   {"POST", collection + "?fieldValidation=Often", "", configMap(`"metadata":{"name":"x"}`), 422, "Invalid", `fieldValidation: (Invalid|Unsupported) value: "Often"`},
		"unknown dry run":      {"POST", collection + "?dryRun=Some", "", configMap(`"metadata":{"name":"x"}`), 422, "Invalid", `dryRun: Unsupported value: "Some"|dryRun: Unsupported value: \["Some"\]`},
		"name that is none":    {"POST", collection, "", configMap(`"metadata":{"name":"No Name"}`), 422, "Invalid", `metadata.name: Invalid value: "No Name": .*RFC 1123`},
		"no name":              {"POST", collection, "", configMap(`"metadata":{}`), 422, "Invalid", `name or generateName is required`},
		"long name":            {"POST", collection, "", configMap(`"metadata":{"name":"` + strings.Repeat("x", 300) + `"}`), 422, "Invalid", `must be no more than 253|Too long`},
		"bad label":            {"POST", collection, "", configMap(`"metadata":{"name":"x","labels":{"a b":"c"}}`), 422, "Invalid", `metadata.labels: Invalid value: "a b"`},
		"bad annotation":       {"POST", collection, "", configMap(`"metadata":{"name":"x","annotations":{"/":"c"}}`), 422, "Invalid", `metadata.annotations: Invalid value: "/"`},
		"bad key":              {"POST", collection, "", configMap(`"metadata":{"name":"x"},"data":{"a/b":"c"}`), 422, "Invalid", `data\[a/b\]: Invalid value`},
		"too much data":        {"POST", collection, "", configMap(`"metadata":{"name":"x"},"data":{"a":"` + strings.Repeat("x", 1<<20+1) + `"}`), 422, "Invalid", `Too long: may not be more than 1048576 bytes`},
		"oversized":            {"POST", collection, "", configMap(`"data":{"a":"` + strings.Repeat("x", 3<<20) + `"}`), 413, "RequestEntityTooLarge", `limit is 3145728`},
		"deep":                 {"POST", collection, "", strings.Repeat(`{"a":`, 20000) + "1" + strings.Repeat("}", 20000), 400, "BadRequest", `.`},
		"already there":        {"POST", collection, "", configMap(`"metadata":{"name":"there"}`), 409, "AlreadyExists", `configmaps "there" already exists`},
		"other namespace":      {"POST", collection, "", configMap(`"metadata":{"name":"x","namespace":"other"}`), 400, "BadRequest", `the namespace of the provided object does not match the namespace sent on the request`},
		"namespace missing":    {"POST", "/api/v1/namespaces/nowhere/configmaps", "", configMap(`"metadata":{"name":"x"}`), 404, "NotFound", `namespaces "nowhere" not found`},
		"created with a past":  {"POST", collection, "", configMap(`"metadata":{"name":"x","resourceVersion":"1"}`), 500, "", `resourceVersion should not be set on objects to be created`},
		"CBOR":                 {"POST", collection, "application/cbor", "\xa0", 415, "UnsupportedMediaType", `.`},
		"stale":                {"PUT", there, "", configMap(`"metadata":{"name":"there","resourceVersion":"1"}`), 409, "Conflict", `the object has been modified; please apply your changes to the latest version and try again`},
		"other name":           {"PUT", there, "", configMap(`"metadata":{"name":"here"}`), 400, "BadRequest", `the name of the object \(here\) does not match the name on the URL \(there\)`},
		"update of nothing":    {"PUT", collection + "/x", "", configMap(`"metadata":{"name":"x"}`), 404, "NotFound", `configmaps "x" not found`},
		"other uid":            {"PUT", there, "", configMap(`"metadata":{"name":"there","uid":"00000000-0000-0000-0000-000000000000"}`), 409, "Conflict", `Precondition failed: UID in precondition|uid: Invalid value|UID`},
		"patch of some kind":   {"PATCH", there, "text/plain", `{}`, 415, "UnsupportedMediaType", `415: Unsupported Media Type`},
		"patch of wrong type":  {"PATCH", there, merge, `{"data":7}`, 422, "Invalid", `patch: Invalid value: .*cannot unmarshal number into Go struct field ConfigMap.data`},
		"broken JSON patch":    {"PATCH", there, "application/json-patch+json", `[{"op":"dance","path":"/data"}]`, 422, "Invalid", `.`},
		"JSON patch of naught": {"PATCH", there, "application/json-patch+json", `[{"op":"remove","path":"/data/nope"}]`, 422, "Invalid", `the server rejected our request`},
		"stale patch":          {"PATCH", there, merge, `{"metadata":{"resourceVersion":"1"}}`, 409, "Conflict", `.`},
		"apply by nobody":      {"PATCH", there, "application/apply-patch+yaml", configMap(`"metadata":{"name":"there"}`), 422, "Invalid", `fieldManager: Required value`},
		"delete with bad uid":  {"DELETE", there, "application/json", `{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}`, 409, "Conflict", `.`},
		"delete of nothing":    {"DELETE", collection + "/x", "", ``, 404, "NotFound", `configmaps "x" not found`},
		"propagation":          {"DELETE", there + "?propagationPolicy=Upwards", "", ``, 422, "Invalid", `propagationPolicy: Unsupported value: "Upwards"`},
		"absent":               {"GET", collection + "/x", "", ``, 404, "NotFound", `configmaps "x" not found`},
		"no such resource":     {"GET", "/api/v1/namespaces/default/confignaps", "", ``, 404, "NotFound", `the server could not find the requested resource`},
		"collection by PUT":    {"PUT", collection, "", `{}`, 405, "MethodNotAllowed", `.`},
		"object by POST":       {"POST", there, "", `{}`, 405, "MethodNotAllowed", `.`},
		"unknown method":       {"BREW", there, "", ``, 405, "MethodNotAllowed", `.`},
		"label selector":       {"GET", collection + "?labelSelector=a%20b%20c", "", ``, 400, "BadRequest", `unable to parse requirement`},
		"field selector":       {"GET", collection + "?fieldSelector=data.a%3Db", "", ``, 400, "BadRequest", `field label not supported: data.a|"data.a" is not a known field selector`},
		"limit":                {"GET", collection + "?limit=many", "", ``, 400, "BadRequest", `many`},
		"continue":             {"GET", collection + "?limit=1&continue=nonsense", "", ``, 400, "BadRequest", `continue key is not valid`},
		"resource version":     {"GET", collection + "?resourceVersion=abc", "", ``, 400, "", `abc|resource version`},
		"match without":        {"GET", collection + "?resourceVersionMatch=Exact", "", ``, 422, "Invalid", `resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided`},
		"future":               {"GET", collection + "?resourceVersion=99999999", "", ``, 504, "Timeout", `Too large resource version`},
		"no containers":        {"POST", pods, "", pod("p", `{}`), 422, "Invalid", `spec.containers: Required value`},
		"bad port":             {"POST", pods, "", pod("p", `{"containers":[{"name":"c","image":"i","ports":[{"containerPort":99999}]}]}`), 422, "Invalid", `spec.containers\[0\].ports\[0\].containerPort: Invalid value: 99999: must be between 1 and 65535`},
		"quantity":             {"POST", pods, "", pod("p", `{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"much"}}}]}`), 400, "BadRequest", `quantities must match the regular expression`},
		"same name twice":      {"POST", pods, "", pod("p", `{"containers":[{"name":"c","image":"i"},{"name":"c","image":"i"}]}`), 422, "Invalid", `spec.containers\[1\].name: Duplicate value: "c"`},
		"mount of nothing":     {"POST", pods, "", pod("p", `{"containers":[{"name":"c","image":"i","volumeMounts":[{"name":"v","mountPath":"/v"}]}]}`), 422, "Invalid", `spec.containers\[0\].volumeMounts\[0\].name: Not found: "v"`},
		"service account":      {"POST", pods, "", pod("p", `{"serviceAccountName":"ghost","containers":[{"name":"c","image":"i"}]}`), 403, "Forbidden", `error looking up service account \S+/ghost: serviceaccount "ghost" not found`},
		"log of nothing":       {"GET", pods + "/p/log", "", ``, 404, "NotFound", `pods "p" not found`},
		"exec by GET":          {"GET", pods + "/p/exec?command=ls", "", ``, 404, "NotFound", `pods "p" not found`},
		"node port":            {"POST", "/api/v1/namespaces/" + u.namespace + "/services", "", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":80}]}}`, 422, "Invalid", `spec.ports\[0\].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		"cluster IP":           {"POST", "/api/v1/namespaces/" + u.namespace + "/services", "", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"clusterIP":"1.2.3.4","ports":[{"port":80}]}}`, 422, "Invalid", `spec.clusterIPs?(\[0\])?: Invalid value: .*1\.2\.3\.4`},
		"taken cluster IP":     {"POST", "/api/v1/namespaces/" + u.namespace + "/services", "", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"clusterIP":"10.96.0.10","ports":[{"port":80}]}}`, 422, "Invalid", `provided IP is already allocated`},
		"selector mismatch":    {"POST", "/apis/apps/v1/namespaces/" + u.namespace + "/deployments", "", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"c"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, 422, "Invalid", "spec.template.metadata.labels: Invalid value: .*`selector` does not match template `labels`"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, body, status := admin.do(t, row.method, row.path, row.contentType, row.body)
			if response.StatusCode != row.code || status.Reason != row.reason && row.reason != "" || !regexp.MustCompile(`(?s)`+row.message).MatchString(status.Message) {
				t.Errorf("answered %d, reason %q, message %.300q, wants %d, %q, %q\n%.200s", response.StatusCode, status.Reason, status.Message, row.code, row.reason, row.message, body)
			}
			if status.Kind != "Status" || int(status.Code) != response.StatusCode || response.Header.Get("Content-Type") != "application/json" {
				t.Errorf("not a Status in JSON: %s, %.300s", response.Header.Get("Content-Type"), body)
			}
		})
	}
	// A group that nobody serves is no path of the API's, and is answered like any other such path: in words.
	if response, body, _ := admin.do(t, "GET", "/apis/none.example/v1/things", "", ""); response.StatusCode != 404 || body != "404 page not found\n" {
		t.Errorf("no such group: answered %d %q", response.StatusCode, body)
	}
}

// An unknown field is a warning unless it is asked to be an error.
func TestUnknownFieldsWarn(t *testing.T) {
	u := newUser(t, installed())
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, lables: {a: b}}\ndato: {a: b}\n"
	u.inputFails(fmt.Sprintf(manifest, "strict"), 1, `Error from server \(BadRequest\).*strict decoding error: unknown field "dato", unknown field "metadata.lables"`, "apply", "-f", "-")
	u.inputFails(fmt.Sprintf(manifest, "strict"), 1, `strict decoding error: unknown field "dato", unknown field "metadata.lables"`, "create", "-f", "-")
	u.input(fmt.Sprintf(manifest, "warned"), `Warning: unknown field "dato"\nWarning: unknown field "metadata.lables"\nconfigmap/warned created`, "apply", "--validate=warn", "-f", "-")
	u.input(fmt.Sprintf(manifest, "ignored"), `^configmap/ignored created\n$`, "apply", "--validate=ignore", "-f", "-")
	u.inputFails("a: b\n", 1, `apiVersion not set, kind not set|Object 'Kind' is missing`, "apply", "-f", "-")
	u.inputFails("a: [b\n", 1, `error parsing STDIN: error converting YAML to JSON`, "apply", "-f", "-")
	u.inputFails("apiVersion: none.example/v1\nkind: Thing\nmetadata: {name: x}\n", 1, `no matches for kind "Thing" in version "none.example/v1"`, "apply", "-f", "-")
	// Good objects of a file are made although others are bad.
	u.inputFails("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n", 1,
		`configmap/good created\n.*ConfigMap "Bad_Name" is invalid: metadata.name: Invalid value: "Bad_Name"`, "apply", "-f", "-")
	u.fails(1, `namespaces "nowhere" not found`, "create", "configmap", "x", "-n", "nowhere")
	u.fails(1, `unable to parse requirement`, "get", "pods", "-l", "a b c")
	u.fails(1, `the object has been modified`, "patch", "configmap", "good", "--type=merge", "-p", `{"metadata":{"resourceVersion":"1"}}`)
}

// Who is nobody, who is not known, and who may not.
func TestWhoMayNot(t *testing.T) {
	u := newUser(t, installed())
	path := "/api/v1/namespaces/" + u.namespace + "/secrets"
	anonymous, bad := ask(t, nobody), ask(t, nobody)
	bad.token = "not.a.token"
	u.ok(`created`, "create", "serviceaccount", "robot")
	u.ok(`created`, "create", "role", "reader", "--verb=get,list", "--resource=configmaps")
	u.ok(`created`, "create", "rolebinding", "robot", "--role=reader", "--serviceaccount="+u.namespace+":robot")
	robot := ask(t, nobody)
	robot.token = strings.TrimSpace(u.ok(`^ey`, "create", "token", "robot"))
	tampered := ask(t, nobody)
	tampered.token = robot.token[:len(robot.token)-4] + "AAAA"
	forged := selfSigned(t)
	stranger := ask(t, func(c *rest.Config) {
		nobody(c)
		c.WrapTransport = func(http.RoundTripper) http.RoundTripper {
			// Go would not show a certificate that the server did not ask for.
			return &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true,
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &forged, nil }}}
		}
	})
	pretender := ask(t, func(c *rest.Config) {
		nobody(c)
		c.BearerToken, c.Impersonate.UserName = robot.token, "jane"
	})
	elsewhere := ask(t, nobody)
	elsewhere.token = strings.TrimSpace(u.ok(`^ey`, "create", "token", "robot", "--audience=somebody-else"))
	for name, row := range map[string]struct {
		who     *asker
		path    string
		code    int
		reason  metav1.StatusReason
		message string
	}{
		"nobody":            {anonymous, path, 403, "Forbidden", `secrets is forbidden: User "system:anonymous" cannot list resource "secrets" in API group "" in the namespace "` + u.namespace + `"`},
		"nobody, anywhere":  {anonymous, "/apis/apps/v1/deployments", 403, "Forbidden", `cannot list resource "deployments" in API group "apps" at the cluster scope`},
		"nobody, health":    {anonymous, "/readyz", 200, "", ``},
		"nobody, version":   {anonymous, "/version", 200, "", ``},
		"nobody, metrics":   {anonymous, "/metrics", 403, "Forbidden", `User "system:anonymous" cannot get path "/metrics"`},
		"no token":          {bad, path, 401, "Unauthorized", `Unauthorized`},
		"no token, health":  {bad, "/readyz", 401, "Unauthorized", `Unauthorized`},
		"tampered token":    {tampered, path, 401, "Unauthorized", `Unauthorized`},
		"another audience":  {elsewhere, path, 401, "Unauthorized", `Unauthorized`},
		"stranger":          {stranger, path, 401, "Unauthorized", `Unauthorized`},
		"robot":             {robot, strings.Replace(path, "secrets", "configmaps", 1), 200, "", ``},
		"robot, too much":   {robot, path, 403, "Forbidden", `User "system:serviceaccount:` + u.namespace + `:robot" cannot list resource "secrets"`},
		"robot, elsewhere":  {robot, "/api/v1/namespaces/default/configmaps", 403, "Forbidden", `in the namespace "default"`},
		"robot, watch":      {robot, strings.Replace(path, "secrets", "configmaps", 1) + "?watch=true", 403, "Forbidden", `cannot watch resource "configmaps"`},
		"robot, as jane":    {pretender, path, 403, "Forbidden", `secrets is forbidden: User "system:serviceaccount:` + u.namespace + `:robot" cannot impersonate-on:user-info:list resource "secrets" in API group "" in the namespace "` + u.namespace + `"`},
		"robot, everywhere": {robot, "/api/v1/configmaps", 403, "Forbidden", `at the cluster scope`},
	} {
		t.Run(name, func(t *testing.T) {
			response, body, status := row.who.do(t, "GET", row.path, "", "")
			if response.StatusCode != row.code || status.Reason != row.reason || !strings.Contains(status.Message, row.message) {
				t.Errorf("answered %d, %q, %q; wants %d, %q, %q\n%.200s", response.StatusCode, status.Reason, status.Message, row.code, row.reason, row.message, body)
			}
		})
	}
	u.fails(1, `Error from server \(Forbidden\): pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "`+u.namespace+`"`, "get", "pods", "--as=jane")
	// A binding to a role that one does not have is refused.
	u.ok(`created`, "create", "rolebinding", "may-bind", "--clusterrole=view", "--user=jane")
	u.fails(1, `cannot create resource "rolebindings"|forbidden`, "create", "rolebinding", "more", "--clusterrole=cluster-admin", "--user=jane", "--as=jane")
	// The bearer of a token of a deleted account is nobody.
	u.ok(`deleted`, "delete", "serviceaccount", "robot")
	eventually(t, 30*time.Second, "end of a token", func() error {
		if response, body, _ := robot.do(t, "GET", path, "", ""); response.StatusCode != 401 {
			return fmt.Errorf("%d: %s", response.StatusCode, body)
		}
		return nil
	})
}

// selfSigned is a certificate that says it is an administrator's.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes-admin", Organization: []string{"system:masters"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	raw, err := x509.CreateCertificate(crand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: private}
}

// Bodies that are small and mean to become large.
func TestBombs(t *testing.T) {
	u := newUser(t, embedded())
	admin := ask(t, nil)
	path := "/api/v1/namespaces/" + u.namespace + "/configmaps"
	// Nine levels of nine references: a billion laughs.
	bomb := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\n" + "a: &a [\"x\",\"x\",\"x\",\"x\",\"x\",\"x\",\"x\",\"x\",\"x\"]\n"
	for level := 'b'; level <= 'i'; level++ {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", level, level, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", level-1), 9), ","))
	}
	before := residentMiB(t, "node-0", "kube-apiserver", "--etcd-servers")
	started := time.Now()
	for _, method := range []string{"POST application/yaml", "PATCH application/apply-patch+yaml"} {
		verb, contentType, _ := strings.Cut(method, " ")
		target := path
		if verb == "PATCH" {
			target += "/bomb?fieldManager=me"
		}
		response, body, status := admin.do(t, verb, target, contentType, bomb)
		if response.StatusCode/100 != 4 || status.Kind != "Status" {
			t.Errorf("%s: answered %d: %.300s", method, response.StatusCode, body)
		}
	}
	if taken := time.Since(started); taken > 20*time.Second {
		t.Errorf("refused only after %s", taken)
	}
	// A body that goes on and on is cut off, whatever its type.
	for _, contentType := range []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"} {
		response, body, _ := admin.do(t, "POST", path, contentType, strings.Repeat("x", 64<<20))
		if response.StatusCode != 413 {
			t.Errorf("64 MiB of %s: answered %d: %.300s", contentType, response.StatusCode, body)
		}
	}
	if after := residentMiB(t, "node-0", "kube-apiserver", "--etcd-servers"); after > before+300 {
		t.Errorf("the API server grew from %d to %d MiB", before, after)
	}
	u.ok(`kube-root-ca.crt`, "get", "configmaps")
}

// residentMiB is the memory of a node's process.
func residentMiB(t *testing.T, node string, words ...string) int {
	t.Helper()
	pids := find(t, node, words...)
	if len(pids) == 0 {
		t.Fatalf("no process %v on %s", words, node)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pids[0]))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(raw))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize() >> 20
}

// Not a request at all.
func TestNotHTTPS(t *testing.T) {
	admin := ask(t, nil)
	address := strings.TrimPrefix(admin.base, "https://")
	response, err := web.Get("http://" + address + "/version")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != 400 || !bytes.Contains(body, []byte("HTTP request to an HTTPS server")) {
		t.Errorf("%d: %s", response.StatusCode, body)
	}
	connection, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11})
	if err == nil {
		connection.Close()
		t.Error("TLS 1.1 is accepted")
	}
}
