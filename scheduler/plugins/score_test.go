package plugins

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/scheduler/framework"
)

func TestFormulas(t *testing.T) {
	// One resource each of weight 1: before and with the pod, of allocatable.
	one := func(before, requested, allocatable int64) []share {
		return []share{{before: before, requested: requested, allocatable: allocatable, weight: 1}}
	}
	two := func(a, b []share) []share { return append(slices.Clone(a), b...) }
	weigh := func(s []share, weight int64) []share {
		s = slices.Clone(s)
		s[0].weight = weight
		return s
	}
	ramp := []configv1.UtilizationShapePoint{{Utilization: 0, Score: 0}, {Utilization: 100, Score: 10}}
	hill := []configv1.UtilizationShapePoint{{Utilization: 20, Score: 0}, {Utilization: 50, Score: 10}, {Utilization: 80, Score: 5}}
	const TiB = 1 << 40

	tests := []struct {
		name    string
		formula formula
		shares  []share
		want    int64
	}{
		// (4000−3000)·100/4000 = 25; (10000−5000)·100/10000 = 50; mean 37.
		{"least", leastAllocated, two(one(0, 3000, 4000), one(0, 5000, 10000)), 37},
		{"least, weighted 3:1", leastAllocated, two(weigh(one(0, 3000, 4000), 3), one(0, 5000, 10000)), 31},
		{"least, over capacity", leastAllocated, one(0, 11, 10), 0},
		{"least, empty", leastAllocated, one(0, 0, 10), 100},
		{"least, nothing to judge", leastAllocated, nil, 0},
		{"least, no overflow", leastAllocated, one(0, 1<<61, 1<<62), 50},
		{"most", mostAllocated, two(one(0, 3000, 4000), one(0, 5000, 10000)), 62},
		{"most, over capacity counts as full", mostAllocated, one(0, 20, 10), 100},
		{"most, terabytes", mostAllocated, one(0, 3*TiB, 4*TiB), 75},
		{"ratio, straight", requestedToCapacityRatio(ramp), one(0, 3, 10), 30},
		{"ratio, zero scores leave the weights", requestedToCapacityRatio(ramp), two(one(0, 0, 10), one(0, 5, 10)), 50},
		{"ratio, rounded", requestedToCapacityRatio(ramp), two(one(0, 3, 10), one(0, 5, 8)), 46},       // (30+62)/2
		{"ratio, rounded up", requestedToCapacityRatio(ramp), two(one(0, 3, 10), one(0, 63, 100)), 47}, // 46.5
		{"ratio, before the first point", requestedToCapacityRatio(hill), one(0, 1, 10), 0},
		{"ratio, rising", requestedToCapacityRatio(hill), one(0, 35, 100), 50},
		{"ratio, falling", requestedToCapacityRatio(hill), one(0, 65, 100), 75},
		{"ratio, after the last point", requestedToCapacityRatio(hill), one(0, 9, 10), 50},
		{"ratio, over capacity", requestedToCapacityRatio(ramp), one(0, 20, 10), 100},
		// b = (1−|f1−f2|/2)·100: with 0.5 and 0.5 → 100, without 0 and 0.5 → 75.
		{"balanced, evens out", balanced, two(one(0, 5, 10), one(5, 5, 10)), 50 + (50+100-75)/2},
		{"balanced, unbalances", balanced, two(one(0, 5, 10), one(0, 0, 10)), 50 + (50+75-100)/2},
		{"balanced, no change", balanced, two(one(1, 2, 10), one(1, 2, 10)), 75},
		{"balanced, one resource", balanced, one(0, 5, 10), 75},
		{"balanced, fractions end at 1", balanced, two(one(0, 30, 10), one(0, 10, 10)), 75},
		// fractions .2 .4 .9: σ = √(.26/3) = .2943…; before all 0.
		{"balanced, three resources", balanced, two(two(one(0, 2, 10), one(0, 4, 10)), one(0, 9, 10)), 50 + (50+70-100)/2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.formula(tt.shares); got != tt.want {
				t.Errorf("score %d, want %d", got, tt.want)
			}
		})
	}
}

