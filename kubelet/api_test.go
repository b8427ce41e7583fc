package kubelet

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/internal/fakecri"
	"tinykube/internal/testenv"
)

// cluster is a real API server and one kubelet on a fake runtime.
type cluster struct {
	t       *testing.T
	env     *testenv.Env
	client  *client.Client
	runtime *fakecri.Runtime
	cfg     Config
	kubelet *Kubelet
	down    <-chan struct{} // closed: the machine shuts down
	stop    func()
}

func newCluster(t *testing.T) *cluster {
	dir := t.TempDir()
	file := DefaultConfiguration()
	file.StaticPodPath, file.PodLogsDir = filepath.Join(dir, "manifests"), filepath.Join(dir, "pods")
	off := false
	file.EvictionHard, file.ImageGCHighThresholdPercent = map[string]string{}, to[int32](100) // how full the machine is is no matter here
	file.CgroupsPerQOS, file.EnforceNodeAllocatable, file.Port, file.Address = &off, nil, freePort(t), "127.0.0.1"
	cfg, err := NewConfig(file, "node-0", filepath.Join(dir, "kubelet"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.NodeIPs, cfg.Server.HealthzPort = []string{"127.0.0.1"}, 0
	cfg.StatusUpdateFrequency, cfg.LeaseDuration = time.Second, 4*time.Second
	if err := os.MkdirAll(file.StaticPodPath, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, env: testenv.New(t), runtime: fakecri.New(), cfg: cfg}
	if c.client, err = client.New(c.env.Config); err != nil {
		t.Fatal(err)
	}
	c.start()
	t.Cleanup(func() { c.stop() })
	c.eventually("the node is ready", func() error {
		node, err := client.For(c.client, client.Nodes).Get(t.Context(), "", "node-0")
		if err != nil {
			return err
		}
		if ready := findNodeCondition(&node.Status, corev1.NodeReady); ready == nil || ready.Status != corev1.ConditionTrue {
			return fmt.Errorf("%+v", ready)
		}
		return nil
	})
	return c
}

func freePort(t *testing.T) int32 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return int32(l.Addr().(*net.TCPAddr).Port)
}

func (c *cluster) start() {
	level := slog.LevelInfo
	log := slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: level}))
	k, err := New(c.cfg, Deps{Runtime: c.runtime.Conn(), Client: c.client, Logger: log, Shutdown: c.down})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	c.kubelet = k
	c.stop = func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("Run: %v", err)
		}
		c.stop = func() {}
	}
}

func (c *cluster) eventually(what string, check func() error) {
	c.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("waiting until %s: %v", what, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *cluster) pod(name string) (*corev1.Pod, error) {
	return client.For(c.client, client.Pods).Get(c.t.Context(), "default", name)
}

func (c *cluster) create(name string, edit func(*corev1.Pod)) *corev1.Pod {
	c.t.Helper()
	no, grace := false, int64(1)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PodSpec{NodeName: "node-0", AutomountServiceAccountToken: &no, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{Name: "a", Image: "app:1"}}}}
	if edit != nil {
		edit(pod)
	}
	c.eventually("pod "+name+" is created", func() (err error) { // its namespace's service account may not be there yet
		pod, err = client.For(c.client, client.Pods).Create(c.t.Context(), pod)
		return err
	})
	return pod
}

func (c *cluster) serviceAccount() {
	c.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if _, err := client.For(c.client, client.ServiceAccounts).Create(c.t.Context(), account); err != nil && !apierrors.IsAlreadyExists(err) {
		c.t.Fatal(err)
	}
}

func running(pod *corev1.Pod, err error) error {
	if err != nil {
		return err
	}
	if len(pod.Status.ContainerStatuses) == 0 || !pod.Status.ContainerStatuses[0].Ready || pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP == "" {
		return fmt.Errorf("status %+v", pod.Status)
	}
	return nil
}

func TestPodOfTheAPI(t *testing.T) {
	c := newCluster(t)
	c.serviceAccount()
	pod := c.create("web", nil)
	c.eventually("it runs", func() error { return running(c.pod("web")) })
	// Deleted gracefully: the kubelet ends it, then removes the object.
	if err := client.For(c.client, client.Pods).Delete(t.Context(), "default", "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("it is gone", func() error {
		if _, err := c.pod("web"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		if n := len(c.runtime.Sandboxes()); n > 0 {
			return fmt.Errorf("%d sandboxes", n)
		}
		if _, err := os.Stat(c.kubelet.volumes.podDir(pod.UID)); !os.IsNotExist(err) {
			return fmt.Errorf("the pod's directory: %v", err)
		}
		return nil
	})
	// A pod that does its work and ends.
	c.runtime.Programs["job:1"] = fakecri.Program{Runs: 100 * time.Millisecond}
	c.create("job", func(p *corev1.Pod) {
		p.Spec.RestartPolicy, p.Spec.Containers[0].Image = corev1.RestartPolicyNever, "job:1"
	})
	c.eventually("it has succeeded", func() error {
		pod, err := c.pod("job")
		if err == nil && pod.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("phase %s", pod.Status.Phase)
		}
		return err
	})
	// A kubelet that was away while a pod was force-deleted ends it.
	c.create("lost", nil)
	c.eventually("it runs", func() error { return running(c.pod("lost")) })
	c.stop()
	now := int64(0)
	if err := client.For(c.client, client.Pods).Delete(t.Context(), "default", "lost", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.eventually("nothing of it runs", func() error {
		for _, s := range c.runtime.Containers() {
			if s.Labels[labelPodName] == "lost" {
				return fmt.Errorf("container %s is %s", s.Id, s.State)
			}
		}
		return nil
	})
}

