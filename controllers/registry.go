package controllers

import (
	"fmt"
	"slices"
	"strings"

	"tinykube/controllers/daemonset"
	"tinykube/controllers/deployment"
	"tinykube/controllers/endpointslice"
	"tinykube/controllers/garbagecollector"
	"tinykube/controllers/harness"
	"tinykube/controllers/namespace"
	"tinykube/controllers/nodeipam"
	"tinykube/controllers/nodelifecycle"
	"tinykube/controllers/podgc"
	"tinykube/controllers/replicaset"
	"tinykube/controllers/rootca"
	"tinykube/controllers/serviceaccount"
	"tinykube/controllers/tainteviction"
)

// entry is one controller that upstream has, under its name and the shorter
// one that older command lines use. register is nil for those we have not.
type entry struct {
	name, alias string
	register    func(*harness.Manager, *Config)
}

// registry lists the controllers in the order in which they register.
//
// Upstream: kubernetes/kubernetes cmd/kube-controller-manager/names/controller_names.go
var registry = []entry{
	{"namespace-controller", "namespace", func(m *harness.Manager, _ *Config) { namespace.Register(m) }},
	{"serviceaccount-controller", "serviceaccount", func(m *harness.Manager, _ *Config) { serviceaccount.Register(m) }},
	{"root-ca-certificate-publisher-controller", "root-ca-cert-publisher", func(m *harness.Manager, c *Config) {
		if c.RootCA != "" {
			rootca.Register(m, c.RootCA)
		}
	}},
	{"node-ipam-controller", "nodeipam", func(m *harness.Manager, c *Config) {
		if c.AllocateNodeCIDRs {
			nodeipam.Register(m, c.NodeIPAM)
		}
	}},
	{"node-lifecycle-controller", "nodelifecycle", func(m *harness.Manager, c *Config) { nodelifecycle.Register(m, c.NodeLifecycle) }},
	{"taint-eviction-controller", "taint-eviction-controller", func(m *harness.Manager, _ *Config) { tainteviction.Register(m) }},
	{"deployment-controller", "deployment", func(m *harness.Manager, _ *Config) { deployment.Register(m) }},
	{"replicaset-controller", "replicaset", func(m *harness.Manager, _ *Config) { replicaset.Register(m) }},
	{"daemonset-controller", "daemonset", func(m *harness.Manager, _ *Config) { daemonset.Register(m) }},
	{"endpointslice-controller", "endpointslice", func(m *harness.Manager, c *Config) { endpointslice.Register(m, c.EndpointSlice) }},
	{"endpoints-controller", "endpoint", func(m *harness.Manager, _ *Config) { endpointslice.RegisterEndpoints(m) }},
	{"pod-garbage-collector-controller", "podgc", func(m *harness.Manager, c *Config) { podgc.Register(m, c.TerminatedPodThreshold) }},
	// Last, so that it sees which kinds the others watch already.
	{"garbage-collector-controller", "garbagecollector", func(m *harness.Manager, c *Config) {
		if c.GarbageCollector {
			garbagecollector.Register(m)
		}
	}},

	{name: "bootstrap-signer-controller", alias: "bootstrapsigner"},
	{name: "certificatesigningrequest-approving-controller", alias: "csrapproving"},
	{name: "certificatesigningrequest-cleaner-controller", alias: "csrcleaner"},
	{name: "certificatesigningrequest-signing-controller", alias: "csrsigning"},
	{name: "clusterrole-aggregation-controller", alias: "clusterrole-aggregation"},
	{name: "cronjob-controller", alias: "cronjob"},
	{name: "disruption-controller", alias: "disruption"},
	{name: "endpointslice-mirroring-controller", alias: "endpointslicemirroring"},
	{name: "ephemeral-volume-controller", alias: "ephemeral-volume"},
	{name: "horizontal-pod-autoscaler-controller", alias: "horizontalpodautoscaling"},
	{name: "job-controller", alias: "job"},
	{name: "legacy-serviceaccount-token-cleaner-controller", alias: "legacy-service-account-token-cleaner"},
	{name: "persistentvolume-attach-detach-controller", alias: "attachdetach"},
	{name: "persistentvolume-binder-controller", alias: "persistentvolume-binder"},
	{name: "persistentvolume-expander-controller", alias: "persistentvolume-expander"},
	{name: "persistentvolume-protection-controller", alias: "pv-protection"},
	{name: "persistentvolumeclaim-protection-controller", alias: "pvc-protection"},
	{name: "replicationcontroller-controller", alias: "replicationcontroller"},
	{name: "resourcequota-controller", alias: "resourcequota"},
	{name: "service-cidr-controller", alias: "service-cidr-controller"},
	{name: "service-lb-controller", alias: "service"},
	{name: "serviceaccount-token-controller", alias: "serviceaccount-token"},
	{name: "statefulset-controller", alias: "statefulset"},
	{name: "token-cleaner-controller", alias: "tokencleaner"},
	{name: "ttl-after-finished-controller", alias: "ttl-after-finished"},
	{name: "ttl-controller", alias: "ttl"},
	{name: "validatingadmissionpolicy-status-controller", alias: "validatingadmissionpolicy-status"},
}

// Selection is what --controllers asks for.
type Selection struct {
	Run []string // names of controllers that we have
	// Missing were named one by one, and exist upstream only.
	Missing []string
}

// Select reads --controllers: "*" is everything on by default, "x" switches
// one on and "-x" off. Of two that contradict each other the first counts.
func Select(wanted []string) (Selection, error) {
	if len(wanted) == 0 {
		wanted = []string{"*"}
	}
	for _, w := range wanted {
		name := strings.TrimPrefix(w, "-")
		if w != "*" && !slices.ContainsFunc(registry, func(e entry) bool { return e.is(name) }) {
			return Selection{}, fmt.Errorf("%q is not in the list of known controllers", name)
		}
	}
	var s Selection
	for _, e := range registry {
		on, explicit := e.wanted(wanted)
		switch {
		case on && e.register != nil:
			s.Run = append(s.Run, e.name)
		case on && explicit:
			s.Missing = append(s.Missing, e.name)
		}
	}
	return s, nil
}

func (e entry) is(name string) bool { return name == e.name || name == e.alias }

func (e entry) wanted(wanted []string) (on, explicit bool) {
	for _, w := range wanted {
		if e.is(strings.TrimPrefix(w, "-")) {
			return !strings.HasPrefix(w, "-"), true
		}
	}
	return slices.Contains(wanted, "*"), false
}

// Names lists the controllers that we have, for --help.
func Names() []string {
	var names []string
	for _, e := range registry {
		if e.register != nil {
			names = append(names, e.name)
		}
	}
	return names
}