// score runs a score plugin over nodes as a profile would; nil means that the
// plugin stood aside.
func score(t *testing.T, plugin framework.Plugin, p *framework.PodInfo, nodes ...*framework.NodeInfo) []int64 {
	t.Helper()
	profile := &framework.Profile{}
	for _, point := range []string{"PreScore", "Score"} {
		if framework.Implements(plugin, point) {
			if err := profile.Add(point, plugin, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	images := map[string]int{}
	for _, n := range nodes {
		for image := range n.Images {
			images[image]++
		}
	}
	_, details, status := profile.RunScore(framework.NewCycle(p, &framework.Snapshot{Nodes: nodes, ImageNodes: images}), nodes, true)
	if !status.IsSuccess() {
		t.Fatal(status.Message())
	}
	if len(details) == 0 {
		return nil
	}
	return details[0].Normalized
}

func TestScores(t *testing.T) {
	prefers := func(key string, weight int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			if p.Spec.Affinity == nil {
				p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
			}
			a := p.Spec.Affinity.NodeAffinity
			a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution,
				corev1.PreferredSchedulingTerm{Weight: weight, Preference: corev1.NodeSelectorTerm{
					MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpExists}}}})
		}
	}
	labels := func(keys ...string) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Labels = map[string]string{}
			for _, k := range keys {
				n.Labels[k] = ""
			}
		}
	}
	image := func(name string, mebibytes int64) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: mebibytes << 20})
		}
	}
	soft := corev1.TaintEffectPreferNoSchedule
	small := "cpu=10 memory=10Gi"

	tests := []struct {
		plugin, args, name string
		pod                *framework.PodInfo
		nodes              []*framework.NodeInfo
		want               []int64
	}{
		{"TaintToleration", "", "fewest soft taints win", pod(""),
			[]*framework.NodeInfo{node(""), node("", taint("a", soft)), node("", taint("a", soft), taint("b", soft))}, []int64{100, 50, 0}},
		{"TaintToleration", "", "none anywhere", pod(""), []*framework.NodeInfo{node(""), node("")}, []int64{100, 100}},
		{"TaintToleration", "", "tolerated soft taints do not count", pod("", tolerate("a")),
			[]*framework.NodeInfo{node("", taint("a", soft)), node("", taint("b", soft))}, []int64{100, 0}},
		{"NodeAffinity", "", "weights add up", pod("", prefers("x", 3), prefers("y", 1)),
			[]*framework.NodeInfo{node("", labels("x", "y")), node("", labels("x")), node("", labels("y")), node("")}, []int64{100, 75, 25, 0}},
		{"NodeAffinity", "", "no preference, no opinion", pod(""), []*framework.NodeInfo{node(""), node("")}, nil},
		{"NodeResourcesFit", "", "least allocated by default", pod("cpu=2 memory=2Gi"),
			[]*framework.NodeInfo{node(small), with(node(small), pod("cpu=4 memory=4Gi"))}, []int64{80, 40}},
		{"NodeResourcesFit", `{"scoringStrategy":{"type":"MostAllocated"}}`, "most allocated", pod("cpu=2 memory=2Gi"),
			[]*framework.NodeInfo{node(small), with(node(small), pod("cpu=4 memory=4Gi"))}, []int64{20, 60}},
		// 100m and 200Mi are assumed: (99 + 98)/2 and (98 + 96)/2.
		{"NodeResourcesFit", "", "pods without requests are assumed to use something", pod(""),
			[]*framework.NodeInfo{node(small), with(node(small), pod("", func(p *corev1.Pod) { p.UID = "o" }))}, []int64{98, 97}},
		{"NodeResourcesFit", `{"scoringStrategy":{"resources":[{"name":"x.io/gpu"}]}}`, "an extended resource not asked for", pod("cpu=1"),
			[]*framework.NodeInfo{node("x.io/gpu=4"), node("cpu=1")}, []int64{0, 0}},
		{"NodeResourcesFit", `{"scoringStrategy":{"resources":[{"name":"x.io/gpu"}]}}`, "an extended resource", pod("x.io/gpu=1"),
			[]*framework.NodeInfo{node("x.io/gpu=4"), node("x.io/gpu=2")}, []int64{75, 50}},
		{"NodeResourcesBalancedAllocation", "", "true requests only", pod("cpu=5"),
			[]*framework.NodeInfo{node(small), with(node(small), pod("memory=5Gi"))}, []int64{62, 87}},
		{"NodeResourcesBalancedAllocation", "", "best effort, no opinion", pod(""), []*framework.NodeInfo{node(small), node(small)}, nil},
		// 523 MiB on one of two nodes: half of it counts, (261.5−23)/(1000−23).
		{"ImageLocality", "", "bytes that are there", pod(""),
			[]*framework.NodeInfo{node("", image("app:1", 523)), node("", image("other:1", 523))}, []int64{24, 0}},
		{"ImageLocality", "", "on every node", pod(""),
			[]*framework.NodeInfo{node("", image("app:1", 2000)), node("", image("app:1", 10))}, []int64{100, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.plugin+"/"+tt.name, func(t *testing.T) {
			for i, n := range tt.nodes {
				n.Node.Name = fmt.Sprint("n", i)
			}
			if got := score(t, made(t, tt.plugin, tt.args), tt.pod, tt.nodes...); !slices.Equal(got, tt.want) {
				t.Errorf("scores %v, want %v", got, tt.want)
			}
		})
	}
}

func TestImageNames(t *testing.T) {
	for image, want := range map[string]string{
		"app": "app:latest", "app:1": "app:1", "host:5000/app": "host:5000/app:latest", "host:5000/app:1": "host:5000/app:1",
	} {
		if got := withTag(image); got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}
