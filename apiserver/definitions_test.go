package apiserver_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"tinykube/internal/testenv"
)

const (
	definitionsPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	cronTabsPath    = "/apis/stable.example.com/v1/namespaces/default/crontabs"
)

// define posts a definition and waits until its kind is served.
func (a api) define(text string) map[string]any {
	a.Helper()
	made := a.ok("POST", definitionsPath, asYAML, text)
	return a.established(made["metadata"].(map[string]any)["name"].(string))
}

// established waits for a definition's condition.
func (a api) established(name string) map[string]any {
	a.Helper()
	var out map[string]any
	eventually(a.T, name+" is established", func() bool {
		out = a.ok("GET", definitionsPath+"/"+name, "", "")
		return condition(out, "Established") == "True"
	})
	return out
}

func condition(obj map[string]any, kind string) string {
	status, _ := obj["status"].(map[string]any)
	list, _ := status["conditions"].([]any)
	for _, c := range list {
		if c := c.(map[string]any); c["type"] == kind {
			return c["status"].(string)
		}
	}
	return ""
}

func cronTabDefinition(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("testdata/crontab.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// at digs a value out of an object.
func at(obj any, path ...string) any {
	for _, name := range path {
		object, ok := obj.(map[string]any)
		if !ok {
			return nil
		}
		obj = object[name]
	}
	return obj
}

func TestCustomResource(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	a := newAPI(t, env.Config)
	defined := a.define(cronTabDefinition(t))
	if names := at(defined, "status", "acceptedNames"); at(names, "listKind") != "CronTabList" || at(names, "singular") != "crontab" {
		t.Errorf("accepted names %v", names)
	}
	made := a.ok("POST", cronTabsPath, asJSON, `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"a"},
		"spec":{"cronSpec":"* * * * */5","odd":1,"free":{"kept":true},"jobs":[{"name":"first","args":["x"]}]},"status":{"replicas":7}}`)
	t.Run("pruned and defaulted", func(t *testing.T) {
		spec := made["spec"].(map[string]any)
		if spec["image"] != "busybox" || spec["replicas"] != 1.0 || spec["odd"] != nil || at(spec, "free", "kept") != true || made["status"] != nil {
			t.Errorf("got %v", made)
		}
		if at(made, "metadata", "generation") != 1.0 || at(made, "metadata", "managedFields") == nil {
			t.Errorf("metadata %v", made["metadata"])
		}
	})
	t.Run("validation", func(t *testing.T) { cronTabValidation(api{t, a.Client}) })
	t.Run("subresources", func(t *testing.T) { cronTabSubresources(api{t, a.Client}) })
	t.Run("apply", func(t *testing.T) { cronTabApply(api{t, a.Client}) })
	t.Run("other version", func(t *testing.T) {
		a := api{t, a.Client}
		shown := a.ok("GET", strings.Replace(cronTabsPath, "/v1/", "/v1beta1/", 1)+"/a", "", "")
		if shown["apiVersion"] != "stable.example.com/v1beta1" || at(shown, "spec", "image") != "busybox" {
			t.Errorf("got %v", shown)
		}
	})
	t.Run("selected and printed", func(t *testing.T) {
		a := api{t, a.Client}
		if list := a.ok("GET", cronTabsPath+"?fieldSelector=spec.image%3Dbusybox", "", ""); len(list["items"].([]any)) != 1 || list["kind"] != "CronTabList" ||
			at(list["items"].([]any)[0], "kind") != "CronTab" {
			t.Errorf("got %v", list)
		}
		if code, text, _ := a.send("GET", cronTabsPath+"?fieldSelector=spec.policy%3Dx", "", ""); code != 400 || !strings.Contains(text, "field label not supported: spec.policy") {
			t.Errorf("%d %s", code, text)
		}
	})
	t.Run("restart", func(t *testing.T) {
		env.StopServer()
		env.StartServer(t)
		a := newAPI(t, env.Config)
		var again map[string]any
		eventually(t, "the kind is served again", func() bool {
			code, text, _ := a.send("GET", cronTabsPath+"/a", "", "")
			if code != http.StatusOK && code != http.StatusServiceUnavailable {
				t.Fatalf("%d %s", code, text) // 404 would be a lie
			}
			return json.Unmarshal([]byte(text), &again) == nil
		})
		if at(again, "metadata", "uid") != at(made, "metadata", "uid") {
			t.Errorf("got %v", again)
		}
	})
}

func cronTabValidation(a api) {
	const body = `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"b"},"spec":%s}`
	for spec, want := range map[string]string{
		`{}`:                                     `CronTab.stable.example.com "b" is invalid: spec.cronSpec: Required value`,
		`{"cronSpec":"x"}`:                       `spec.cronSpec: Invalid value: "x": spec.cronSpec in body should match '^\S+ \S+ \S+ \S+ \S+$'`,
		`{"cronSpec":1}`:                         `spec.cronSpec: Invalid value: "integer": spec.cronSpec in body must be of type string: "integer"`,
		`{"cronSpec":"1 1 1 1 1","replicas":11}`: `spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10`,
		`{"cronSpec":"1 1 1 1 1","policy":"No"}`: `spec.policy: Unsupported value: "No": supported values: "Allow", "Forbid"`,
		`{"cronSpec":"1 1 1 1 1","port":{}}`:     `spec.port in body must be of type integer,string: "object"`,
		`{"cronSpec":"1 1 1 1 1","jobs":[{"name":"x"},{"name":"x"}]}`: `spec.jobs[1]: Duplicate value: {"name":"x"}`,
	} {
		code, text, _ := a.send("POST", cronTabsPath, asJSON, fmt.Sprintf(body, spec))
		if code != 422 || !strings.Contains(text, want) {
			a.Errorf("%s: %d %s; want %s", spec, code, text, want)
		}
	}
	code, text, _ := a.send("POST", cronTabsPath+"?fieldValidation=Strict", asJSON, fmt.Sprintf(body, `{"cronSpec":"1 1 1 1 1","odd":1,"odd":2}`))
	if want := `strict decoding error: duplicate field "spec.odd", unknown field "spec.odd"`; code != 400 || !strings.Contains(text, want) {
		a.Errorf("strict: %d %s; want %s", code, text, want)
	}
}

func cronTabSubresources(a api) {
	status := a.ok("PATCH", cronTabsPath+"/a/status", asMerge, `{"metadata":{"labels":{"no":"no"}},"spec":{"image":"no"},"status":{"replicas":3,"labelSelector":"a=b"}}`)
	if at(status, "status", "replicas") != 3.0 || at(status, "spec", "image") != "busybox" || at(status, "metadata", "labels") != nil || at(status, "metadata", "generation") != 1.0 {
		a.Errorf("status write: %v", status)
	}
	scale := a.ok("GET", cronTabsPath+"/a/scale", "", "")
	if scale["kind"] != "Scale" || at(scale, "spec", "replicas") != 1.0 || at(scale, "status", "replicas") != 3.0 || at(scale, "status", "selector") != "a=b" {
		a.Errorf("scale: %v", scale)
	}
	a.ok("PATCH", cronTabsPath+"/a/scale", asMerge, `{"spec":{"replicas":5}}`)
	scaled := a.ok("GET", cronTabsPath+"/a", "", "")
	if at(scaled, "spec", "replicas") != 5.0 || at(scaled, "metadata", "generation") != 2.0 || at(scaled, "status", "replicas") != 3.0 {
		a.Errorf("scaled: %v", scaled)
	}
	if code, text, _ := a.send("PATCH", cronTabsPath+"/a/scale", asMerge, `{"spec":{"replicas":11}}`); code != 422 || !strings.Contains(text, "less than or equal to 10") {
		a.Errorf("scale beyond the schema: %d %s", code, text)
	}
	if code, text, _ := a.send("PATCH", cronTabsPath+"/a", asStrategic, `{}`); code != 415 || strings.Contains(text, "strategic") {
		a.Errorf("strategic patch: %d %s", code, text)
	}
}

func cronTabApply(a api) {
	one := `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"s"},"spec":{"cronSpec":"1 1 1 1 1","jobs":[{"name":"x","args":["1"]}]}}`
	two := `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"s"},"spec":{"jobs":[{"name":"y"}]}}`
	a.ok("PATCH", cronTabsPath+"/s?fieldManager=one", asApply, one)
	merged := a.ok("PATCH", cronTabsPath+"/s?fieldManager=two", asApply, two)
	if jobs, _ := at(merged, "spec", "jobs").([]any); len(jobs) != 2 {
		a.Errorf("a list that is a map was not merged: %v", merged["spec"])
	}
	code, text, _ := a.send("PATCH", cronTabsPath+"/s?fieldManager=two", asApply, strings.Replace(one, "1 1 1 1 1", "2 2 2 2 2", 1))
	if code != 409 || !strings.Contains(text, `conflict with "one": .spec.cronSpec`) {
		a.Errorf("conflict: %d %s", code, text)
	}
	other := a.ok("PATCH", strings.Replace(cronTabsPath, "/v1/", "/v1beta1/", 1)+"/s?fieldManager=three", asApply,
		`{"apiVersion":"stable.example.com/v1beta1","kind":"CronTab","metadata":{"name":"s"},"spec":{"image":"mine"}}`)
	if at(other, "spec", "image") != "mine" || at(other, "spec", "cronSpec") != "1 1 1 1 1" {
		a.Errorf("applied in another version: %v", other)
	}
}

// Discovery and OpenAPI list a kind as soon as it is established, and no
// longer when it is gone; its objects go with it, finalizers first.
func TestDefinitionsLife(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	a.define(cronTabDefinition(t))
	if list := a.ok("GET", "/apis/stable.example.com/v1", "", ""); len(list["resources"].([]any)) != 3 {
		t.Errorf("discovery: %v", list)
	}
	if group := a.ok("GET", "/apis/stable.example.com", "", ""); at(group, "preferredVersion", "version") != "v1" {
		t.Errorf("group: %v", group)
	}
	document := a.ok("GET", "/openapi/v3/apis/stable.example.com/v1", "", "")
	schemas := at(document, "components", "schemas").(map[string]any)
	if at(schemas["com.example.stable.v1.CronTab"], "properties", "spec", "properties", "cronSpec", "description") != "When to run." || schemas["com.example.stable.v1.CronTabList"] == nil {
		t.Errorf("schemas %v", schemas)
	}
	a.ok("POST", cronTabsPath, asJSON, `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"a","finalizers":["example.com/x"]},"spec":{"cronSpec":"1 1 1 1 1"}}`)
	next := a.openWatch(cronTabsPath + "?resourceVersion=0")
	if e := next(); e.Type != "ADDED" || e.Object.Metadata.Name != "a" {
		t.Errorf("watch: %+v", e)
	}
	if deleted := a.ok("DELETE", definitionsPath+"/crontabs.stable.example.com", "", ""); condition(deleted, "Terminating") != "True" {
		t.Errorf("deleted: %v", deleted)
	}
	eventually(t, "new objects are refused", func() bool {
		code, text, _ := a.send("POST", cronTabsPath, asJSON, `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"b"},"spec":{"cronSpec":"1 1 1 1 1"}}`)
		return code == 403 && strings.Contains(text, "create not allowed while custom resource definition is terminating")
	})
	eventually(t, "the object is being deleted", func() bool {
		return at(a.ok("GET", cronTabsPath+"/a", "", ""), "metadata", "deletionTimestamp") != nil
	})
	a.ok("GET", definitionsPath+"/crontabs.stable.example.com", "", "")
	a.ok("PATCH", cronTabsPath+"/a", asMerge, `{"metadata":{"finalizers":null}}`)
	eventually(t, "everything is gone", func() bool {
		definition, _, _ := a.send("GET", definitionsPath+"/crontabs.stable.example.com", "", "")
		objects, _, _ := a.send("GET", cronTabsPath, "", "")
		listed, _, _ := a.send("GET", "/apis/stable.example.com/v1", "", "")
		return definition == 404 && objects == 404 && listed == 404
	})
	for e := next(); e.Type != "DELETED" && e.Type != "ERROR"; e = next() {
	}
}

// A changed definition shows stored objects by its new schema.
func TestDefinitionChanges(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	a.define(cronTabDefinition(t))
	a.ok("POST", cronTabsPath, asJSON, `{"apiVersion":"stable.example.com/v1","kind":"CronTab","metadata":{"name":"a"},"spec":{"cronSpec":"1 1 1 1 1"}}`)
	changed := a.ok("GET", definitionsPath+"/crontabs.stable.example.com", "", "")
	version := at(changed, "spec", "versions").([]any)[0]
	spec := at(version, "schema", "openAPIV3Schema", "properties", "spec", "properties").(map[string]any)
	spec["retries"] = map[string]any{"type": "integer", "default": 4}
	spec["cronSpec"].(map[string]any)["maxLength"] = 3
	body, _ := json.Marshal(changed)
	a.ok("PUT", definitionsPath+"/crontabs.stable.example.com", asJSON, string(body))
	eventually(t, "the new default shows", func() bool {
		return at(a.ok("GET", cronTabsPath+"/a", "", ""), "spec", "retries") == 4.0
	})
	// What is too long now was there before, so other fields may be changed.
	a.ok("PATCH", cronTabsPath+"/a", asMerge, `{"spec":{"image":"other"}}`)
	if code, text, _ := a.send("PATCH", cronTabsPath+"/a", asMerge, `{"spec":{"cronSpec":"2 2 2 2 2"}}`); code != 422 || !strings.Contains(text, "Too long: may not be more than 3 bytes") {
		t.Errorf("%d %s", code, text)
	}
}

// Definitions with mistakes, and what this server does not do, are refused in
// upstream's words, or the author is told.
func TestDefinitionsWithMistakes(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	edit := func(f func(spec, schema map[string]any)) string {
		var d map[string]any
		if err := yaml.Unmarshal([]byte(cronTabDefinition(t)), &d); err != nil {
			t.Fatal(err)
		}
		spec := d["spec"].(map[string]any)
		f(spec, at(spec["versions"].([]any)[0], "schema", "openAPIV3Schema").(map[string]any))
		out, _ := json.Marshal(d)
		return string(out)
	}
	const root = "spec.versions[0].schema.openAPIV3Schema"
	for want, change := range map[string]func(spec, schema map[string]any){
		`metadata.name: Invalid value: "crontabs.stable.example.com": must be spec.names.plural+"."+spec.group`: func(spec, _ map[string]any) { spec["group"] = "example.org" },
		`spec.scope: Unsupported value: "Both": supported values: "Cluster", "Namespaced"`:                      func(spec, _ map[string]any) { spec["scope"] = "Both" },
		`must have exactly one version marked as storage version`: func(spec, _ map[string]any) {
			spec["versions"].([]any)[1].(map[string]any)["storage"] = true
		},
		root + `.properties[spec].type: Required value: must not be empty for specified object fields`: func(_, schema map[string]any) {
			delete(at(schema, "properties", "spec").(map[string]any), "type")
		},
		root + `.properties[spec].anyOf[0].type: Forbidden: must be empty to be structural`: func(_, schema map[string]any) {
			at(schema, "properties", "spec").(map[string]any)["anyOf"] = []any{map[string]any{"type": "object"}}
		},
		root + `.properties[spec].properties[image].default: Invalid value: "integer":  in body must be of type string: "integer"`: func(_, schema map[string]any) {
			at(schema, "properties", "spec", "properties", "image").(map[string]any)["default"] = 1
		},
		`spec.versions[0].schema.openAPIV3Schema: Required value`: func(spec, _ map[string]any) { delete(spec["versions"].([]any)[0].(map[string]any), "schema") },
		`conversion by webhook is not supported by this server`: func(spec, _ map[string]any) {
			spec["conversion"] = map[string]any{"strategy": "Webhook", "webhook": map[string]any{"conversionReviewVersions": []any{"v1"}}}
		},
	} {
		code, text, _ := a.send("POST", definitionsPath, asJSON, edit(change))
		if code != 422 || !strings.Contains(text, want) {
			t.Errorf("%d %s\n want %s", code, text, want)
		}
	}
	made := a.define(edit(func(_, schema map[string]any) {
		at(schema, "properties", "spec").(map[string]any)["x-kubernetes-validations"] = []any{map[string]any{"rule": "self.replicas > 0"}}
	}))
	if condition(made, "ValidationRulesEvaluated") != "False" {
		t.Errorf("nobody says that rules are not evaluated: %v", made["status"])
	}
	// A second kind of the same name waits until the first is gone.
	second := strings.NewReplacer("crontabs", "crontabz").Replace(cronTabDefinition(t))
	a.ok("POST", definitionsPath, asYAML, second)
	eventually(t, "the second is refused its kind", func() bool {
		return condition(a.ok("GET", definitionsPath+"/crontabz.stable.example.com", "", ""), "NamesAccepted") == "False"
	})
	a.ok("DELETE", definitionsPath+"/crontabs.stable.example.com", "", "")
	a.established("crontabz.stable.example.com")
}
