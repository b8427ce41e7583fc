package critest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/nstest"
	"tinykube/test/clusters"
)

// qosPod is a static pod of one container; its class follows from resources.
const qosPod = `apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: ` + defaultImage + `
    command: [sh, -c, "%s"]
    resources: %s
`

// expectation is one file of a control group: of the pod's if container is
// false. v1 is "controller/file value", v2 "file value".
type expectation struct {
	pod       string
	container bool
	v1, v2    string
}

// Upstream: cpu.weight of a pod is the kubelet's straight line from shares, that
// of a container is runc's curve, by which 1,024 shares weigh 100.
var expectations = []expectation{
	{"guaranteed", false, "cpu/cpu.shares 512", "cpu.weight 20"},
	{"guaranteed", false, "cpu/cpu.cfs_quota_us 50000", "cpu.max 50000 100000"},
	{"guaranteed", false, "memory/memory.limit_in_bytes 67108864", "memory.max 67108864"},
	{"guaranteed", false, "pids/pids.max 77", "pids.max 77"},
	{"guaranteed", true, "cpu/cpu.shares 512", "cpu.weight 59"},
	{"guaranteed", true, "cpu/cpu.cfs_quota_us 50000", "cpu.max 50000 100000"},
	{"guaranteed", true, "memory/memory.limit_in_bytes 67108864", "memory.max 67108864"},
	{"burstable", false, "cpu/cpu.shares 256", "cpu.weight 10"},
	{"burstable", false, "memory/memory.limit_in_bytes 134217728", "memory.max 134217728"},
	{"burstable", false, "pids/pids.max 77", "pids.max 77"},
	{"burstable", true, "cpu/cpu.shares 256", "cpu.weight 35"},
	{"burstable", true, "cpu/cpu.cfs_quota_us -1", "cpu.max max 100000"},
	{"burstable", true, "memory/memory.limit_in_bytes 134217728", "memory.max 134217728"},
	{"besteffort", false, "cpu/cpu.shares 2", "cpu.weight 1"},
	{"besteffort", true, "cpu/cpu.shares 2", "cpu.weight 1"},
	{"besteffort", true, "memory/memory.limit_in_bytes 9223372036854771712", "memory.max max"},
}

// TestCgroups runs a kubelet on our CRI server, with a static pod of each QoS
// class and one that forks without end, and reads what the kernel then enforces, on whichever
// version of control groups the machine has. The virtual machine runs it on v2.
func TestCgroups(t *testing.T) {
	unpack(t)
	ours.start(t)
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	v2, root := err == nil, fmt.Sprintf("/tinykube-critest-%d", time.Now().UnixNano())
	runKubelet(t, root)
	client := ours.dial(t)
	groups := map[string]string{}
	nstest.Eventually(t, "a container of each class", func() bool {
		list, err := client.ListContainers(context.Background(), &cri.ListContainersRequest{Filter: &cri.ContainerFilter{
			State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}})
		for _, c := range list.GetContainers() {
			name := strings.TrimSuffix(c.GetLabels()["io.kubernetes.pod.name"], "-"+nodeName)
			groups[name] = findGroup(root, c.GetId(), v2)
		}
		return err == nil && len(groups) == 4
	})
	t.Logf("control groups: v2 is %v", v2)
	for _, e := range expectations {
		dir, want := groups[e.pod], e.v1
		if v2 {
			want = e.v2
		}
		file, value, _ := strings.Cut(want, " ")
		controller := ""
		if !v2 {
			controller, file, _ = strings.Cut(file, "/")
		}
		if !e.container {
			dir = filepath.Dir(dir)
		}
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, dir, file))
		got := strings.TrimSpace(string(data))
		t.Logf("%s %s = %s", dir, file, got)
		if err != nil || got != value {
			t.Errorf("%s of %s (container: %v): %q, %v; want %q", file, e.pod, e.container, got, err, value)
		}
		if class := filepath.Base(filepath.Dir(filepath.Dir(groups[e.pod]))); class != map[string]string{"guaranteed": "kubepods"}[e.pod] && class != e.pod {
			t.Errorf("%s stands in class %s", groups[e.pod], class)
		}
	}
	// The bomb hits its pod's limit, and nothing else: old kernels count that in
	// the group of the process, those since 6.11 with v2 where the limit is.
	nstest.Eventually(t, "the fork bomb is held", func() bool {
		counted := ""
		for _, dir := range []string{filepath.Join("pids", groups[bomb]), groups[bomb], filepath.Dir(groups[bomb])} {
			data, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, "pids.events")) // not all are there
			counted += strings.ReplaceAll(string(data), "max 0\n", "")
		}
		return strings.Contains(counted, "max ")
	})
	health, err := http.Get("http://127.0.0.1:10248/healthz")
	must(t, err)
	health.Body.Close()
	if health.StatusCode != http.StatusOK {
		t.Errorf("the kubelet's health: %s", health.Status)
	}
	stats, err := client.ListContainerStats(context.Background(), &cri.ListContainerStatsRequest{})
	must(t, err)
	for _, s := range stats.GetStats() {
		if s.GetMemory().GetWorkingSetBytes().GetValue() == 0 || s.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("no statistics: %v", s)
		}
	}
}

const (
	nodeName = "critest"
	bomb     = "bomb"
)

// runKubelet runs a kubelet that knows nothing but a folder, until the test ends.
func runKubelet(t *testing.T, root string) {
	t.Helper()
	manifests := t.TempDir()
	const quiet = "while true; do sleep 1; done"
	for name, pod := range map[string]struct{ script, resources string }{
		"guaranteed": {quiet, `{limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 500m, memory: 64Mi}}`},
		"burstable":  {quiet, `{requests: {cpu: 250m, memory: 32Mi}, limits: {memory: 128Mi}}`},
		"besteffort": {quiet, `{}`},
		bomb:         {"b() { b | b & }; b & exec sleep 3600", `{limits: {cpu: 200m}, requests: {cpu: 10m}}`},
	} {
		must(t, os.WriteFile(filepath.Join(manifests, name+".yaml"), fmt.Appendf(nil, qosPod, name, pod.script, pod.resources), 0o644))
	}
	var log bytes.Buffer
	cmd := exec.Command(clusters.Built(t, "tinykube"), "kubelet", "--pod-manifest-path", manifests, "--container-runtime-endpoint", "unix://"+ours.socket,
		"--cgroup-root", root, "--root-dir", "/var/lib/kubelet", "--hostname-override", nodeName, "--pod-max-pids", "77", "--fail-cgroupv1=false")
	cmd.Stdout, cmd.Stderr = &log, &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		ours.removePods(t)
		removeTree(root)
		if t.Failed() {
			t.Logf("kubelet:\n%s", log.Bytes()[max(0, log.Len()-6000):])
		}
	})
}

// findGroup answers a container's group below the root, in any hierarchy.
func findGroup(root, id string, v2 bool) string {
	mount := "/sys/fs/cgroup"
	if !v2 {
		mount += "/memory"
	}
	for _, pattern := range []string{"/kubepods/*/", "/kubepods/*/*/"} {
		if found, _ := filepath.Glob(mount + root + pattern + id); len(found) == 1 {
			return strings.TrimPrefix(found[0], mount)
		}
	}
	return ""
}

// removeTree removes empty groups from below.
func removeTree(root string) {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + root)
	for _, top := range append(roots, "/sys/fs/cgroup"+root) {
		var groups []string
		_ = filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				groups = append(groups, path)
			}
			return nil
		})
		slices.Reverse(groups)
		for _, group := range groups {
			_ = os.Remove(group)
		}
	}
}
