package kubelet

import (
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/defaults"
	"tinykube/api/qos"
)

// ShowCgroups says, without doing anything, where a node would account for a
// pod and what it would write there: in cgroup v1, and in v2.
//
// Book: docs/16-qos-limits-and-eviction.md
func ShowCgroups(out io.Writer, pod *corev1.Pod, memoryBytes int64) error {
	pod = pod.DeepCopy()
	defaults.Apply(pod)
	if pod.UID == "" {
		pod.UID = "UID"
	}
	tree := cgroupTree{root: "/", driver: "cgroupfs", enabled: true}
	slices := cgroupTree{driver: "systemd", enabled: true}
	path := tree.path(pod.UID, qos.Of(pod))
	fmt.Fprintf(out, "%s is %s\n  cgroupfs  %s\n  systemd   %s\n", pod.Name, qos.Of(pod), path, slices.parent(pod))
	for i, resources := 0, podResources(pod); i < 2; i++ {
		tree.v2 = i == 1
		fmt.Fprintf(out, "  v%d       ", i+1)
		for _, v := range tree.values(path, resources) {
			fmt.Fprintf(out, " %s=%s", v.file, v.value)
		}
		fmt.Fprintln(out)
	}
	for _, c := range allContainers(pod) {
		if _, err := fmt.Fprintf(out, "  container %s: oom_score_adj=%d\n", c.Name, qos.OOMScoreAdj(pod, c, memoryBytes)); err != nil {
			return err
		}
	}
	return nil
}
