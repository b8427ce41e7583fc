package apiserver_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver"
	"tinykube/client"
	"tinykube/internal/etcdtest"
	"tinykube/internal/testenv"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

func TestDeletion(t *testing.T) {
	t.Parallel()
	a := newAPI(t, testenv.Start(t))
	const maps = "/api/v1/namespaces/default/configmaps"
	finalizers := func(obj map[string]any) string {
		return fmt.Sprint(obj["metadata"].(map[string]any)["finalizers"])
	}
	t.Run("finalizer", func(t *testing.T) {
		a.ok("POST", maps, asJSON, `{"metadata":{"name":"a","finalizers":["example.com/x"]}}`)
		if out := a.ok("DELETE", maps+"/a", "", ""); out["metadata"].(map[string]any)["deletionTimestamp"] == nil {
			t.Errorf("not marked: %v", out)
		}
		if code, text, status := a.send("PATCH", maps+"/a", asMerge, `{"metadata":{"finalizers":["example.com/x","example.com/y"]}}`); status == nil || code != 422 || !strings.Contains(text, "no new finalizers can be added if the object is being deleted") {
			t.Errorf("%d %s", code, text)
		}
		a.ok("PATCH", maps+"/a", asMerge, `{"metadata":{"finalizers":null}}`)
		if code, _, _ := a.send("GET", maps+"/a", "", ""); code != 404 {
			t.Errorf("still there: %d", code)
		}
	})
	t.Run("propagation", func(t *testing.T) {
		for policy, want := range map[string]string{"Foreground": "[foregroundDeletion]", "Orphan": "[orphan]"} {
			a.ok("POST", maps, asJSON, `{"metadata":{"name":"b"}}`)
			if out := a.ok("DELETE", maps+"/b", asJSON, `{"propagationPolicy":"`+policy+`"}`); finalizers(out) != want {
				t.Errorf("%s: %s, want %s", policy, finalizers(out), want)
			}
			a.ok("PATCH", maps+"/b", asMerge, `{"metadata":{"finalizers":null}}`)
		}
	})
	t.Run("status of the answer", func(t *testing.T) {
		a.ok("POST", maps, asJSON, `{"metadata":{"name":"c"}}`)
		out := a.ok("DELETE", maps+"/c", "", "")
		if out["status"] != "Success" || out["details"].(map[string]any)["kind"] != "configmaps" {
			t.Errorf("got %v", out)
		}
	})
	t.Run("namespace", func(t *testing.T) {
		a.ok("POST", "/api/v1/namespaces", asJSON, `{"metadata":{"name":"n"}}`)
		a.ok("DELETE", "/api/v1/namespaces/n", "", "")
		if code, text, _ := a.send("POST", "/api/v1/namespaces/n/configmaps", asJSON, `{"metadata":{"name":"c"}}`); code != 403 || !strings.Contains(text, `configmaps "c" is forbidden: unable to create new content in namespace n because it is being terminated`) {
			t.Errorf("%d %s", code, text)
		}
		out := a.ok("GET", "/api/v1/namespaces/n", "", "")
		if phase := out["status"].(map[string]any)["phase"]; phase != "Terminating" {
			t.Errorf("phase %v", phase)
		}
		a.ok("PUT", "/api/v1/namespaces/n/finalize", asJSON, `{"metadata":{"name":"n"},"spec":{"finalizers":[]}}`)
		if code, _, _ := a.send("GET", "/api/v1/namespaces/n", "", ""); code != 404 {
			t.Errorf("still there: %d", code)
		}
	})
	t.Run("pod", func(t *testing.T) {
		const pods = "/api/v1/namespaces/default/pods"
		a.ok("POST", "/api/v1/namespaces/default/serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
		a.ok("POST", pods, asJSON, `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)
		a.ok("POST", pods+"/p/binding", asJSON, `{"metadata":{"name":"p"},"target":{"kind":"Node","name":"n1"}}`)
		if code, text, _ := a.send("POST", pods+"/p/binding", asJSON, `{"target":{"kind":"Node","name":"n2"}}`); code != 409 || !strings.Contains(text, `already assigned to node "n1"`) {
			t.Errorf("second binding: %d %s", code, text)
		}
		out := a.ok("DELETE", pods+"/p", "", "")["metadata"].(map[string]any)
		if out["deletionGracePeriodSeconds"] != 30.0 {
			t.Errorf("grace %v", out["deletionGracePeriodSeconds"])
		}
		a.ok("GET", pods+"/p", "", "") // until the kubelet says so
		a.ok("DELETE", pods+"/p", asJSON, `{"gracePeriodSeconds":0}`)
		if code, _, _ := a.send("GET", pods+"/p", "", ""); code != 404 {
			t.Errorf("still there: %d", code)
		}
	})
}

// However many create Services at once, no number is given twice.
func TestAllocationIsExclusive(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, func(c *apiserver.Config) {
		c.ServiceCIDR, c.NodePortRange = "10.96.0.0/26", "30000-30039"
	})
	c, err := client.New(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	services := client.For(c, client.Services)
	var mu sync.Mutex
	seen := map[string]string{}
	full := 0
	var group sync.WaitGroup
	for worker := range 6 {
		group.Go(func() {
			for i := range 10 {
				made, err := services.Create(t.Context(), &corev1.Service{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s%d-%d", worker, i), Namespace: "default"},
					Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
				})
				mu.Lock()
				switch {
				case err != nil && strings.Contains(err.Error(), "range is full"):
					full++
				case err != nil:
					t.Error(err)
				default:
					for _, number := range []string{made.Spec.ClusterIP, fmt.Sprint(made.Spec.Ports[0].NodePort)} {
						if other, taken := seen[number]; taken {
							t.Errorf("%s is both %s's and %s's", number, other, made.Name)
						}
						seen[number] = made.Name
					}
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	if len(seen) != 80 || full != 20 {
		t.Errorf("%d numbers given and %d refused; want all 40 ports, 40 addresses, and 20 refused", len(seen), full)
	}
	// What is deleted can be given again.
	if err := services.Delete(t.Context(), "default", "s0-0", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	env.StopServer()
	env.StartServer(t)
	a := newAPI(t, env.Config)
	addresses := a.ok("GET", "/apis/networking.k8s.io/v1/ipaddresses", "", "")["items"].([]any)
	list := a.ok("GET", "/api/v1/services", "", "")["items"].([]any)
	if len(addresses) != len(list) {
		t.Errorf("%d addresses for %d services", len(addresses), len(list))
	}
}

// The server goes on with what etcd has, and tells old watchers to start anew.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	a := newAPI(t, env.Config)
	const maps = "/api/v1/namespaces/default/configmaps"
	first := a.ok("POST", maps, asJSON, `{"metadata":{"name":"a"}}`)["metadata"].(map[string]any)["resourceVersion"].(string)
	a.ok("POST", maps, asJSON, `{"metadata":{"name":"b"}}`)
	env.StopServer()
	env.StartServer(t)
	if out := a.ok("GET", maps, "", ""); len(out["items"].([]any)) != 2 {
		t.Errorf("after a restart: %v", out)
	}
	if e := a.openWatch(maps + "?resourceVersion=" + first)(); e.Type != "ERROR" || e.Object.Code != 410 || e.Object.Reason != "Expired" {
		t.Errorf("a watch from before the restart: %+v", e)
	}
}

// When etcd is killed, requests fail in bounded time and say what is unknown;
// when it is back, everything goes on, and no watcher notices.
func TestEtcdKilled(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, func(c *apiserver.Config) { c.Storage.Timeout = time.Second })
	a := newAPI(t, env.Config)
	const maps = "/api/v1/namespaces/default/configmaps"
	first := a.ok("POST", maps, asJSON, `{"metadata":{"name":"a"}}`)["metadata"].(map[string]any)["resourceVersion"].(string)
	next := a.openWatch(maps + "?resourceVersion=" + first)
	env.KillEtcd()
	if code, text, _ := a.send("POST", maps, asJSON, `{"metadata":{"name":"b"}}`); code != 504 || !strings.Contains(text, "unknown") && !strings.Contains(text, "in time") {
		t.Errorf("a write: %d %s", code, text)
	}
	if code, text, _ := a.send("GET", maps, "", ""); code != 504 {
		t.Errorf("a fresh list: %d %s", code, text)
	}
	a.ok("GET", maps+"?resourceVersion=0", "", "") // stale is what was asked for
	if code, text, _ := a.send("GET", "/readyz", "", ""); code != 500 || !strings.Contains(text, "etcd failed") {
		t.Errorf("readiness: %d %s", code, text)
	}
	env.StartEtcd(t)
	eventually(t, "writes work again", func() bool {
		code, _, _ := a.send("PUT", maps+"/a", asJSON, fmt.Sprintf(`{"metadata":{"name":"a"},"data":{"at":"%d"}}`, time.Now().UnixNano()))
		return code == http.StatusOK
	})
	for e := next(); e.Object.Metadata.Name != "a"; e = next() {
		if e.Type == "ERROR" {
			t.Fatalf("the watch ended: %+v", e)
		}
	}
}
