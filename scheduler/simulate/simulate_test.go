package simulate

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no testdata", err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, ".config.yaml") {
			continue
		}
		name := strings.TrimSuffix(file, ".yaml")
		t.Run(filepath.Base(name), func(t *testing.T) {
			component := config.Default()
			if _, err := os.Stat(name + ".config.yaml"); err == nil {
				if component, err = config.LoadFile(name + ".config.yaml"); err != nil {
					t.Fatal(err)
				}
			}
			world := &World{}
			profiles, err := config.Profiles(component, framework.Handle{Objects: world})
			if err != nil {
				t.Fatal(err)
			}
			if err := world.ReadFile(file, nil); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := Run(&out, profiles, world, strings.Contains(name, "bars")); err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(name+".golden", out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name + ".golden")
			if err != nil || !bytes.Equal(out.Bytes(), want) {
				t.Errorf("output differs (-update writes it anew; %v):\n%s", err, out.String())
			}
		})
	}
}

func TestInputErrors(t *testing.T) {
	for input, want := range map[string]string{
		"kind: Deployment":                                   `only nodes, pods and what plugins ask for can be simulated, not "Deployment"`,
		"kind: Node\nmetadata: {name: node-a}":               "node node-a: status.allocatable.pods is missing",
		"kind: Pod\nspec: {containers: 5}":                   "-: document 1: json: cannot unmarshal number",
		"kind: Pod\nmetadata: {name: a}\n---\nkind: [broken": "-: document 2:",
		"kind: List\nitems: [{kind: Pod}, {kind: Secret}]":   `not "Secret"`,
	} {
		err := (&World{}).ReadFile("-", strings.NewReader(input))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", input, err, want)
		}
	}
}
