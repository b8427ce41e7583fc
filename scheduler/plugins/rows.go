package plugins

import (
	"fmt"

	"tinykube/scheduler/framework"
)

// Row declares a plugin: its name in configuration files, its default weight,
// and how it is made from its raw JSON arguments (nil for the defaults).
type Row struct {
	Name   string
	Weight int64
	New    func(args []byte, handle framework.Handle) (framework.Plugin, error)
}

// Rows lists every plugin, in the order in which they are asked by default:
// cheap and selective filters first.
//
// Upstream: kubernetes pkg/scheduler/apis/config/v1 getDefaultPlugins
var Rows = []Row{
	{"SchedulingGates", 1, plain(SchedulingGates{})},
	{"PrioritySort", 1, plain(PrioritySort{})},
	{"NodeUnschedulable", 1, plain(NodeUnschedulable{})},
	{"NodeName", 1, plain(NodeName{})},
	{"TaintToleration", 3, plain(TaintToleration{})},
	{"NodeAffinity", 2, newNodeAffinity},
	{"NodePorts", 1, plain(NodePorts{})},
	{"NodeResourcesFit", 1, newFit},
	{"VolumeRestrictions", 1, newVolumeRestrictions},
	{"NodeVolumeLimits", 1, newVolumeLimits},
	{"VolumeBinding", 1, newVolumeBinding},
	{"VolumeZone", 1, newVolumeZone},
	{"PodTopologySpread", 2, newSpread},
	{"InterPodAffinity", 2, newInterPodAffinity},
	{"DynamicResources", 2, newDynamicResources},
	{"DefaultPreemption", 1, newPreemption},
	{"NodeResourcesBalancedAllocation", 1, newBalanced},
	{"ImageLocality", 1, plain(ImageLocality{})},
	{"DefaultBinder", 1, newDefaultBinder},
}

// NotBuilt are upstream's plugins which we do not have. Files often disable
// them, which is no mistake; enabling one is.
var NotBuilt = map[string]bool{
	"GangScheduling": true, "NodeDeclaredFeatures": true,
}

// plain is for plugins without arguments.
func plain(plugin framework.Plugin) func([]byte, framework.Handle) (framework.Plugin, error) {
	return func(args []byte, _ framework.Handle) (framework.Plugin, error) {
		if len(args) > 0 {
			return nil, fmt.Errorf("plugin %s takes no arguments", plugin.Name())
		}
		return plugin, nil
	}
}

// noArgs is for plugins that use the handle but take no arguments.
func noArgs(raw []byte, plugin framework.Plugin) (framework.Plugin, error) {
	if len(raw) > 0 {
		return nil, fmt.Errorf("plugin %s takes no arguments", plugin.Name())
	}
	return plugin, nil
}
