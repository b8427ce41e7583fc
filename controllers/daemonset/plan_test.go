package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/controllers/harness"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func daemonSet(unavailable, surge string) *appsv1.DaemonSet {
	u, s := intstr.Parse(unavailable), intstr.Parse(surge)
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "agent", UID: "agent"},
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: map[string]string{"app": "agent"}},
			Template:       corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "agent"}}},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &u, MaxSurge: &s}},
		},
	}
}

func node(name string, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/os": "linux"}}}
	for _, t := range taints {
		key, effect, _ := strings.Cut(t, ":")
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
	}
	return n
}

// pod makes a pod of a revision on a node (available unless name ends in "?").
func pod(name, onNode, hash string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": "agent", hashLabel: hash}, CreationTimestamp: metav1.NewTime(epoch)},
		Spec:       corev1.PodSpec{NodeName: onNode},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if !strings.HasSuffix(name, "?") {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch)}}
	}
	return p
}

func show(p plan) string {
	var remove []string
	for _, d := range p.delete {
		remove = append(remove, d.pod.Name)
	}
	slices.Sort(remove)
	return fmt.Sprintf("+%s -%s", strings.Join(p.create, ","), strings.Join(remove, ","))
}

func TestVerdicts(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*appsv1.DaemonSet)
		node   *corev1.Node
		want   verdict
	}{
		{"healthy node", nil, node("n"), verdict{true, true}},
		{"cordoned and under pressure", nil, node("n", "node.kubernetes.io/unschedulable:NoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule"), verdict{true, true}},
		{"lost", nil, node("n", "node.kubernetes.io/unreachable:NoExecute"), verdict{true, true}},
		{"lost, by a taint that DaemonSets do not tolerate", nil, node("n", "node.kubernetes.io/unreachable:NoSchedule"), verdict{false, true}},
		{"control plane: those there stay", nil, node("n", "node-role.kubernetes.io/control-plane:NoSchedule"), verdict{false, true}},
		{"driven off", nil, node("n", "dedicated:NoExecute"), verdict{false, false}},
		{"without network", nil, node("n", "node.kubernetes.io/network-unavailable:NoSchedule"), verdict{false, true}},
		{"without network, on the node's own", func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.HostNetwork = true },
			node("n", "node.kubernetes.io/network-unavailable:NoSchedule"), verdict{true, true}},
		{"selected", func(ds *appsv1.DaemonSet) {
			ds.Spec.Template.Spec.NodeSelector = map[string]string{"kubernetes.io/os": "linux"}
		}, node("n"), verdict{true, true}},
		{"not selected", func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = map[string]string{"gpu": "yes"} }, node("n"), verdict{false, false}},
	} {
		ds := daemonSet("1", "0")
		if test.change != nil {
			test.change(ds)
		}
		if got := judge(ds, []*corev1.Node{test.node})["n"]; got != test.want {
			t.Errorf("%s: %+v, want %+v", test.name, got, test.want)
		}
	}
}

