package kubelet

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

// resizeTo changes what a pod's first container asks for, as the API would.
func (n *node) resizeTo(name, cpu, memory string) {
	n.t.Helper()
	for i, pod := range n.api {
		if pod.Name == name+"-node-0" {
			next := pod.DeepCopy()
			next.Generation++
			list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
			next.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list, Limits: list}
			n.api[i] = next
			remote := &n.kubelet.static.remote
			remote.mu.Lock()
			remote.pods[next.UID] = next
			remote.mu.Unlock()
			n.kubelet.touch()
		}
	}
	settle(3 * time.Second)
}

// expectResize checks what is told of a pod's only container: what it has been
// promised, what it has, and the condition that is left.
func (n *node) expectResize(name, allocated, has, condition string) {
	n.t.Helper()
	_, status := n.pod(name)
	s := n.container(name, status.ContainerStatuses[0].Name)
	if got := s.AllocatedResources.Cpu().String() + " " + s.AllocatedResources.Memory().String(); got != allocated {
		n.t.Errorf("%s: allocated %s, want %s", name, got, allocated)
	}
	if got := s.Resources.Limits.Cpu().String() + " " + s.Resources.Limits.Memory().String(); got != has {
		n.t.Errorf("%s: has %s, want %s", name, got, has)
	}
	got := ""
	for _, c := range status.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			got = strings.TrimSpace(string(c.Type) + " " + c.Reason + " " + c.Message)
		}
	}
	if got != condition {
		n.t.Errorf("%s: condition %q, want %q", name, got, condition)
	}
}

func resizable(name, policy string) string {
	return "  containers: [{name: " + name + ", image: app:1, " + policy + "resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 500m, memory: 64Mi}}}]\n"
}

func TestResizeInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.cfg.NodeCPU, n.cfg.NodeMemory = resource.MustParse("2"), resource.MustParse("1Gi")
		n.start()
		n.apiPod("one", resizable("a", ""))
		n.apiPod("two", resizable("b", ""))
		settle(5 * time.Second)
		n.expectResize("one", "500m 64Mi", "500m 64Mi", "")

		n.resizeTo("one", "1500m", "128Mi")
		n.expectResize("one", "1500m 128Mi", "1500m 128Mi", "")
		if s := n.container("one", "a"); s.RestartCount != 0 {
			t.Error("a resize in place restarted the container")
		}

		// No room: it goes on as it was, and so it does for the next kubelet.
		const why = "PodResizePending Deferred Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000"
		n.resizeTo("two", "1", "64Mi")
		n.expectResize("two", "500m 64Mi", "500m 64Mi", why)
		n.stop()
		n.start()
		n.kubelet.static.remote.take(n.api)
		settle(5 * time.Second)
		n.expectResize("one", "1500m 128Mi", "1500m 128Mi", "")
		n.expectResize("two", "500m 64Mi", "500m 64Mi", why)

		n.resizeTo("one", "500m", "64Mi") // room again, and nobody says so
		n.expectResize("one", "500m 64Mi", "500m 64Mi", "")
		n.expectResize("two", "1 64Mi", "1 64Mi", "")
		if s := n.container("two", "b"); s.RestartCount != 0 {
			t.Error("a resize in place restarted the container")
		}
		n.stop()
	})
}

func TestResizeByRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		n.apiPod("one", resizable("a", "resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}], "))
		settle(5 * time.Second)
		n.resizeTo("one", "600m", "64Mi")
		if s := n.container("one", "a"); s.RestartCount != 0 {
			t.Error("the policy is for memory only")
		}
		n.resizeTo("one", "600m", "128Mi")
		n.expectResize("one", "600m 128Mi", "600m 128Mi", "")
		if s := n.container("one", "a"); s.RestartCount != 1 || s.State.Running == nil {
			t.Errorf("status after a resize that restarts: %+v", s)
		}
		n.stop()
	})
}

// What is in use is not taken away; it is tried again.
func TestResizeBelowUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		n.runtime.Memory = map[string]uint64{"one-node-0": 50 << 20}
		n.apiPod("one", resizable("a", ""))
		settle(5 * time.Second)
		n.resizeTo("one", "500m", "32Mi")
		n.expectResize("one", "500m 32Mi", "500m 64Mi", `PodResizeInProgress Error cannot decrease memory limits: `+
			`attempting to set container "a" memory limit (33554432) below current usage (52428800)`)
		n.expectRunning("a")
		n.runtime.Memory["one-node-0"] = 10 << 20
		settle(20 * time.Second)
		n.expectResize("one", "500m 32Mi", "500m 32Mi", "")
		n.stop()
	})
}

func TestAllocationRecord(t *testing.T) {
	path := t.TempDir() + "/allocated_pods_state"
	record := func() *resourceRecord { return &resourceRecord{path: path, pods: map[types.UID]podGrant{}} }
	pod := podOf(corev1.RestartPolicyAlways, "i | a b")
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	if err := record().set("u", grantOf(pod)); err != nil {
		t.Fatal(err)
	}
	next := record()
	if err := next.load(); err != nil {
		t.Fatal(err)
	}
	if got, found := next.of("u"); !found || !equal(got, grantOf(pod)) {
		t.Errorf("read back: %+v", got)
	}
	// The form is upstream's, and the checksum what its function makes of it.
	const theirs = `{"data":"{\"entries\":{\"u\":{\"ContainerResources\":{\"a\":{\"requests\":{\"cpu\":\"100m\"}}},\"PodLevelResources\":null}}}","checksum":1485012076}`
	if err := os.WriteFile(path, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := record().load(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(theirs, "100m", "900m", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := record().load(); err == nil || !strings.Contains(err.Error(), "please drain this node and delete pod resource information checkpoint file") {
		t.Errorf("a changed record: %v", err)
	}
}
