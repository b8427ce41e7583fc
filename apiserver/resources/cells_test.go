package resources

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(noon.Add(-d)) }

// row joins a row's cells for comparison.
func joined(cells []any) string {
	var out []string
	for _, c := range cells {
		out = append(out, fmt.Sprint(c))
	}
	return strings.Join(out, " | ")
}

func TestPodCells(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	yes := true
	base := func(edit func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{}
		p.Name, p.CreationTimestamp = "web", ago(5*time.Minute)
		p.Spec.Containers = []corev1.Container{{Name: "a"}, {Name: "b"}}
		edit(p)
		return p
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"pending": {base(func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
			"web | 0/2 | Pending | 0 | 5m | <none> | <none> | <none> | <none>"},
		"running": {base(func(p *corev1.Pod) {
			p.Status.Phase, p.Spec.NodeName = corev1.PodRunning, "node-1"
			p.Status.PodIPs = []corev1.PodIP{{IP: "10.244.1.2"}}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{
				{Name: "a", Ready: true, State: running, RestartCount: 3, LastTerminationState: corev1.ContainerState{
					Terminated: &corev1.ContainerStateTerminated{FinishedAt: ago(90 * time.Second)}}},
				{Name: "b", State: running},
			}
		}), "web | 1/2 | Running | 3 (90s ago) | 5m | 10.244.1.2 | node-1 | <none> | <none>"},
		"crash loop": {base(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses = []corev1.ContainerStatus{
				{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}, RestartCount: 1},
			}
		}), "web | 0/2 | CrashLoopBackOff | 1 | 5m | <none> | <none> | <none> | <none>"},
		"init": {base(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}, {Name: "j"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{
				{Name: "i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}},
				{Name: "j", State: running},
			}
		}), "web | 0/2 | Init:1/2 | 0 | 5m | <none> | <none> | <none> | <none>"},
		"init failed": {base(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Spec.InitContainers = []corev1.Container{{Name: "i"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{
				{Name: "i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}},
			}
		}), "web | 0/2 | Init:ExitCode:3 | 0 | 5m | <none> | <none> | <none> | <none>"},
		"sidecar": {base(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Spec.InitContainers = []corev1.Container{{Name: "s", RestartPolicy: &always}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "s", Started: &yes, Ready: true, State: running, RestartCount: 2}}
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Ready: true, State: running}, {Ready: true, State: running}}
		}), "web | 3/3 | Running | 2 | 5m | <none> | <none> | <none> | <none>"},
		"terminating": {base(func(p *corev1.Pod) {
			at := ago(0)
			p.DeletionTimestamp, p.Status.Phase = &at, corev1.PodRunning
		}), "web | 0/2 | Terminating | 0 | 5m | <none> | <none> | <none> | <none>"},
		"one completed": {base(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses = []corev1.ContainerStatus{
				{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed"}}},
				{Ready: true, State: running},
			}
		}), "web | 1/2 | NotReady | 0 | 5m | <none> | <none> | <none> | <none>"},
		"gated": {base(func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Reason: corev1.PodReasonSchedulingGated}}
		}), "web | 0/2 | SchedulingGated | 0 | 5m | <none> | <none> | <none> | <none>"},
	} {
		if got := joined(podCells(c.pod, noon)); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
}

func TestNodeCells(t *testing.T) {
	n := &corev1.Node{}
	n.Name, n.CreationTimestamp = "node-0", ago(50*time.Hour)
	n.Labels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
	n.Spec.Unschedulable = true
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "172.30.9.1"}}
	n.Status.NodeInfo = corev1.NodeSystemInfo{KubeletVersion: "v1.36.2", KernelVersion: "6.1", Architecture: "amd64"}
	want := "node-0 | Ready,SchedulingDisabled | control-plane | 2d2h | v1.36.2 | 172.30.9.1 | <none> | <unknown> | 6.1 (amd64) | <unknown>"
	if got := joined(nodeCells(n, noon)); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestServiceCells(t *testing.T) {
	s := &corev1.Service{}
	s.Name, s.CreationTimestamp = "web", ago(time.Hour)
	s.Spec = corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, ClusterIPs: []string{"10.96.0.7"}, Selector: map[string]string{"app": "web"},
		Ports: []corev1.ServicePort{{Port: 80, Protocol: "TCP", NodePort: 30080}, {Port: 53, Protocol: "UDP"}},
	}
	want := "web | NodePort | 10.96.0.7 | <none> | 80:30080/TCP,53/UDP | 60m | app=web"
	if got := joined(serviceCells(s, noon)); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

func TestEventCells(t *testing.T) {
	e := &corev1.Event{
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "web", FieldPath: "spec.containers{a}"},
		Type:           "Normal", Reason: "Pulled", Message: " done\n", FirstTimestamp: ago(time.Hour), LastTimestamp: ago(time.Minute),
		Count: 4, Source: corev1.EventSource{Component: "kubelet", Host: "node-1"},
	}
	e.Name = "web.1"
	want := "60s | Normal | Pulled | pod/web | spec.containers{a} | kubelet, node-1 | done | 60m | 4 | web.1"
	if got := joined(eventCells(e, noon)); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if got := joined(eventViewCells(eventView(e), noon)); got != want {
		t.Errorf("as events.k8s.io:\n got %s\nwant %s", got, want)
	}
}
