package exercise

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"tinykube"
)

const source = `package x

import (
	"errors"
	"fmt"
	"strings"
	known "time"
)

// T is kept.
type T struct{ Name string }

// Parse reads.
//
// LAB 07 parse: look at each byte,
// twice.
func (t *T) Parse(text string, fs ...fmt.Stringer) (n int, rest []byte, at known.Time, err error) {
	// this is the answer
	return len(strings.Fields(text)), nil, known.Now(), errors.New("x")
}

// LAB 08 print: no result.
func Print() { fmt.Println("answer") }

// Pair is no exercise: LAB 07 would be.
func Pair() (T, *T, bool, string, map[string]int) { return T{}, nil, true, "", nil }

// Zeros has one of each.
//
// LAB 07 zeros: return.
func Zeros() (T, *T, bool, string, map[string]int, func(), any, [2]int, float64) {
	panic("answer")
}
`

func tree() fstest.MapFS {
	return fstest.MapFS{
		"go.mod":      {Data: []byte("module x\n\ngo 1.26\n")},
		"x.go":        {Data: []byte(source)},
		"x_test.go":   {Data: []byte("package x\n\n// LAB 07 test: no.\nfunc no() {}\n")},
		"sub/text.md": {Data: []byte("text")},
	}
}

func TestFind(t *testing.T) {
	all, err := Find(tree(), "")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range all {
		found = append(found, e.ID()+" "+e.File+"#"+e.Function+": "+e.Hint)
	}
	want := "07 parse x.go#T.Parse: look at each byte, twice.\n08 print x.go#Print: no result.\n07 zeros x.go#Zeros: return."
	if got := strings.Join(found, "\n"); got != want {
		t.Errorf("found\n%s\nwant\n%s", got, want)
	}
}

// Stubs compile, whatever the function returns, and only they differ.
func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	all, err := Find(tree(), "07")
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(tree(), dir, all); err != nil {
		t.Fatal(err)
	}
	vet := exec.Command("go", "vet", "./...")
	vet.Dir = dir
	if out, err := vet.CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
	written, err := os.ReadFile(filepath.Join(dir, "x.go"))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(
		"\t// this is the answer\n\treturn len(strings.Fields(text)), nil, known.Now(), errors.New(\"x\")\n", "\treturn 0, nil, *new(known.Time), labMissing(\"07 parse\")\n",
		"\tpanic(\"answer\")\n", "\tpanic(labMissing(\"07 zeros\"))\n",
		"\t\"errors\"", "\t_ \"errors\"", "\t\"strings\"", "\t_ \"strings\"").Replace(source)
	if string(written) != want {
		t.Errorf("written\n%s\nwant\n%s", written, want)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "sub/text.md")); err != nil || string(text) != "text" {
		t.Errorf("sub/text.md: %q, %v", text, err)
	}
	if err := Write(tree(), dir, all); err == nil {
		t.Error("written over what was there")
	}
	// Two of three are left after one was written.
	if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte(strings.Replace(string(written), "labMissing(\"07 zeros\")", "1", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if unwritten, err := Unwritten(dir, all); err != nil || len(unwritten) != 1 || unwritten[0].Name != "parse" {
		t.Errorf("unwritten %v, %v", unwritten, err)
	}
	if _, err := Unwritten(t.TempDir(), all); err == nil {
		t.Error("an empty folder is no tree")
	}
	// What was never a hole there is ours, and earns nobody points.
	other, err := Find(tree(), "08")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unwritten(dir, other); err == nil || !strings.Contains(err.Error(), "started for another lab (07 parse, 07 zeros)") {
		t.Errorf("lab 08 in a tree of lab 07: %v", err)
	}
}

// Each exercise of the real source says enough to begin with.
func TestRealExercises(t *testing.T) {
	all, err := Find(tinykube.Source, "")
	if err != nil || len(all) == 0 {
		t.Fatalf("exercises %v, %v", all, err)
	}
	for _, e := range all {
		if len(e.Hint) < 40 {
			t.Errorf("%s#%s: hint %q", e.File, e.Function, e.Hint)
		}
	}
}
