package grade

import (
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"tinykube"
	"tinykube/labs/exercise"
)

// apart are labs that are blanked apart from the others. Without the exercises
// of the first no program runs, and without those of the second and third no
// kubelet: checks of others would fail for a reason that is not theirs.
var apart = [][]string{{"04", "05", "13"}, {"12"}, {"14"}}

// The grader is held to what it asks of others. A tree in which nothing is
// written scores nothing on every check; the source as it is scores all.
func TestBlankScoresNothing(t *testing.T) {
	defer func(before time.Duration) { patience = before }(patience)
	patience = 3 * time.Second
	var others []string
	for number := range suites {
		if !slices.Contains(slices.Concat(apart...), number) {
			others = append(others, number)
		}
	}
	for _, numbers := range append(apart, others) {
		blankScoresNothing(t, numbers)
	}
}

// blankScoresNothing blanks what several labs ask for, and judges each.
func blankScoresNothing(t *testing.T, numbers []string) {
	dir := t.TempDir()
	holes := map[string][]exercise.Exercise{}
	var all []exercise.Exercise
	for _, number := range numbers {
		found, err := exercise.Find(tinykube.Source, number)
		if err != nil || len(found) == 0 {
			t.Fatalf("lab %s has checks but nothing to write: %v", number, err)
		}
		holes[number], all = found, append(all, found...)
	}
	if err := exercise.Write(tinykube.Source, dir+"/tree", all); err != nil {
		t.Fatal(err)
	}
	bin := programs(t, dir+"/tree", numbers)
	for _, number := range numbers {
		if unwritten, err := exercise.Unwritten(dir+"/tree", holes[number]); err != nil || len(unwritten) != len(holes[number]) {
			t.Errorf("lab %s: unwritten %v, %v; want %v", number, unwritten, err, holes[number])
		}
		// Each check is tried, also those that another one stands in for.
		result, err := judge(t.Context(), number, bin, func(Outcome) {}, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, outcome := range result.Outcomes {
			if outcome.Passed || outcome.Score > 0 {
				t.Errorf("lab %s: %q holds although nothing is written", number, outcome.Name)
			}
		}
	}
}

func TestSolutionScoresAll(t *testing.T) {
	bin := programs(t, "../..", slices.Collect(maps.Keys(suites)))
	for number := range suites {
		result, err := judge(t.Context(), number, bin, func(o Outcome) {
			if !o.Passed {
				t.Error("\n" + o.String())
			}
		}, true)
		if err != nil {
			t.Fatal(err)
		}
		if !result.Full() || result.Points == 0 {
			t.Errorf("lab %s: %d of %d points", number, result.Score, result.Points)
		}
	}
}

// programs builds once what several labs run.
func programs(t *testing.T, dir string, numbers []string) string {
	t.Helper()
	bin := t.TempDir()
	var all []string
	for _, number := range numbers {
		all = append(all, suites[number].programs...)
	}
	slices.Sort(all)
	if err := build(t.Context(), dir, bin, slices.Compact(all)); err != nil {
		t.Fatal(err)
	}
	return bin
}

// A tree that does not compile is told so, with the compiler's words.
func TestBrokenTree(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/go.mod", []byte("module tinykube\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Grade(t.Context(), "01", dir, func(Outcome) {}); err == nil {
		t.Error("no error")
	}
}
