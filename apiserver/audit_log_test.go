package apiserver

import (
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAuditLogRotates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// Old files of the log, and one that only looks like one.
	old := "audit-2001-01-01T00-00-00.000.log"
	for _, name := range []string{old, "audit-mine.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := openRotating(AuditConfig{LogPath: filepath.Join(dir, "audit.log"), MaxSize: 1, MaxBackups: 2, MaxAge: 1})
	if err != nil {
		t.Fatal(err)
	}
	f.maxBytes = 10
	for _, line := range []string{"first\n", "and more\n", "longer than any file\n", "last\n"} {
		if _, err := f.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond) // names of files are a millisecond apart
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(entry.Name(), "audit-2") || entry.Name() == "audit.log" {
			texts = append(texts, string(data))
		}
		if entry.Name() == old {
			t.Error("a file older than a day is kept")
		}
	}
	// Of the three put aside, the newest two are kept.
	if want := []string{"and more\n", "longer than any file\n", "last\n"}; !slices.Equal(texts, want) {
		t.Errorf("%q, want %q", texts, want)
	}
	if _, err := os.Stat(filepath.Join(dir, "audit-mine.log")); err != nil {
		t.Error(err)
	}
}

// The first rule that matches decides, and a rule matches what all its lists name.
func TestAuditPolicy(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	read := func(rules string) (*auditPolicy, error) {
		if err := os.WriteFile(file, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: "+rules), 0o600); err != nil {
			t.Fatal(err)
		}
		p, _, err := readAuditPolicy(file)
		return p, err
	}
	p, err := read(`[{level: None, nonResourceURLs: ["/readyz*"]}, {level: Request, users: [ada], verbs: [update], namespaces: [a]},
		{level: Metadata, userGroups: [team], resources: [{group: apps, resources: ["deployments/*", "*/status"]}]},
		{level: RequestResponse, resources: [{group: "", resources: [pods], resourceNames: [p]}]}, {level: Metadata, resources: [{group: "*"}]}]`)
	if err != nil {
		t.Fatal(err)
	}
	ada, member := &user{name: "ada"}, &user{name: "eve", groups: []string{"team"}}
	for _, test := range []struct {
		user *user
		verb string
		path string
		want auditLevel
	}{
		{ada, "GET", "/readyz/etcd", auditNone},
		{ada, "GET", "/version", auditNone},
		{ada, "PUT", "/api/v1/namespaces/a/configmaps/c", auditRequest},
		{ada, "PUT", "/api/v1/namespaces/b/configmaps/c", auditMetadata},
		{member, "PUT", "/apis/apps/v1/namespaces/a/deployments/d/scale", auditMetadata},
		{ada, "GET", "/api/v1/namespaces/a/pods/p", auditRequestResponse},
		{ada, "GET", "/api/v1/namespaces/a/pods/q", auditMetadata},
		{nil, "GET", "/api/v1/namespaces/a/pods/p", auditRequestResponse}, // whoever it was
	} {
		target := parseTarget(httptest.NewRequest(test.verb, test.path, nil))
		if got := p.judge(test.user, &target).level; got != test.want {
			t.Errorf("%v %s %s: %s, want %s", test.user, test.verb, test.path, got, test.want)
		}
	}
	for rules, want := range map[string]string{
		"[]":                                    "loaded illegal policy with 0 rules",
		"[{level: Loud}]":                       `rules[0].level: Unsupported value: "Loud": supported values:`,
		"[{users: [a]}]":                        "rules[0].level: Required value",
		"[{level: None, nonResourceURLs: [x]}]": `rules[0].nonResourceURLs[0]: Invalid value: "x": non-resource URL rules must begin with a '/' character`,
		"[{level: None, omitStages: [Never]}]":  `rules[0].omitStages[0]: Invalid value: "Never": allowed stages are`,
	} {
		if _, err := read(rules); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", rules, err, want)
		}
	}
}
