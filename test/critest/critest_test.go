package critest

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tinykube/test/clusters"
)

// suite is critest's report.
type suite struct {
	Specs []spec `xml:"testsuite>testcase"`
}

type spec struct {
	Name    string  `xml:"name,attr"`
	Status  string  `xml:"status,attr"`
	Seconds float64 `xml:"time,attr"`
	Failure *struct {
		Message string `xml:"message,attr"`
	} `xml:"failure"`
	Skipped *struct {
		Message string `xml:"message,attr"`
	} `xml:"skipped"`
}

const passed = "passed"

// TestSuite runs every spec but the benchmarks on both runtimes and compares
// what happens with the list.
func TestSuite(t *testing.T) {
	critest := clusters.Program(t, "CRITEST")
	unpack(t)
	results := map[string]map[string]spec{}
	for _, runtime := range []runtimeUnderTest{ours, theirs} {
		t.Run(runtime.name, func(t *testing.T) {
			runtime.start(t)
			began := time.Now()
			report := runtime.run(t, critest)
			results[runtime.name] = map[string]spec{}
			for _, s := range report.Specs {
				if s.Skipped == nil || !strings.HasPrefix(s.Skipped.Message, "skipped\n") && s.Skipped.Message != "skipped" {
					results[runtime.name][s.Name] = s
				}
			}
			t.Logf("%s: %d specs in %.0f s", runtime.name, len(results[runtime.name]), time.Since(began).Seconds())
		})
	}
	compare(t, results)
}

// run runs the suite once and reads its report.
func (r runtimeUnderTest) run(t *testing.T, critest string, arguments ...string) suite {
	t.Helper()
	dir := t.TempDir()
	if keep := os.Getenv("CRITEST_REPORT"); keep != "" {
		dir = filepath.Join(keep, r.name)
		must(t, os.MkdirAll(dir, 0o755))
	}
	imageList := filepath.Join(dir, "images.yaml")
	must(t, os.WriteFile(imageList, []byte("defaultTestContainerImage: "+defaultImage+"\nwebServerTestImage: "+webServer+"\n"), 0o644))
	log, err := os.Create(filepath.Join(dir, "critest.log"))
	must(t, err)
	defer log.Close()
	report := filepath.Join(dir, "junit.xml")
	cmd := exec.Command(critest, append([]string{"--runtime-endpoint", "unix://" + r.socket, "--test-images-file", imageList,
		"--ginkgo.junit-report", report, "--ginkgo.no-color", "--ginkgo.seed", "1"}, arguments...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = dir
	failed := cmd.Run() // which is the report's to say
	data, err := os.ReadFile(report)
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("critest: %v, no report: %v:\n%s", failed, err, text[max(0, len(text)-4000):])
	}
	var specs suite
	must(t, xml.Unmarshal(data, &specs))
	return specs
}

// compare prints both runs side by side and fails for what the list does not
// know, or knows wrongly.
func compare(t *testing.T, results map[string]map[string]spec) {
	var names []string
	for _, result := range results {
		for name := range result {
			if !slices.Contains(names, name) && strings.HasPrefix(name, "[It]") {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	var table strings.Builder
	used := map[string]bool{}
	count := map[string]map[string]int{ours.name: {}, theirs.name: {}}
	fmt.Fprintf(&table, "%-10s %-10s spec\n", ours.name, theirs.name)
	for _, name := range names {
		for _, runtime := range []string{ours.name, theirs.name} {
			result := results[runtime][name]
			count[runtime][result.Status]++
			fmt.Fprintf(&table, "%-10s ", result.Status)
			key, reasons := findReasons(name)
			used[key] = true
			reason, listed := reasons.on(runtime)
			switch {
			case result.Status == passed && listed:
				t.Errorf("%s passes %q, which is listed as left out: %s", runtime, name, reason)
			case result.Status != passed && !listed:
				t.Errorf("%s: %s %q:\n%s", runtime, result.Status, name, result.message())
			}
		}
		fmt.Fprintln(&table, strings.TrimPrefix(name, "[It] [k8s.io] "))
	}
	for key := range leftOut {
		if !used[key] {
			t.Errorf("%q is listed and no spec begins so", key)
		}
	}
	t.Logf("\n%s%d specs: %v on %s, %v on %s", &table, len(names), count[ours.name], ours.name, count[theirs.name], theirs.name)
}

func (s spec) message() string {
	switch {
	case s.Failure != nil:
		return s.Failure.Message
	case s.Skipped != nil:
		return s.Skipped.Message
	}
	return ""
}