// The runtime is told the handler that the pod's RuntimeClass names. A pod whose
// class is not there says so, and runs once it is.
func TestRuntimeClass(t *testing.T) {
	c := newCluster(t)
	c.serviceAccount()
	classes := client.For(c.client, client.RuntimeClasses)
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "gentle"}, Handler: "runc",
		Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi")}}}
	make := func() error { _, err := classes.Create(t.Context(), class); return err }
	if err := make(); err != nil {
		t.Fatal(err)
	}
	c.stop() // it must not start the pod while there is the class
	c.create("classy", func(p *corev1.Pod) {
		p.Spec.RuntimeClassName = &class.Name
		p.Spec.Containers[0].Resources.Limits = class.Overhead.PodFixed
	})
	if err := classes.Delete(t.Context(), "", class.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.eventually("it says what is missing", func() error {
		list, err := client.For(c.client, client.Events).List(t.Context(), "default", metav1.ListOptions{})
		const want = `Failed to create pod sandbox: runtimeclass.node.k8s.io "gentle" not found`
		if err == nil && !slices.ContainsFunc(list.Items, func(e *corev1.Event) bool {
			return e.InvolvedObject.Name == "classy" && e.Reason == "FailedCreatePodSandBox" && e.Message == want
		}) {
			err = fmt.Errorf("%d events, and none of them that", len(list.Items))
		}
		return err
	})
	if n := len(c.runtime.Sandboxes()); n > 0 {
		t.Errorf("%d sandboxes without a class", n)
	}
	if err := make(); err != nil {
		t.Fatal(err)
	}
	c.eventually("it runs", func() error { return running(c.pod("classy")) })
	if s := c.runtime.Sandboxes()[0]; s.RuntimeHandler != "runc" {
		t.Errorf("the runtime was asked for handler %q", s.RuntimeHandler)
	}
	if pod, _ := c.pod("classy"); podResources(pod).MemoryLimitInBytes != 32<<20 {
		t.Errorf("overhead %v, resources %v", pod.Spec.Overhead, podResources(pod))
	}
}

