package lint

import (
	"fmt"
	"slices"
	"strings"
)

// components are the folders that meet only at real protocols: each is one program, or several, and could be replaced
// by upstream's.
var components = []string{"apiserver", "scheduler", "controllers", "kubelet", "cri", "cni", "proxy", "flannel", "csi", "bootstrap"}

// importRule forbids imports. Paths match with everything below them; our own are written from the repository's root.
type importRule struct {
	reason    string
	importers []string // whom it binds; empty is everybody
	except    []string // whom it does not bind after all
	forbidden []string
	allowed   []string // what is allowed although forbidden matches
	tests     bool     // it binds tests too
}

// importRules are the architecture's absences. Tests may join what programs may not, unless a rule says otherwise.
var importRules = slices.Concat(componentRules(), []importRule{
	{
		reason:    "api is pure: shared nouns and functions of them, no I/O",
		importers: []string{"api"},
		forbidden: []string{"tinykube", "os", "os/exec", "net/http", "google.golang.org/grpc"},
		allowed:   []string{"tinykube/api"},
	},
	{
		reason:    "client is below every component",
		importers: []string{"client"},
		forbidden: []string{"tinykube"},
		allowed:   []string{"tinykube/client", "tinykube/api", "tinykube/internal"},
	},
	{
		reason:    "only cmd, labs and tests' environments join components",
		importers: []string{"internal"},
		except:    []string{"internal/testenv", "internal/etcdtest"},
		forbidden: under(components...),
	},
	{
		reason:    "nobody but the API server touches the cluster's etcd, and there only the storage; flannel's store is its own",
		except:    []string{"apiserver/storage", "flannel/etcd", "cmd/etcd", "cmd/etcdctl", "internal/testenv", "internal/etcdtest"},
		forbidden: []string{"go.etcd.io"},
	},
	{
		reason: "our components speak the API through our own client; upstream's lives only in the embedded kubectl",
		except: []string{"cmd/kubectl"},
		forbidden: []string{"k8s.io/client-go", "k8s.io/apiserver", "k8s.io/kubernetes", "k8s.io/component-base", "k8s.io/kubectl",
			"k8s.io/cli-runtime", "k8s.io/apiextensions-apiserver", "sigs.k8s.io/controller-runtime"},
		tests: true,
	},
	{
		reason:    "the kubelet never runs CNI itself, nor knows which runtime is behind CRI",
		importers: []string{"kubelet"},
		forbidden: []string{"github.com/containernetworking", "github.com/containerd"},
	},
	{
		reason:    "the CNI plugins are a small program of their own: no API, no runtime",
		importers: []string{"cni"},
		forbidden: []string{"tinykube/client", "k8s.io", "github.com/containerd/containerd"},
	},
	{
		reason:    "pure planning needs no client of containerd, etcd or gRPC in the scheduler, controllers, proxy and flannel",
		importers: []string{"scheduler", "controllers", "proxy", "flannel"},
		forbidden: []string{"github.com/containerd", "google.golang.org/grpc"},
	},
})

// componentRules say that a component imports itself, api, client, internal and third parties.
func componentRules() []importRule {
	var rules []importRule
	for _, component := range components {
		rules = append(rules, importRule{
			reason:    "a component imports itself, api, client, internal and third parties: components meet at sockets",
			importers: []string{component},
			forbidden: under(""),
			allowed:   under(component, "api", "client", "internal"),
		})
	}
	return rules
}

// under turns folders into import paths.
func under(folders ...string) []string {
	paths := make([]string, len(folders))
	for i, folder := range folders {
		paths[i] = strings.TrimSuffix(module+"/"+folder, "/")
	}
	return paths
}

// CheckImports lists each import that breaks a rule, with the rule's reason.
func CheckImports(files []File) []string {
	var problems []string
	for _, file := range files {
		for _, imported := range file.Imports {
			for _, rule := range importRules {
				if rule.breaks(file, imported) {
					problems = append(problems, fmt.Sprintf("%s imports %s: %s", file.Path, imported, rule.reason))
				}
			}
			if controllersMeet(file.Folder(), imported) {
				problems = append(problems, fmt.Sprintf("%s imports %s: a controller never talks to another controller", file.Path, imported))
			}
		}
	}
	return problems
}

func (r importRule) breaks(file File, imported string) bool {
	if file.IsTest() && !r.tests {
		return false
	}
	if len(r.importers) > 0 && !within(file.Folder(), r.importers) || within(file.Folder(), r.except) {
		return false
	}
	return within(imported, r.forbidden) && !within(imported, r.allowed)
}

// controllersMeet tells an import of one controller by another. All of them stand on the harness; the package
// controllers itself only starts them.
func controllersMeet(folder, imported string) bool {
	importer, isController := strings.CutPrefix(folder, "controllers/")
	target, isTarget := strings.CutPrefix(imported, module+"/controllers/")
	if !isController || !isTarget {
		return isController && imported == module+"/controllers"
	}
	importer, _, _ = strings.Cut(importer, "/")
	target, _, _ = strings.Cut(target, "/")
	return importer != target && target != "harness"
}

// within tells whether path is one of roots or below it.
func within(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || strings.HasPrefix(path, root+"/")
	})
}
