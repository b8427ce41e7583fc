package lint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A rule that nothing can break is no rule: each has an import that it forbids and one beside it that it allows.
func TestImportRulesBite(t *testing.T) {
	for _, test := range []struct {
		file, imports string
		broken        bool
	}{
		{"scheduler/bind.go", "tinykube/apiserver/storage", true},
		{"scheduler/bind.go", "tinykube/cmd/kubelet/app", true},
		{"scheduler/bind.go", "tinykube/client", false},
		{"scheduler/plugins/fit.go", "tinykube/scheduler", false},
		{"scheduler/bind_test.go", "tinykube/apiserver", false},
		{"schedulers/bind.go", "tinykube/apiserver", false},
		{"controllers/job/plan.go", "tinykube/controllers/gc", true},
		{"controllers/job/plan.go", "tinykube/controllers", true},
		{"controllers/job/plan.go", "tinykube/controllers/harness", false},
		{"controllers/job/plan.go", "tinykube/controllers/job/status", false},
		{"controllers/start.go", "tinykube/controllers/job", false},
		{"apiserver/watch.go", "go.etcd.io/etcd/client/v3", true},
		{"apiserver/watch.go", "go.etcd.io/etcd/server/v3/embed", true},
		{"apiserver/storage/store.go", "go.etcd.io/etcd/client/v3", false},
		{"apiserver/storage/embedded/start.go", "go.etcd.io/etcd/server/v3/embed", false},
		{"kubelet/run.go", "go.etcd.io/etcd/client/v3", true},
		{"flannel/etcd/lease.go", "go.etcd.io/etcd/client/v3", false},
		{"cmd/etcdctl/main.go", "go.etcd.io/etcd/etcdctl/v3/ctlv3", false},
		{"kubelet/run.go", "k8s.io/client-go/rest", true},
		{"kubelet/run_test.go", "k8s.io/client-go/rest", true},
		{"cmd/kubectl/app/kubectl.go", "k8s.io/client-go/rest", false},
		{"cmd/tinykube/main.go", "tinykube/kubelet", false},
		{"api/qos/qos.go", "os", true},
		{"api/qos/qos.go", "tinykube/client", true},
		{"api/qos/qos.go", "tinykube/api/requests", false},
		{"client/rest.go", "tinykube/kubelet", true},
		{"internal/node/init.go", "tinykube/kubelet", true},
		{"internal/testenv/start.go", "tinykube/apiserver", false},
		{"kubelet/sandbox.go", "github.com/containernetworking/cni/libcni", true},
		{"cri/sandbox.go", "github.com/containernetworking/cni/libcni", false},
	} {
		problems := CheckImports([]File{{Path: test.file, Imports: []string{test.imports}}})
		if broken := len(problems) > 0; broken != test.broken {
			t.Errorf("%s importing %s: problems %v, want broken %v", test.file, test.imports, problems, test.broken)
		}
	}
}

func TestAnchorsResolve(t *testing.T) {
	folder := t.TempDir()
	source := "package x\n\ntype T[K any] struct{ Field int }\n\nfunc (t *T[K]) Method() {}\n\nfunc Func() {}\n\nconst Const, other = 1, 2\n\ntype I interface{ Do() }\n"
	if err := os.WriteFile(filepath.Join(folder, "x.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	cite := func(target string) []string {
		return CheckAnchors(folder, []File{{Path: "doc.md", Content: []byte("see {" + "code:" + target + "}.")}})
	}
	for _, target := range strings.Fields("x.go x.go#T x.go#T.Field x.go#T.Method x.go#Func x.go#other x.go#I.Do") {
		if problems := cite(target); len(problems) > 0 {
			t.Errorf("%s: %v", target, problems)
		}
	}
	for _, target := range strings.Fields("y.go y.go#T x.go#Method x.go#T.Gone x.go#Gone") {
		if problems := cite(target); len(problems) != 1 || !strings.HasPrefix(problems[0], "doc.md:1: ") {
			t.Errorf("%s: problems %v, want one", target, problems)
		}
	}
}

// A chapter that shows what is not so is found out, whatever it shows.
func TestDocsAreCompared(t *testing.T) {
	folder := t.TempDir()
	source := "package x\n\n// F adds.\n//\n// Simplified: no floats. More.\nfunc F(a, b int) int {\n\tif a > b {\n\t\treturn b\n\t}\n\treturn a + b\n}\n\nfunc G() {}\n"
	if err := os.WriteFile(filepath.Join(folder, "x.go"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	x, err := load(filepath.Join(folder, "x.go"), "x/x.go")
	if err != nil {
		t.Fatal(err)
	}
	lab := File{Path: "labs/07-x/README.md", Content: []byte("```console\n$ a\n1\n2\n3\n$ b\n4\n```\n")}
	for block, right := range map[string]bool{
		"console\n$ a\n1\n2\n3":                            true,
		"console\n$ a\n1\n...\n$ b\n4":                     true,
		"console\n$ a\n2":                                  false,
		"console\n$ b\n4\n...\n$ a":                        false,
		"go {" + "code:x.go#F}\n\treturn a + b\n}":         true,
		"go {" + "code:x.go#F}\n// F adds.\n...\nreturn b": true,
		"go {" + "code:x.go#F}\nreturn a - b":              false,
		"go {" + "code:x.go#G}\nreturn a + b":              false,
		"go\nfunc F() {}":                                  false,
		"text {tags:x}\nx.go  Simplified: no floats.":      true,
		"text {tags:x}":                                    false,
		"sh\nanything":                                     true,
	} {
		doc := File{Path: "docs/07-x.md", Content: []byte("text\n```" + block + "\n```\n")}
		if problems := CheckDocs(folder, []File{lab, x, doc}); (len(problems) == 0) != right {
			t.Errorf("%s\nproblems %v, right %v", block, problems, right)
		}
	}
}

func TestLinksAreFollowed(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "x.md"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	doc := File{Path: "docs/a.md", Content: []byte("[a](../x.md) [b](../x.md#part) [c](https://x/y) [d](y.md)")}
	code := File{Path: "x/x.go", Content: []byte("// Book: " + "docs/gone.md")}
	if problems := CheckLinks(folder, []File{doc, code}); len(problems) != 2 {
		t.Errorf("problems %v, want two", problems)
	}
}

func TestLongFilesFound(t *testing.T) {
	long := File{Path: "kubelet/all.go", Content: []byte("package kubelet\n" + strings.Repeat("\n", longFile))}
	if problems := CheckSizes([]File{long}); len(problems) != 1 {
		t.Errorf("problems %v, want one", problems)
	}
	long.Content = append([]byte("// Code generated by x. DO NOT EDIT.\n"), long.Content...)
	if problems := CheckSizes([]File{long}); len(problems) != 0 {
		t.Errorf("generated: problems %v, want none", problems)
	}
}
