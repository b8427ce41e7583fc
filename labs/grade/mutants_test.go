//go:build mutants

package grade

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tinykube"
	"tinykube/labs/exercise"
)

// mutants are mistakes that a person could make, as changes of the solution,
// each with a check that must not hold for it.
var mutants = []struct {
	lab, name, file string
	old, new        string
	fails           string // a part of the check's name
}{
	{"01", "compares with what is there now, not with what was seen", "apiserver/storage/write.go",
		"revision, found, err := t.swap(ctx, key, current.Revision,", "fresh, _ := t.read(ctx, key)\n\t\trevision, found, err := t.swap(ctx, key, fresh.Revision,",
		"overwrites nothing"},
	{"01", "believes the cache's refusal", "apiserver/storage/write.go",
		"if err != nil && certain {", "if err != nil {", "refuses nothing"},
	{"01", "believes the cache that there is nothing to do", "apiserver/storage/write.go",
		"case same && certain:", "case same:", "nothing to do"},
	{"01", "takes a lost swap for a won one", "apiserver/storage/write.go",
		"current, certain = t.item(found), true", "return t.item(found), nil", "lose nothing"},
	{"01", "gives up after a lost swap", "apiserver/storage/write.go",
		"current, certain = t.item(found), true", "return nil, apierrors.NewConflict(t.row.GVR().GroupResource(), key, errors.New(\"lost\"))", "made again"},
	{"01", "swaps again what it made of the old object", "apiserver/storage/write.go",
		"current, certain = t.item(found), true", "revision, _, err = t.swap(ctx, key, found.ModRevision, value, change.Also)\n\t\t\tif err != nil {\n\t\t\t\treturn nil, err\n\t\t\t}\n\t\t\treturn t.written(current, value, revision)",
		"made again"},
	{"01", "tries again when the answer is lost", "apiserver/storage/write.go",
		"case err != nil:\n\t\t\treturn nil, err\n\t\tcase revision > 0:", "case err != nil:\n\t\t\tcurrent = nil\n\t\tcase revision > 0:", "never a second try"},
	{"01", "answers with the old revision", "apiserver/storage/write.go",
		"return t.written(current, value, revision)", "return t.written(current, value, current.Revision)", "the version grows"},
	{"01", "writes what was deleted meanwhile", "apiserver/storage/write.go",
		"case found == nil: // deleted meanwhile, as the read will say\n", "case found == nil:\n\t\t\tif value != nil {\n\t\t\t\trevision, _, err = t.swap(ctx, key, 0, value, nil)\n\t\t\t\tif err != nil {\n\t\t\t\t\treturn nil, err\n\t\t\t\t}\n\t\t\t\treturn t.written(current, value, revision)\n\t\t\t}\n",
		"stays gone"},
	{"01", "takes a refusal for an answer", "apiserver/storage/write.go",
		"if err != nil && certain {\n\t\t\treturn nil, err", "if err != nil && certain {\n\t\t\treturn current, nil", "is refused: 409"},
	{"01", "always writes", "apiserver/storage/write.go",
		"value, same, err := t.prepare(current, change)", "value, _, err := t.prepare(current, change)\n\t\tsame := false", "writes nothing"},
}

// Every mistake costs points, where it should; every check finds one.
func TestMutants(t *testing.T) {
	matrix := "a row per mistake, a column per check\n"
	useful := map[string]bool{} // checks that found something
	defer func() {
		t.Log(matrix)
		for number, suite := range suites {
			for _, check := range suite.checks {
				if !useful[check.Name] {
					t.Errorf("lab %s: no mistake is found by %q", number, check.Name)
				}
			}
		}
	}()
	for _, mutant := range mutants {
		t.Run(mutant.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tree")
			if err := exercise.Write(tinykube.Source, dir, nil); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, mutant.file)
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(content), mutant.old); n != 1 {
				t.Fatalf("the mutant has rotted: %q is %d times in %s", mutant.old, n, mutant.file)
			}
			if err := os.WriteFile(file, []byte(strings.Replace(string(content), mutant.old, mutant.new, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
			result := graded(t, mutant.lab, dir)
			for _, o := range result.Outcomes {
				matrix += o.sign() + " "
				useful[o.Name] = useful[o.Name] || !o.Passed && !o.Skipped
			}
			matrix += fmt.Sprintf("  %2d/%d  %s\n", result.Score, result.Points, mutant.name)
			if result.Full() {
				t.Error("full marks")
			}
			if !slices.ContainsFunc(result.Outcomes, func(o Outcome) bool { return strings.Contains(o.Name, mutant.fails) && !o.Passed && !o.Skipped }) {
				t.Errorf("the check that %q passed, or was not tried", mutant.fails)
			}
		})
	}
}
