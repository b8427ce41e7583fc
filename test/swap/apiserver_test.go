package swap

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"tinykube/client"
	"tinykube/internal/etcdtest"
	"tinykube/internal/testenv"
	"tinykube/test/clusters"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

// TestTradingPlaces: ours writes an object of each kind, a real kube-apiserver
// over the same etcd, at the same address, shows every one of them as ours did,
// writes its own, and ours shows these as it did, and again everything else.
func TestTradingPlaces(t *testing.T) {
	path := clusters.Program(t, "KUBE_APISERVER")
	env := testenv.New(t)
	ours := open(t, env.Config)
	shown := ours.follow(t)
	ours.createAll(t, "ours")
	first := ours.everything(t, "ours")
	env.StopServer()

	real, stop := startReal(t, env, path)
	same(t, "ours, read by the real one", first, real.everything(t, "ours"))
	real.createAll(t, "real")
	first, second := real.everything(t, "ours"), real.everything(t, "real")
	stop()

	env.StartServer(t)
	same(t, "ours, read again by ours", first, ours.everything(t, "ours"))
	same(t, "the real one's, read by ours", second, ours.everything(t, "real"))
	// What is shown can also be written.
	ours.do(t, client.Request{Method: "PATCH", Path: "/api/v1/namespaces/real/services/web", ContentType: "application/merge-patch+json",
		Body: []byte(`{"metadata":{"labels":{"seen":"by-ours"}}}`)})
	ours.do(t, client.Request{Method: "DELETE", Path: "/apis/example.com/v1/namespaces/real/reals/k"})
	eventually(t, "a client that never noticed knows all Services", func(ctx context.Context) (bool, error) {
		list, err := client.For(ours.Client, client.Services).List(ctx, "", metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		diff := cmp.Diff(byName(list.Items), byName(shown.List()))
		return diff == "", fmt.Errorf("it lacks (-) or has (+):\n%s", diff)
	})
	t.Logf("%d objects of ours and %d of the real one are the same on both", len(first), len(second))
}

// startReal runs a kube-apiserver with the keys and the etcd of env.
func startReal(t *testing.T, env *testenv.Env, path string) (*server, func()) {
	t.Helper()
	address, err := url.Parse(env.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(env.Dir, "pki", name) }
	log, err := os.Create(filepath.Join(env.Dir, "real.log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "--etcd-servers="+env.EtcdEndpoint(), "--bind-address="+address.Hostname(), "--secure-port="+address.Port(),
		"--tls-cert-file="+file("apiserver.crt"), "--tls-private-key-file="+file("apiserver.key"), "--client-ca-file="+file("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file="+file("sa.key"),
		"--service-account-signing-key-file="+file("sa.key"), "--service-cluster-ip-range=10.96.0.0/12",
		"--authorization-mode=Node,RBAC", "--advertise-address=10.0.0.1", "--endpoint-reconciler-type=none")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			_ = cmd.Process.Kill() // its state is in etcd
			_ = cmd.Wait()
		}
	}
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("the real kube-apiserver printed:\n%s", data[max(0, len(data)-4000):])
		}
	})
	s := open(t, env.Config)
	eventually(t, "the real kube-apiserver is ready", func(ctx context.Context) (bool, error) {
		response, err := s.Do(ctx, client.Request{Method: "GET", Path: "/readyz"})
		if err != nil {
			return false, err
		}
		return true, response.Body.Close()
	})
	return s, stop
}

// server is an API server under judgement.
type server struct{ *client.Client }

func open(t *testing.T, config *client.Config) *server {
	t.Helper()
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return &server{c}
}

