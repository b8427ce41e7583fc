package apiserver_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tinykube/apiserver"
	"tinykube/internal/testenv"
)

// auditLine is what the tests read of an event.
type auditLine struct {
	Level, Stage, Verb, RequestURI string
	User, ImpersonatedUser         struct{ Username string }
	ObjectRef                      struct{ Resource, Namespace, Name, Subresource string }
	ResponseStatus                 struct {
		Code    int
		Message string
	}
	RequestObject, ResponseObject map[string]any
	Annotations                   map[string]string
}

const auditRules = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ["system:apiserver"]}
- {level: Metadata, resources: [{resources: [secrets]}]}
- {level: RequestResponse, omitManagedFields: true, resources: [{resources: [configmaps]}]}
- {level: Metadata}
`

// The log says who asked for what and how it ended, of those who are refused
// too; and what a policy does not want in it is not in it.
func TestAudit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policy, log, tokens := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "logs", "audit.log"), filepath.Join(dir, "tokens")
	write(t, policy, auditRules)
	write(t, tokens, "ada,ada,1\n")
	env := testenv.New(t, func(c *apiserver.Config) {
		c.TokenAuthFile, c.Audit = tokens, apiserver.AuditConfig{PolicyFile: policy, LogPath: log}
	})
	admin, ada := newAPI(t, env.Config), as(t, env.Config, "ada")
	admin.ok("POST", ns+"secrets", asJSON, `{"metadata":{"name":"s"},"stringData":{"password":"very-secret"}}`)
	admin.ok("POST", ns+"configmaps", asJSON, `{"metadata":{"name":"c"},"data":{"k":"v"}}`)
	admin.ok("PATCH", ns+"configmaps/c", asMerge, `{"data":{"k":"w"}}`)
	ada.refused("GET", ns+"secrets/s", "", "", "cannot get resource")
	as(t, env.Config, "stolen").send("GET", ns+"secrets/s", "", "")
	next := admin.openWatch(ns + "configmaps?resourceVersion=0&timeoutSeconds=1")
	next()

	whole := func() string {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	find := func(holds func(*auditLine) bool) *auditLine {
		for line := range strings.Lines(whole()) {
			var e auditLine
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			if holds(&e) {
				return &e
			}
		}
		return nil
	}
	of := func(verb, resource, stage string, code int) *auditLine {
		t.Helper()
		var found *auditLine
		eventually(t, fmt.Sprintf("%s %s %s %d is in the log", verb, resource, stage, code), func() bool {
			found = find(func(e *auditLine) bool {
				return e.Verb == verb && e.ObjectRef.Resource == resource && e.Stage == stage && e.ResponseStatus.Code == code
			})
			return found != nil
		})
		return found
	}
	if e := of("create", "secrets", "ResponseComplete", 201); e.ObjectRef.Name != "s" || e.RequestObject != nil || e.ResponseObject != nil || e.Annotations["authorization.k8s.io/decision"] != "allow" {
		t.Errorf("a secret: %+v", e)
	}
	if e := of("create", "configmaps", "ResponseComplete", 201); at(e.RequestObject, "data", "k") != "v" || at(e.ResponseObject, "metadata", "name") != "c" {
		t.Errorf("a config map: %+v", e)
	}
	if e := of("patch", "configmaps", "ResponseComplete", 200); fmt.Sprint(e.RequestObject) != "map[data:map[k:w]]" {
		t.Errorf("a patch: %+v", e)
	}
	if e := of("get", "secrets", "ResponseComplete", 403); e.User.Username != "ada" || e.Annotations["authorization.k8s.io/decision"] != "forbid" || !strings.Contains(e.ResponseStatus.Message, "cannot get resource") {
		t.Errorf("who may not: %+v", e)
	}
	if e := of("get", "secrets", "ResponseStarted", 401); e.User.Username != "" || e.ResponseStatus.Message != "Unauthorized" {
		t.Errorf("who is not known: %+v", e)
	}
	of("watch", "configmaps", "ResponseStarted", 200)
	of("watch", "configmaps", "ResponseComplete", 200)
	for _, never := range []string{"very-secret", "dmVyeS1zZWNyZXQ", `"managedFields"`, `"RequestReceived"`, "stolen"} {
		if strings.Contains(whole(), never) {
			t.Errorf("%q is in the log", never)
		}
	}
}
