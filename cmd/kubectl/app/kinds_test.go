package app

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/cmd/util"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
	"tinykube/internal/testenv"
)

// kubectl runs in this process: an environment for it and what it prints.
type kubectl struct {
	*testing.T
	kubeconfig, cache string
}

// run returns what a command prints, errors included.
func (k kubectl) run(args ...string) (out string) {
	k.Helper()
	var buffer bytes.Buffer
	args = append([]string{"kubectl", "--kubeconfig=" + k.kubeconfig, "--cache-dir=" + k.cache}, args...)
	// kubectl holds itself back to five requests per second, as if we could
	// not say ourselves when we have enough.
	flags := configFlags().WithWrapConfigFn(func(c *rest.Config) *rest.Config {
		c.QPS = -1
		return c
	})
	command := newCommand(args, flags, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &buffer, ErrOut: &buffer})
	command.SetArgs(args[1:])
	util.BehaviorOnFatal(func(message string, _ int) { panic(fatal(message)) })
	defer util.DefaultBehaviorOnFatal()
	defer func() {
		switch failure := recover().(type) {
		case nil:
		case fatal:
			out = buffer.String() + string(failure)
		default:
			panic(failure)
		}
	}()
	if err := command.Execute(); err != nil {
		return buffer.String() + err.Error()
	}
	return buffer.String()
}

// fatal is the message with which kubectl would have ended the process.
type fatal string

// manifest is an object of one kind.
type manifest struct {
	row  *resources.Row
	name string
	body map[string]any
}

// TestEveryKind takes each kind that can be created through the life that
// kubectl can give it. The objects are those whose answers the API server's
// own tests compare with upstream's.
func TestEveryKind(t *testing.T) {
	env := testenv.New(t)
	k := kubectl{t, env.Kubeconfig, t.TempDir()}
	k.run("create", "namespace", "k")
	k.run("create", "serviceaccount", "default", "-n", "k")
	objects := manifests(t)
	file, bad := filepath.Join(t.TempDir(), "all.yaml"), filepath.Join(t.TempDir(), "bad.yaml")
	writeAll(t, file, objects, func(map[string]any) {})
	writeAll(t, bad, objects, func(body map[string]any) { body["colour"] = "red" })

	// each prints one line per object.
	each := func(what, out, format string) {
		t.Helper()
		for _, m := range objects {
			resource := strings.ToLower(m.row.Kind)
			if m.row.Group != "" {
				resource += "." + m.row.Group
			}
			line := fmt.Sprintf(format, regexp.QuoteMeta(resource+"/"+m.name))
			if !regexp.MustCompile(`(?m)` + line).MatchString(out) {
				t.Errorf("%s: no line like %s in\n%s", what, line, out)
			}
		}
	}
	refused := k.run("create", "--validate=strict", "-f", bad)
	if got := strings.Count(refused, `strict decoding error: unknown field "colour"`); got != len(objects) {
		t.Errorf("%d of %d kinds refuse an unknown field:\n%s", got, len(objects), refused)
	}
	each("create", k.run("create", "--validate=strict", "-f", file), `^%s created$`)
	each("apply", k.run("apply", "--validate=strict", "-f", file), `^%s (configured|unchanged)$`)
	each("server-side apply", k.run("apply", "--server-side", "--force-conflicts", "-f", file), `^%s serverside-applied$`)
	each("get -o name", k.run("get", "-f", file, "-o", "name"), `^%s$`)
	wide := k.run("get", "-f", file, "-o", "wide")
	for _, m := range objects {
		if !strings.Contains(wide, m.name) {
			t.Errorf("get -o wide: no %s %s in\n%s", m.row.Kind, m.name, wide)
		}
	}
	each("patch", k.run("patch", "-f", file, "--type=merge", "-p", `{"metadata":{"annotations":{"patched":"yes"}}}`), `^%s patched$`)
	each("label", k.run("label", "-f", file, "tier=front"), `^%s labeled$`)
	if strings.Contains(k.run("get", "-f", file, "-o", `jsonpath={range .items[*]}{.metadata.labels.tier}{.metadata.annotations.patched},{end}`), ",,") {
		t.Error("a label or a patch is lost")
	}
	k.run("patch", "-f", file, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`) // of storage: no controller is here that would take them off
	k.run("delete", "-f", file, "--timeout=30s")                                         // waits: a definition goes when its objects are gone
	if left := k.run("get", "-f", file, "-o", "name", "--ignore-not-found"); regexp.MustCompile(`(?m)^[\w.]+/`).MatchString(left) {
		t.Errorf("left after delete:\n%s", left)
	}
}

// TestExplainEveryKind: the schema of each kind, with all that it refers to.
func TestExplainEveryKind(t *testing.T) {
	k := kubectl{t, testenv.New(t).Kubeconfig, t.TempDir()}
	for _, row := range resources.All() {
		version := strings.TrimPrefix(row.Group+"/"+row.Version, "/")
		out := k.run("explain", row.Plural, "--api-version="+version, "--recursive")
		for _, want := range []string{"KIND:       " + row.Kind + "\n", "VERSION:    " + row.Version + "\n", "DESCRIPTION:\n", "FIELDS:\n", "\n  metadata\t<ObjectMeta>"} {
			if !strings.Contains(out, want) {
				t.Errorf("explain %s %s has no %q:\n%.600s", version, row.Plural, want, out)
			}
		}
	}
}

// manifests reads the objects to be created from the API server's test data.
func manifests(t *testing.T) []manifest {
	t.Helper()
	data, err := os.ReadFile("../../../apiserver/testdata/wire/09-kinds.txt")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[schema.GroupVersionResource]*resources.Row{}
	missing := map[string]bool{}
	for _, row := range resources.All() {
		rows[row.GVR()] = row
		if row.NewList != nil {
			missing[row.GVK().String()] = true
		}
	}
	var out []manifest
	for _, text := range regexp.MustCompile(`(?ms)^POST (\S+)\n\n(.*?)^-> `).FindAllStringSubmatch(string(data), -1) {
		parts := strings.Split(strings.Trim(text[1], "/"), "/")
		row := rows[schema.GroupVersionResource{Version: parts[1], Resource: parts[len(parts)-1]}]
		if parts[0] == "apis" {
			row = rows[schema.GroupVersionResource{Group: parts[1], Version: parts[2], Resource: parts[len(parts)-1]}]
		}
		if row == nil || row.Kind == "Namespace" {
			continue
		}
		m := manifest{row: row, body: map[string]any{}}
		if err := yaml.Unmarshal([]byte(text[2]), &m.body); err != nil {
			t.Fatalf("%s: %v", text[1], err)
		}
		metadata := m.body["metadata"].(map[string]any)
		m.name = metadata["name"].(string)
		if m.name == "default" {
			continue
		}
		if row.Namespaced {
			metadata["namespace"] = "k"
		}
		m.body["apiVersion"], m.body["kind"] = row.GVK().GroupVersion().String(), row.Kind
		delete(missing, row.GVK().String())
		out = append(out, m)
	}
	for kind := range missing {
		if !strings.HasSuffix(kind, "Kind=Namespace") && !strings.HasSuffix(kind, "Kind=Node") { // each has tests of its own
			t.Errorf("no object of %s among the test data", kind)
		}
	}
	return out
}

func writeAll(t *testing.T, file string, objects []manifest, change func(map[string]any)) {
	t.Helper()
	var all bytes.Buffer
	for _, m := range objects {
		body := map[string]any{}
		for key, value := range m.body {
			body[key] = value
		}
		change(body)
		text, err := yaml.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "---\n%s", text)
	}
	if err := os.WriteFile(file, all.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}
