//go:build mutants

package grade

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tinykube"
	"tinykube/labs/exercise"
)

// Every mistake costs points, where it should; every check finds one.
func TestMutants(t *testing.T) {
	defer func(before time.Duration) { checkTimeout = before }(checkTimeout)
	checkTimeout = 30 * time.Second // most of what fails here waits in vain
	matrix := "a row per mistake, a column per check\n"
	useful := map[string]map[string]bool{} // by lab, checks that found something
	defer func() {
		t.Log(matrix)
		for number, found := range useful { // all labs, or those that -run chose
			for _, check := range suites[number].checks {
				if !found[check.Name] {
					t.Errorf("lab %s: no mistake is found by %q", number, check.Name)
				}
			}
		}
	}()
	for _, mutant := range allMutants() {
		t.Run(mutant.lab+" "+mutant.name, func(t *testing.T) {
			if useful[mutant.lab] == nil {
				useful[mutant.lab] = map[string]bool{}
			}
			dir := filepath.Join(t.TempDir(), "tree")
			if err := exercise.Write(tinykube.Source, dir, nil); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, mutant.file)
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			wrong, err := mutant.apply(string(content))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(wrong), 0o644); err != nil {
				t.Fatal(err)
			}
			result, err := Grade(t.Context(), mutant.lab, dir, func(o Outcome) { t.Log("\n" + o.String()) })
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range result.Outcomes {
				matrix += o.sign() + " "
				useful[mutant.lab][o.Name] = useful[mutant.lab][o.Name] || !o.Passed && !o.Skipped
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
