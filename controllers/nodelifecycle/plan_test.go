package nodelifecycle

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = metav1.NewTime(time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC))

func node(name string, conditions ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for _, c := range conditions {
		var t, s string
		fmt.Sscanf(c, "%s %s", &t, &s)
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeConditionType(t), Status: corev1.ConditionStatus(s)})
	}
	return n
}

func strs(taints []corev1.Taint) []string {
	s := describe(taints)
	slices.Sort(s)
	return s
}

func TestTaints(t *testing.T) {
	const (
		notReady    = "node.kubernetes.io/not-ready"
		unreachable = "node.kubernetes.io/unreachable"
	)
	for _, test := range []struct {
		name   string
		node   *corev1.Node
		have   []string // "key:effect"
		choice evictionChoice
		want   []string
	}{
		{"healthy", node("n", "Ready True", "MemoryPressure False"), nil, evict, nil},
		{"not ready", node("n", "Ready False"), nil, evict, []string{notReady + ":NoExecute", notReady + ":NoSchedule"}},
		{"silent", node("n", "Ready Unknown"), nil, evict, []string{unreachable + ":NoExecute", unreachable + ":NoSchedule"}},
		{"from not ready to silent: one of the two", node("n", "Ready Unknown"), []string{notReady + ":NoExecute", notReady + ":NoSchedule"}, evict,
			[]string{unreachable + ":NoExecute", unreachable + ":NoSchedule"}},
		{"back to health", node("n", "Ready True"), []string{unreachable + ":NoExecute", unreachable + ":NoSchedule"}, wait, nil},
		{"foreign taints stay", node("n", "Ready True"), []string{"dedicated:NoExecute", notReady + ":PreferNoSchedule"}, evict,
			[]string{"dedicated:NoExecute", notReady + ":PreferNoSchedule"}},
		{"pressure", node("n", "Ready True", "DiskPressure True", "PIDPressure True", "MemoryPressure Unknown", "NetworkUnavailable True"), nil, evict,
			[]string{"node.kubernetes.io/disk-pressure:NoSchedule", "node.kubernetes.io/network-unavailable:NoSchedule", "node.kubernetes.io/pid-pressure:NoSchedule"}},
		{"rate used up: no eviction yet", node("n", "Ready Unknown"), nil, wait, []string{unreachable + ":NoSchedule"}},
		{"rate used up: what is there stays", node("n", "Ready Unknown"), []string{unreachable + ":NoExecute"}, wait,
			[]string{unreachable + ":NoExecute", unreachable + ":NoSchedule"}},
		{"nobody is ready: evictions called off", node("n", "Ready Unknown"), []string{unreachable + ":NoExecute", unreachable + ":NoSchedule"}, spare,
			[]string{unreachable + ":NoSchedule"}},
	} {
		for _, s := range test.have {
			var key, effect string
			key, effect = s[:slices.Index([]byte(s), ':')], s[slices.Index([]byte(s), ':')+1:]
			test.node.Spec.Taints = append(test.node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
		}
		got := makeTaints(test.node, test.choice, now)
		if !slices.Equal(strs(got), test.want) {
			t.Errorf("%s: %v, want %v", test.name, strs(got), test.want)
		}
		test.node.Spec.Taints = got
		if again := makeTaints(test.node, test.choice, metav1.NewTime(now.Add(time.Hour))); !slices.Equal(again, got) {
			t.Errorf("%s: not stable: %v then %v", test.name, got, again)
		}
	}
}

// A node that was given up once is not given up again when it falls silent: no
// rate holds up the other taint.
func TestGivenUpOnce(t *testing.T) {
	n := node("n", "Ready Unknown")
	if !needsEviction(n) {
		t.Error("a silent node without taints need not be given up")
	}
	n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}}
	if needsEviction(n) {
		t.Error("a node that was not ready, and fell silent, is given up twice")
	}
}

// From not ready to silent the key changes, but not since when pods are on a
// failing node.
func TestSinceFirst(t *testing.T) {
	n, before := node("n", "Ready Unknown"), metav1.NewTime(now.Add(-time.Minute))
	n.Spec.Taints = []corev1.Taint{
		{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute, TimeAdded: &before},
		{Key: "mine", Effect: corev1.TaintEffectNoExecute},
	}
	for _, taint := range sinceFirst(makeTaints(n, evict, now), n.Spec.Taints) {
		want := map[string]*metav1.Time{"mine": nil, corev1.TaintNodeUnreachable + "NoExecute": &before, corev1.TaintNodeUnreachable + "NoSchedule": &now}
		if at := want[taint.Key+string(taint.Effect)]; !at.Equal(taint.TimeAdded) {
			t.Errorf("%s since %v, want %v", taint.ToString(), taint.TimeAdded, at)
		}
	}
}