// follow is a client that lists once and then watches, whoever serves: what it
// was told by one server must mean the same to the next.
func (s *server) follow(t *testing.T) *client.Informer[*corev1.Service] {
	t.Helper()
	informer := client.NewInformer(client.For(s.Client, client.Services), client.InformerOptions[*corev1.Service]{Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- informer.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-informer.Synced()
	return informer
}

// byName is uid and resourceVersion of each Service.
func byName(services []*corev1.Service) map[string]string {
	out := map[string]string{}
	for _, s := range services {
		out[s.Namespace+"/"+s.Name] = fmt.Sprint(s.UID, " ", s.ResourceVersion)
	}
	return out
}

func (s *server) do(t *testing.T, request client.Request) []byte {
	t.Helper()
	data, err := s.try(t.Context(), request)
	if err != nil {
		t.Fatalf("%s %s: %v", request.Method, request.Path, err)
	}
	return data
}

func (s *server) try(ctx context.Context, request client.Request) ([]byte, error) {
	response, err := s.Do(ctx, request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// createAll posts testdata/everything.yaml under a name.
func (s *server) createAll(t *testing.T, name string) {
	t.Helper()
	text, err := os.ReadFile("testdata/everything.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for document := range strings.SplitSeq(strings.ReplaceAll(string(text), "NAME", name), "\n---\n") {
		var object metav1.PartialObjectMetadata
		data, err := yaml.YAMLToJSON([]byte(document))
		if err == nil {
			err = json.Unmarshal(data, &object)
		}
		if err != nil {
			t.Fatalf("%v in %s", err, document)
		}
		eventually(t, "create "+object.Kind+" "+object.Name, func(ctx context.Context) (bool, error) {
			path := s.collection(t, object.APIVersion, object.Kind, object.Namespace)
			if path == "" {
				return false, fmt.Errorf("no resource for %s", object.Kind) // its definition is new
			}
			_, err := s.try(ctx, client.Request{Method: "POST", Path: path, Body: data})
			// Who waits for a kind or a service account sees it a moment later.
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) && !apierrors.IsAlreadyExists(err) {
				t.Fatalf("create %s %s: %v", object.Kind, object.Name, err)
			}
			return err == nil || apierrors.IsAlreadyExists(err), err
		})
	}
}

// resources is what discovery lists, by group and version.
func (s *server) resources(t *testing.T) []apidiscoveryv2.APIGroupDiscovery {
	t.Helper()
	var all []apidiscoveryv2.APIGroupDiscovery
	for _, path := range []string{"/api", "/apis"} {
		var list apidiscoveryv2.APIGroupDiscoveryList
		data := s.do(t, client.Request{Method: "GET", Path: path, Accept: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"})
		if err := json.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		all = append(all, list.Items...)
	}
	return all
}

func base(group, version string) string {
	if group == "" {
		return "/api/" + version
	}
	return "/apis/" + group + "/" + version
}

// collection finds where objects of a kind are posted; "" if it is not known.
func (s *server) collection(t *testing.T, apiVersion, kind, namespace string) string {
	t.Helper()
	for _, group := range s.resources(t) {
		for _, version := range group.Versions {
			if strings.TrimPrefix(group.Name+"/"+version.Version, "/") != apiVersion {
				continue
			}
			for _, r := range version.Resources {
				if r.ResponseKind.Kind == kind && namespace == "" {
					return base(group.Name, version.Version) + "/" + r.Resource
				} else if r.ResponseKind.Kind == kind {
					return base(group.Name, version.Version) + "/namespaces/" + namespace + "/" + r.Resource
				}
			}
		}
	}
	return ""
}

// everything lists all objects that were made under a name, in every version,
// each as the server shows it.
func (s *server) everything(t *testing.T, name string) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, group := range s.resources(t) {
		for _, version := range group.Versions {
			for _, r := range version.Resources {
				listable := false
				for _, verb := range r.Verbs {
					listable = listable || verb == "list"
				}
				if !listable || r.Resource == "componentstatuses" {
					continue
				}
				path := base(group.Name, version.Version) + "/" + r.Resource
				var list struct{ Items []map[string]any }
				if err := json.Unmarshal(s.do(t, client.Request{Method: "GET", Path: path}), &list); err != nil {
					t.Fatal(err)
				}
				for _, item := range list.Items {
					meta := item["metadata"].(map[string]any)
					if meta["namespace"] != name && (meta["namespace"] != nil || !strings.HasPrefix(meta["name"].(string), name)) {
						continue
					}
					out[fmt.Sprint(path, " ", meta["name"])] = item
				}
			}
		}
	}
	return out
}

// same compares what two servers show; what only one of them serves is no
// difference between objects, and listed by the golden tests.
func same(t *testing.T, what string, want, got map[string]any) {
	t.Helper()
	for key, object := range want {
		if _, served := got[key]; !served {
			t.Errorf("%s: %s is missing", what, key)
		} else if diff := cmp.Diff(object, got[key]); diff != "" {
			t.Errorf("%s: %s (-first +then):\n%s", what, key, diff)
		}
	}
}
