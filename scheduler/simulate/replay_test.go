package simulate

import (
	"compress/gzip"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"tinykube/internal/randomcluster"
	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
)

// TestRealDecisions decides once more about a thousand made-up clusters, about
// which a real kube-scheduler v1.36 has decided: ours must agree with each
// node, sentence and victim. `make compare-scheduler` recorded them.
func TestRealDecisions(t *testing.T) {
	file, err := os.Open("testdata/real-v1.36.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[uint64][]Outcome{}
	if err := json.NewDecoder(zipped).Decode(&recorded); err != nil {
		t.Fatal(err)
	}
	component, err := config.Load([]byte(randomcluster.Config))
	if err != nil {
		t.Fatal(err)
	}
	world := &World{} // another one for each cluster, in the same place
	profiles, err := config.Profiles(component, framework.Handle{Objects: world})
	if err != nil {
		t.Fatal(err)
	}
	uses := map[string]int{}
	decisions := 0
	for _, seed := range slices.Sorted(maps.Keys(recorded)) {
		cluster := randomcluster.New(seed)
		*world = World{}
		if err := world.AddAll(cluster.Objects()); err != nil {
			t.Fatal(err)
		}
		judge := NewJudge(profiles, world)
		for i, outcome := range recorded[seed] {
			decisions++
			if err := judge.Decide(randomcluster.Complete(cluster.Waiting[i]), outcome); err != nil {
				t.Errorf("cluster %d: %v", seed, err)
				break
			}
		}
		for use, n := range judge.Uses {
			uses[use] += n
		}
	}
	t.Logf("%d clusters, %d decisions", len(recorded), decisions)
	for _, use := range slices.Sorted(maps.Keys(uses)) {
		t.Logf("%7d times %s", uses[use], use)
	}
	// What took no part has not been compared.
	for _, use := range []string{"DefaultPreemption makes room", "ImageLocality scores", "InterPodAffinity filters", "InterPodAffinity scores",
		"NodeAffinity filters", "NodeAffinity scores", "NodePorts filters", "NodeResourcesBalancedAllocation scores", "NodeResourcesFit filters",
		"NodeResourcesFit scores", "NodeUnschedulable filters", "PodTopologySpread filters", "PodTopologySpread scores", "TaintToleration filters",
		"TaintToleration scores", "VolumeBinding filters", "VolumeRestrictions filters", "VolumeZone filters"} {
		if uses[use] < 10 {
			t.Errorf("%s only %d times", use, uses[use])
		}
	}
}