func TestOldLabels(t *testing.T) {
	n := node("n")
	n.Labels = map[string]string{"kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "arm", "kubernetes.io/arch": "amd64"}
	labels, changed := oldLabels(n)
	if !changed || labels["beta.kubernetes.io/os"] != "linux" || labels["beta.kubernetes.io/arch"] != "amd64" || n.Labels["beta.kubernetes.io/os"] != "" {
		t.Errorf("%v from %v", labels, n.Labels)
	}
	n.Labels = labels
	if _, changed := oldLabels(n); changed {
		t.Error("labels that are right change")
	}
}

func TestCordonIsATaint(t *testing.T) {
	n := node("n", "Ready True")
	n.Spec.Unschedulable = true
	if got := strs(makeTaints(n, evict, now)); !slices.Equal(got, []string{"node.kubernetes.io/unschedulable:NoSchedule"}) {
		t.Errorf("%v", got)
	}
}

func TestSilence(t *testing.T) {
	was := node("n", "Ready True", "MemoryPressure Unknown", "NetworkUnavailable False")
	got := map[corev1.NodeConditionType]string{}
	for _, c := range silence(was, now) {
		got[c.Type] = string(c.Status) + " " + c.Reason
	}
	want := map[corev1.NodeConditionType]string{
		"Ready": "Unknown NodeStatusUnknown", "MemoryPressure": "Unknown ", "NetworkUnavailable": "False ",
		"DiskPressure": "Unknown NodeStatusNeverUpdated", "PIDPressure": "Unknown NodeStatusNeverUpdated",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if was.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Error("the node itself was changed")
	}
}

func TestPatience(t *testing.T) {
	cfg := Config{GracePeriod: 50 * time.Second, StartupGracePeriod: time.Minute}
	t0 := now.Time
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	beat := func(seconds int) heartbeat { return heartbeat{lease: at(seconds - 3600)} } // a clock that is an hour behind
	o := observation{}.observe(beat(0), at(0))
	o = o.observe(beat(10), at(10))
	o = o.observe(beat(10), at(45)) // nothing new
	if left := cfg.patience(node("n", "Ready True"), o, at(59)); left != time.Second {
		t.Errorf("left %s, want 1s: the last news was at 10 s", left)
	}
	if left := cfg.patience(node("n", "Ready True"), o, at(60)); left > 0 {
		t.Errorf("left %s at 60 s", left)
	}
	if left := cfg.patience(node("n"), o, at(60)); left != 10*time.Second {
		t.Errorf("left %s for a node that never reported, want 10s", left)
	}
}

func TestZones(t *testing.T) {
	cfg := Config{EvictionRate: 0.1, SecondaryEvictionRate: 0.01, LargeClusterThreshold: 50, UnhealthyZoneThreshold: 0.55}
	cluster := func(ready, lost int) []*corev1.Node {
		var nodes []*corev1.Node
		for i := range ready + lost {
			status := "Ready True"
			if i >= ready {
				status = "Ready Unknown"
			}
			nodes = append(nodes, node(fmt.Sprint("n", i), status))
		}
		return nodes
	}
	// evictions counts how many of the lost nodes are given up within a time.
	evictions := func(nodes []*corev1.Node, within time.Duration) (given int, choice evictionChoice) {
		z := &zones{cfg: cfg, limiters: map[string]*rate.Limiter{}}
		left := map[string]*corev1.Node{}
		for _, n := range nodes {
			if !isReady(n) {
				left[n.Name] = n
			}
		}
		for at := time.Duration(0); at <= within; at += 5 * time.Second {
			for name, n := range left {
				if choice = z.choose(n, func() []*corev1.Node { return nodes }, now.Add(at)); choice == evict {
					delete(left, name)
					given++
				}
			}
		}
		return given, choice
	}
	for _, test := range []struct {
		name        string
		ready, lost int
		within      time.Duration
		want        int
	}{
		{"one of three at once", 2, 1, 0, 1},
		{"several: one in ten seconds", 10, 5, 30 * time.Second, 4},
		{"most of a small zone: none", 2, 6, time.Hour, 0},
		{"most of a large zone: a tenth of the rate", 20, 60, 200 * time.Second, 3},
		{"all: none", 0, 3, time.Hour, 0},
	} {
		given, choice := evictions(cluster(test.ready, test.lost), test.within)
		if given != test.want {
			t.Errorf("%s: %d given up, want %d", test.name, given, test.want)
		}
		if test.ready == 0 && choice != spare {
			t.Errorf("%s: choice %v, want spare", test.name, choice)
		}
	}
	excluded := node("excluded", "Ready True")
	excluded.Labels = map[string]string{excludeDisruption: ""}
	if _, choice := evictions(append(cluster(0, 3), excluded), time.Minute); choice != spare {
		t.Errorf("a node that does not count keeps the zone alive: choice %v", choice)
	}
}