func TestPlan(t *testing.T) {
	pinned := pod("pinned", "", "h")
	pin(&pinned.Spec, "b")
	stray := pod("stray", "", "h")
	pin(&stray.Spec, "removed-node")
	failed := pod("failed?", "a", "h")
	failed.Status.Phase = corev1.PodFailed
	leaving := pod("leaving", "a", "h")
	now := metav1.NewTime(epoch)
	leaving.DeletionTimestamp = &now
	nodes := []*corev1.Node{node("b"), node("a")}
	for _, test := range []struct {
		name  string
		nodes []*corev1.Node
		pods  []*corev1.Pod
		want  string
	}{
		{"everywhere", nodes, nil, "+a,b -"},
		{"complete, one not scheduled yet", nodes, []*corev1.Pod{pod("x", "a", "h"), pinned}, "+ -"},
		{"two on a node: the unplaced one goes", nodes, []*corev1.Pod{pinned, pod("x", "b", "h"), pod("y", "a", "h")}, "+ -pinned"},
		{"failed ones are replaced", nodes, []*corev1.Pod{failed, pinned}, "+ -failed?"},
		{"wait for one that is leaving", nodes, []*corev1.Pod{leaving, pinned}, "+ -"},
		{"pinned to a node that is gone", nodes, []*corev1.Pod{pod("x", "a", "h"), pinned, stray}, "+ -stray"},
		{"driven off", []*corev1.Node{node("a", "dedicated:NoExecute")}, []*corev1.Pod{pod("x", "a", "h")}, "+ -x"},
	} {
		got := show(makePlan(newSnapshot(daemonSet("1", "0"), "h", test.nodes, test.pods, epoch)))
		if got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

// TestRollingUpdateKeepsItsPromise replaces a revision on ten nodes.
func TestRollingUpdateKeepsItsPromise(t *testing.T) {
	for _, knobs := range [][2]string{{"1", "0"}, {"3", "0"}, {"30%", "0"}, {"0", "1"}, {"0", "25%"}} {
		var nodes []*corev1.Node
		pods := map[string]*corev1.Pod{}
		for i := range 10 {
			name := fmt.Sprint("n", i)
			nodes = append(nodes, node(name))
			pods["old-"+name] = pod("old-"+name, name, "old")
		}
		ds := daemonSet(knobs[0], knobs[1])
		steps := 0
		for ; steps < 100; steps++ {
			var owned []*corev1.Pod
			for _, p := range pods {
				owned = append(owned, p)
			}
			s := newSnapshot(ds, "new", nodes, owned, epoch)
			p := makePlan(s)
			if len(p.create)+len(p.delete) == 0 {
				break
			}
			for _, d := range p.delete {
				delete(pods, d.pod.Name)
			}
			working := map[string]bool{}
			for _, p := range pods {
				if harness.IsReady(p) {
					working[p.Spec.NodeName] = true
				}
			}
			if missing, most := 10-len(working), max(maxUnavailable(s), 0); missing > most {
				t.Fatalf("knobs %v: %d nodes without a working pod, at most %d", knobs, missing, most)
			}
			if most := 10 + maxSurge(s); len(pods)+len(p.create) > most {
				t.Fatalf("knobs %v: %d pods, at most %d", knobs, len(pods)+len(p.create), most)
			}
			for _, name := range p.create {
				pods["new-"+name] = pod("new-"+name, name, "new")
			}
		}
		for name := range pods {
			if strings.HasPrefix(name, "old") {
				t.Errorf("knobs %v: %s is left after %d steps", knobs, name, steps)
			}
		}
		if len(pods) != 10 {
			t.Errorf("knobs %v: %d pods", knobs, len(pods))
		}
	}
}

func TestBrokenUpdateStops(t *testing.T) {
	nodes := []*corev1.Node{node("a"), node("b"), node("c")}
	pods := []*corev1.Pod{pod("new?", "a", "new"), pod("b", "b", "old"), pod("c", "c", "old")}
	if got := show(makePlan(newSnapshot(daemonSet("1", "0"), "new", nodes, pods, epoch))); got != "+ -" {
		t.Errorf("%s: the new pod does not work, so no other may go", got)
	}
	pods[1] = pod("b?", "b", "old") // does not work either: replacing it costs nothing
	if got := show(makePlan(newSnapshot(daemonSet("1", "0"), "new", nodes, pods, epoch))); got != "+ -b?" {
		t.Errorf("%s", got)
	}
	ds := daemonSet("1", "0")
	ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	if got := show(makePlan(newSnapshot(ds, "new", nodes, pods, epoch))); got != "+ -" {
		t.Errorf("OnDelete: %s", got)
	}
}

func TestNewPod(t *testing.T) {
	ds := daemonSet("1", "0")
	ds.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "3"}
	ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}, {}}},
	}}
	p := newPod(ds, "n7", "abc")
	if nodeOf(p) != "n7" || p.Spec.NodeName != "" || len(p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) != 1 {
		t.Errorf("affinity %+v", p.Spec.Affinity.NodeAffinity)
	}
	if p.Labels[hashLabel] != "abc" || p.Labels[templateGenerationLabel] != "3" || len(p.Spec.Tolerations) != 6 {
		t.Errorf("labels %v, %d tolerations", p.Labels, len(p.Spec.Tolerations))
	}
	if !metav1.IsControlledBy(p, ds) || !strings.HasPrefix(p.Name, "agent-") {
		t.Errorf("%s is owned by %v", p.Name, p.OwnerReferences)
	}
}

func TestStatus(t *testing.T) {
	ds := daemonSet("1", "0")
	ds.Spec.MinReadySeconds = 10
	ds.Generation = 4
	nodes := []*corev1.Node{node("a"), node("b"), node("c"), node("d", "dedicated:NoSchedule")}
	pods := []*corev1.Pod{pod("a", "a", "new"), pod("b?", "b", "old"), pod("d", "d", "new")}
	s, again := makeStatus(newSnapshot(ds, "new", nodes, pods, epoch.Add(4*time.Second)))
	got := fmt.Sprint(s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled, s.NumberReady, s.NumberAvailable, s.NumberUnavailable, s.UpdatedNumberScheduled, s.ObservedGeneration, again)
	if want := "3 2 1 1 0 3 1 4 6s"; got != want {
		t.Errorf("desired current misscheduled ready available unavailable updated generation again = %s, want %s", got, want)
	}
}

func TestBackoff(t *testing.T) {
	b := &backoff{entries: map[string]*failures{}}
	now, attempts := epoch, 0
	for now.Before(epoch.Add(time.Hour)) {
		ok, in := b.allow("ds/node", now)
		if ok {
			attempts++
			in = time.Millisecond
		}
		now = now.Add(in)
	}
	if attempts < 10 || attempts > 14 {
		t.Errorf("%d replacements in an hour of failing", attempts)
	}
	if ok, _ := b.allow("ds/node", now.Add(time.Hour)); !ok {
		t.Error("an old failure still counts")
	}
}
