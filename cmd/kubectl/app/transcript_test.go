package app

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tinykube/internal/reference"
	"tinykube/internal/testenv"
)

// What is in testdata/transcript is what people type and what kubectl printed
// on a real kube-apiserver v1.36: a line with "$ " is a command, what follows
// is its output, and ours must look the same. Commands that print something
// else on ours, for a reason that the API server's own conversations note, are
// not in the files.
//
//	REAL_KUBECONFIG=file go test ./cmd/kubectl/app -run TestTranscripts -update

var update = flag.Bool("update", false, "write down what the API server of $REAL_KUBECONFIG makes kubectl print")

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcript/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	objects := manifests(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var known string
			if strings.Contains(string(data), "$MANIFESTS") {
				known = reference.Path(t, "manifests")
			}
			path, err := filepath.Abs(file)
			if err != nil {
				t.Fatal(err)
			}
			k := kubectl{t, os.Getenv("REAL_KUBECONFIG"), t.TempDir()}
			if k.kubeconfig == "" {
				k.kubeconfig = testenv.New(t).Kubeconfig
			}
			dir := t.TempDir()
			writeAll(t, filepath.Join(dir, "kinds.yaml"), objects, func(map[string]any) {})
			if err := os.CopyFS(dir, os.DirFS("testdata/transcript")); err != nil {
				t.Fatal(err)
			}
			t.Chdir(dir)
			var out strings.Builder
			for _, block := range regexp.MustCompile(`(?m)^\$ `).Split(string(data), -1)[1:] {
				command, want, _ := strings.Cut(block, "\n")
				got := comparable(k.run(words(strings.ReplaceAll(command, "$MANIFESTS", known))...), known)
				fmt.Fprintf(&out, "$ %s\n%s", command, got)
				if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" && !*update {
					t.Errorf("kubectl %s (-upstream +ours):\n%s", command, diff)
				}
			}
			if *update {
				if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// words splits a command at spaces that are not within single quotes.
func words(command string) []string {
	var out []string
	for i, part := range strings.Split(command, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// changing is what differs between two runs, or two servers, for good reason.
var changing = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`https://[\w.]+:\d+`), "https://HOST"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "UID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}`), "TIME"},
	{regexp.MustCompile(`([rR]esource ?[vV]ersion:\s+)"?\d+"?`), "${1}N"},
	{regexp.MustCompile(`\b10\.(9[6-9]|10\d|11[01])\.\d+\.\d+\b`), "IP"},
	{regexp.MustCompile(`\b3[0-2]\d{3}\b`), "NODEPORT"},
	{regexp.MustCompile(`(kube-api-access-)[a-z0-9]{5}\b`), "$1*"},
	{regexp.MustCompile(`\b(\d+m)?\d+s\b|\b\d+y\d+d\b`), "AGE"},
	{regexp.MustCompile(`(?m)(\S) {2,}`), "$1  "}, // columns are as wide as their contents
	{regexp.MustCompile(`(?m)[ \t]+$`), ""},
	// Objects in messages: upstream writes those of its internal types.
	{regexp.MustCompile(`Invalid value: \{.*`), "Invalid value: OBJECT"},
	{regexp.MustCompile(`(?s)\n@@.*`), " (the difference)"},
}

func comparable(text, manifests string) string {
	if manifests != "" {
		text = strings.ReplaceAll(text, manifests, "$MANIFESTS")
	}
	for _, c := range changing {
		text = c.pattern.ReplaceAllString(text, c.with)
	}
	if text = strings.TrimRight(text, "\n"); text == "" {
		return "\n"
	}
	return text + "\n\n"
}