func TestMirrorPods(t *testing.T) {
	c := newCluster(t)
	manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: etcd}\nspec:\n  hostNetwork: true\n  containers: [{name: a, image: app:1}]\n"
	path := filepath.Join(c.cfg.StaticPodPath, "etcd.yaml")
	if err := os.WriteFile(path, []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	c.eventually("the mirror shows it running", func() error { return running(c.pod("etcd-node-0")) })
	mirror, err := c.pod("etcd-node-0")
	if err != nil {
		t.Fatal(err)
	}
	owner := metav1.GetControllerOf(mirror)
	if owner == nil || owner.Kind != "Node" || !isMirror(mirror) || mirror.Annotations[annotationConfigSource] != sourceFile {
		t.Errorf("the mirror: owner %+v, annotations %v", owner, mirror.Annotations)
	}
	// Deleted, it returns; the pod does not notice.
	before := c.runtime.Containers()[0].Id
	if err := client.For(c.client, client.Pods).Delete(t.Context(), "default", "etcd-node-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("another mirror is there", func() error {
		next, err := c.pod("etcd-node-0")
		if err == nil && next.UID == mirror.UID {
			err = fmt.Errorf("the same one")
		}
		return running(next, err)
	})
	// Without an API server nothing changes; with it again all is shown again.
	c.env.StopServer()
	c.runtime.Kill(before, 1)
	c.eventually("the container is restarted without an API server", func() error {
		if n := len(c.runtime.Containers()); n < 2 {
			return fmt.Errorf("%d containers", n)
		}
		return nil
	})
	c.env.StartServer(t)
	c.eventually("the mirror shows the restart", func() error {
		pod, err := c.pod("etcd-node-0")
		if err == nil && pod.Status.ContainerStatuses[0].RestartCount != 1 {
			err = fmt.Errorf("status %+v", pod.Status.ContainerStatuses)
		}
		return err
	})
	// Changed, it is another pod, which the end of the former is not told of.
	if err := os.WriteFile(path, []byte(strings.Replace(manifest, "app:1", "app:2", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.eventually("the mirror shows the next version running", func() error {
		pod, err := c.pod("etcd-node-0")
		if err == nil && pod.Spec.Containers[0].Image != "app:2" {
			err = fmt.Errorf("image %s", pod.Spec.Containers[0].Image)
		}
		return running(pod, err)
	})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.eventually("pod and mirror are gone", func() error {
		if _, err := c.pod("etcd-node-0"); !apierrors.IsNotFound(err) {
			return fmt.Errorf("mirror: %v", err)
		}
		if n := len(c.runtime.Containers()); n > 0 {
			return fmt.Errorf("%d containers", n)
		}
		return nil
	})
}

func TestNodeComesBackAndRenewsItsLease(t *testing.T) {
	c := newCluster(t)
	nodes, leases := client.For(c.client, client.Nodes), client.For(c.client, client.Leases)
	node, err := nodes.Get(t.Context(), "", "node-0")
	if err != nil {
		t.Fatal(err)
	}
	if node.Labels[corev1.LabelHostname] != "node-0" || node.Status.NodeInfo.KubeletVersion == "" || node.Status.Capacity.Pods().Value() != 110 ||
		node.Status.Addresses[0].Address != "127.0.0.1" || node.Status.DaemonEndpoints.KubeletEndpoint.Port != c.cfg.Server.Port {
		t.Errorf("node: %+v", node)
	}
	if err := nodes.Delete(t.Context(), "", "node-0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var again *corev1.Node
	c.eventually("the node is registered again", func() (err error) {
		again, err = nodes.Get(t.Context(), "", "node-0")
		if err == nil && again.UID == node.UID {
			err = fmt.Errorf("the same one")
		}
		return err
	})
	c.eventually("its lease names the new node", func() error {
		lease, err := leases.Get(t.Context(), corev1.NamespaceNodeLease, "node-0")
		if err == nil && (len(lease.OwnerReferences) == 0 || lease.OwnerReferences[0].UID != again.UID || *lease.Spec.LeaseDurationSeconds != 4) {
			err = fmt.Errorf("lease %+v", lease)
		}
		return err
	})
}

func TestNodeAPIRefusesStrangersAndServesLogs(t *testing.T) {
	c := newCluster(t)
	c.serviceAccount()
	url := fmt.Sprintf("https://127.0.0.1:%d", c.cfg.Server.Port)
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig.InsecureSkipVerify = true
	defer transport.CloseIdleConnections()
	strangers := &http.Client{Transport: transport}
	for _, path := range []string{"/pods", "/healthz", "/containerLogs/default/web/a", "/exec/default/web/a?command=sh", "/metrics", "/nothing"} {
		answer, err := strangers.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s for a stranger: %s", path, answer.Status)
		}
	}
	// Through the API server, as kubectl logs does it.
	pod := c.create("web", nil)
	c.eventually("it runs", func() error { return running(c.pod("web")) })
	log := filepath.Join(c.kubelet.logDir(pod), "a", "0.log")
	if err := os.WriteFile(log, []byte("2026-01-02T03:04:05.000000006Z stdout F hello\n2026-01-02T03:04:06Z stderr F world\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	request := func(token string) (int, string) { // 0 while nobody listens
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/containerLogs/default/web/a?tailLines=1&timestamps=true", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		answer, err := strangers.Do(r)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(body)
	}
	var token string
	c.eventually("a token is issued", func() (err error) {
		token, err = c.kubelet.volumes.tokens.get(t.Context(), pod, &corev1.ServiceAccountTokenProjection{})
		return err
	})
	if code, text := request(token); code != http.StatusForbidden {
		t.Errorf("with a service account's token: %d %s", code, text)
	}
	if code, _ := request("nonsense"); code != http.StatusUnauthorized {
		t.Errorf("with nonsense: %d", code)
	}
	binding := `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"kubelet-admin"},` +
		`"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:kubelet-api-admin"},` +
		`"subjects":[{"kind":"ServiceAccount","name":"default","namespace":"default"}]}`
	answer, err := c.client.Do(t.Context(), client.Request{Method: http.MethodPost, Path: "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", Body: []byte(binding)})
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	c.stop()
	c.start() // forgets the refusal that it remembers for half a minute
	c.eventually("the token may read logs", func() error {
		if code, text := request(token); code != http.StatusOK || text != "2026-01-02T03:04:06.000000000Z world\n" {
			return fmt.Errorf("%d %q", code, text)
		}
		return nil
	})
}

func TestStatusOfOthersStays(t *testing.T) {
	c := newCluster(t)
	c.serviceAccount()
	c.create("web", func(p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	})
	ready := func(want corev1.ConditionStatus) func() error {
		return func() error {
			pod, err := c.pod("web")
			if err != nil {
				return err
			}
			for _, condition := range pod.Status.Conditions {
				if condition.Type == corev1.PodReady && condition.Status == want && pod.Status.Phase == corev1.PodRunning {
					return nil
				}
			}
			return fmt.Errorf("conditions %+v", pod.Status.Conditions)
		}
	}
	c.eventually("the gate keeps it from being ready", ready(corev1.ConditionFalse))
	patch := `{"status":{"conditions":[{"type":"example.com/gate","status":"True"}]}}`
	if _, err := client.For(c.client, client.Pods).Patch(t.Context(), "default", "web", types.StrategicMergePatchType, []byte(patch), "status"); err != nil {
		t.Fatal(err)
	}
	c.eventually("the gate lets it be ready", ready(corev1.ConditionTrue))
}
