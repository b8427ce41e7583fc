package plugins

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/scheduler/framework"
)

// Quiet is a plugin as anybody could write one: it prefers nodes with few pods,
// however large these are, because each pod makes some noise.
type Quiet struct{}

// Name is what a configuration file calls it.
func (Quiet) Name() string { return "Quiet" }

// Score counts, so a high score is bad.
func (Quiet) Score(_ *framework.Cycle, n *framework.NodeInfo) (int64, *framework.Status) {
	return int64(len(n.Pods)), nil
}

// NormalizeScore turns the counts round and into 0..100.
func (Quiet) NormalizeScore(_ *framework.Cycle, scores []int64) *framework.Status {
	normalize(scores, true)
	return nil
}

func TestAPluginOfOnesOwn(t *testing.T) {
	profile := &framework.Profile{}
	if err := profile.Add("Score", Quiet{}, 5); err != nil {
		t.Fatal(err)
	}
	if framework.Implements(Quiet{}, "Filter") {
		t.Error("it has no Filter")
	}
	nodes := make([]*framework.NodeInfo, 3)
	for i := range nodes {
		nodes[i] = &framework.NodeInfo{Node: &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}}
		for range 2 * i {
			nodes[i].AddPod(framework.NewPodInfo(&corev1.Pod{}))
		}
	}
	totals, _, status := profile.RunScore(framework.NewCycle(framework.NewPodInfo(&corev1.Pod{}), &framework.Snapshot{Nodes: nodes}), nodes, false)
	if !status.IsSuccess() || totals[0] != 500 || totals[1] != 250 || totals[2] != 0 {
		t.Errorf("totals %v, %v", totals, status)
	}
}
