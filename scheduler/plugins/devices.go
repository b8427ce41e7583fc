package plugins

import (
	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/scheduler/framework"
)

// DynamicResources is upstream's allocator of devices (GPUs, for example) that
// pods claim by spec.resourceClaims.
//
// Simplified: it allocates nothing. A pod that claims devices is turned down
// and told why, instead of being started without them. To all other pods it
// does what upstream's does: say in the sentence that there was nothing to do.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/dynamicresources
type DynamicResources struct{}

var (
	noAllocator  = framework.NewStatus(framework.UnschedulableAndUnresolvable, "this scheduler cannot allocate resource claims (spec.resourceClaims)")
	nothingToDo  = framework.NewStatus(framework.Unschedulable, "no new claims to deallocate")
	neverStarted = framework.NewStatus(framework.Error, "not found")
)

func newDynamicResources(raw []byte, _ framework.Handle) (framework.Plugin, error) {
	return DynamicResources{}, decodeArgs(raw, &configv1.DynamicResourcesArgs{})
}

// Name is the plugin's name in configuration files.
func (DynamicResources) Name() string { return "DynamicResources" }

// PreFilter turns down pods with claims.
func (p DynamicResources) PreFilter(c *framework.Cycle) (map[string]bool, *framework.Status) {
	c.Set(p.Name(), true)
	if len(c.Pod.Spec.ResourceClaims) > 0 {
		return nil, noAllocator
	}
	return nil, skip
}

// PostFilter has nothing to take back from anybody. When another plugin's
// PreFilter said no before ours was asked, upstream finds no state, calls that
// an error, and so keeps preemption from being tried; hence the odd words in
// "pod has unbound immediate PersistentVolumeClaims. not found".
func (p DynamicResources) PostFilter(c *framework.Cycle, _ *framework.FilterRun, _ *framework.Diagnosis) (*framework.Room, *framework.Status) {
	if c.Get(p.Name()) == nil {
		return nil, neverStarted
	}
	return nil, nothingToDo
}

// Hints: none that we could fulfil.
func (DynamicResources) Hints() []framework.Hint { return nil }
