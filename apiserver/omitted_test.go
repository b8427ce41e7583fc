package apiserver

import (
	"encoding/json"
	"maps"
	"slices"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// TestOmissions prints what we deliberately leave out, and sees to it that each
// entry is still true: upstream has it, and we do not.
func TestOmissions(t *testing.T) {
	var groups apidiscoveryv2.APIGroupDiscoveryList
	readGolden(t, "aggregated_v2.json", &groups)
	var core metav1.APIResourceList
	readGolden(t, "api__v1.json", &core)
	upstream := map[string]bool{}
	for _, g := range groups.Items {
		for _, v := range g.Versions {
			upstream[g.Name+"/"+v.Version] = true
			for _, r := range v.Resources {
				upstream[g.Name+"/"+v.Version+"/"+r.Resource] = true
			}
		}
	}
	for _, r := range core.APIResources {
		upstream["v1/"+r.Name] = true
	}
	ours := map[string]bool{}
	for _, row := range resources.All() {
		ours[row.GVK().GroupVersion().String()] = true
		ours[row.GVK().GroupVersion().String()+"/"+row.Plural] = true
	}
	for _, name := range slices.Sorted(maps.Keys(omitted)) {
		if !upstream[name] || ours[name] {
			t.Errorf("%s: upstream has it: %v; we have it: %v", name, upstream[name], ours[name])
		}
		t.Logf("left out: %s: %s", name, omitted[name])
	}
	left := 0
	for name := range upstream {
		if !ours[name] {
			left++
		}
	}
	text, _ := json.Marshal(slices.Sorted(maps.Keys(ours)))
	t.Logf("served: %d names; of upstream's %d, %d are left out: %s", len(ours), len(upstream), left, text)
}
