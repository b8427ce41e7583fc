package controllers

import (
	"fmt"
	"slices"
	"strings"

	"tinykube/controllers/attachdetach"
	"tinykube/controllers/bootstraptoken"
	"tinykube/controllers/certificates"
	"tinykube/controllers/clusterroleaggregation"
	"tinykube/controllers/cronjob"
	"tinykube/controllers/daemonset"
	"tinykube/controllers/deployment"
	"tinykube/controllers/disruption"
	"tinykube/controllers/endpointslice"
	"tinykube/controllers/ephemeralvolume"
	"tinykube/controllers/garbagecollector"
	"tinykube/controllers/harness"
	"tinykube/controllers/job"
	"tinykube/controllers/namespace"
	"tinykube/controllers/nodeipam"
	"tinykube/controllers/nodelifecycle"
	"tinykube/controllers/podgc"
	"tinykube/controllers/replicaset"
	"tinykube/controllers/resourcequota"
	"tinykube/controllers/rootca"
	"tinykube/controllers/serviceaccount"
	"tinykube/controllers/serviceaccounttoken"
	"tinykube/controllers/servicelb"
	"tinykube/controllers/statefulset"
	"tinykube/controllers/tainteviction"
	"tinykube/controllers/ttl"
	"tinykube/controllers/ttlafterfinished"
	"tinykube/controllers/volumebinder"
	"tinykube/controllers/volumeexpander"
	"tinykube/controllers/volumeprotection"
)

// entry is one controller that upstream has, under its name and the shorter
// one that older command lines use. register is nil for those we have not.
type entry struct {
	name, alias string
	register    func(*harness.Manager, *Config)
	// optIn is not on by default: "*" does not mean it.
	optIn bool
}

// plain is a controller that nothing has to be said to.
func plain(name, alias string, register func(*harness.Manager)) entry {
	return entry{name: name, alias: alias, register: func(m *harness.Manager, _ *Config) { register(m) }}
}

// registry lists the controllers in the order in which they register.
//
// Upstream: kubernetes/kubernetes cmd/kube-controller-manager/names/controller_names.go
var registry = []entry{
	{name: "serviceaccount-token-controller", alias: "serviceaccount-token", register: func(m *harness.Manager, c *Config) {
		if c.TokenSigner != nil {
			serviceaccounttoken.Register(m, c.TokenSigner, c.RootCA)
		}
	}},
	plain("namespace-controller", "namespace", namespace.Register),
	plain("serviceaccount-controller", "serviceaccount", serviceaccount.Register),
	{name: "root-ca-certificate-publisher-controller", alias: "root-ca-cert-publisher", register: func(m *harness.Manager, c *Config) {
		if c.RootCA != "" {
			rootca.Register(m, c.RootCA)
		}
	}},
	plain("resourcequota-controller", "resourcequota", resourcequota.Register),

	{name: "node-ipam-controller", alias: "nodeipam", register: func(m *harness.Manager, c *Config) {
		if c.AllocateNodeCIDRs {
			nodeipam.Register(m, c.NodeIPAM)
		}
	}},
	{name: "node-lifecycle-controller", alias: "nodelifecycle", register: func(m *harness.Manager, c *Config) { nodelifecycle.Register(m, c.NodeLifecycle) }},
	plain("taint-eviction-controller", "taint-eviction-controller", tainteviction.Register),
	plain("ttl-controller", "ttl", ttl.Register),

	plain("deployment-controller", "deployment", deployment.Register),
	plain("replicaset-controller", "replicaset", replicaset.Register),
	plain("replicationcontroller-controller", "replicationcontroller", replicaset.RegisterReplicationControllers),
	plain("statefulset-controller", "statefulset", statefulset.Register),
	plain("daemonset-controller", "daemonset", daemonset.Register),
	plain("job-controller", "job", job.Register),
	plain("cronjob-controller", "cronjob", cronjob.Register),
	plain("ttl-after-finished-controller", "ttl-after-finished", ttlafterfinished.Register),
	plain("disruption-controller", "disruption", disruption.Register),
	{name: "pod-garbage-collector-controller", alias: "podgc", register: func(m *harness.Manager, c *Config) { podgc.Register(m, c.TerminatedPodThreshold) }},

	{name: "endpointslice-controller", alias: "endpointslice", register: func(m *harness.Manager, c *Config) { endpointslice.Register(m, c.EndpointSlice) }},
	plain("endpoints-controller", "endpoint", endpointslice.RegisterEndpoints),
	plain("service-lb-controller", "service", servicelb.Register),

	plain("persistentvolume-binder-controller", "persistentvolume-binder", volumebinder.Register),
	plain("persistentvolume-expander-controller", "persistentvolume-expander", volumeexpander.Register),
	plain("persistentvolume-attach-detach-controller", "attachdetach", attachdetach.Register),
	plain("persistentvolumeclaim-protection-controller", "pvc-protection", volumeprotection.RegisterClaims),
	plain("persistentvolume-protection-controller", "pv-protection", volumeprotection.RegisterVolumes),
	plain("volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller", volumeprotection.RegisterClasses),
	plain("ephemeral-volume-controller", "ephemeral-volume", ephemeralvolume.Register),

	plain("clusterrole-aggregation-controller", "clusterrole-aggregation", clusterroleaggregation.Register),
	plain("certificatesigningrequest-approving-controller", "csrapproving", certificates.RegisterApproving),
	{name: "certificatesigningrequest-signing-controller", alias: "csrsigning", register: func(m *harness.Manager, c *Config) {
		if len(c.Signing.CAs) > 0 {
			certificates.RegisterSigning(m, c.Signing)
		}
	}},
	plain("certificatesigningrequest-cleaner-controller", "csrcleaner", certificates.RegisterCleaning),
	{name: "bootstrap-signer-controller", alias: "bootstrapsigner", optIn: true, register: func(m *harness.Manager, _ *Config) { bootstraptoken.RegisterSigner(m) }},
	{name: "token-cleaner-controller", alias: "tokencleaner", optIn: true, register: func(m *harness.Manager, _ *Config) { bootstraptoken.RegisterCleaner(m) }},

	// Last, so that it sees which kinds the others watch already.
	{name: "garbage-collector-controller", alias: "garbagecollector", register: func(m *harness.Manager, c *Config) {
		if c.GarbageCollector {
			garbagecollector.Register(m)
		}
	}},

	{name: "endpointslice-mirroring-controller", alias: "endpointslicemirroring"},
	{name: "horizontal-pod-autoscaler-controller", alias: "horizontalpodautoscaling"},
	{name: "legacy-serviceaccount-token-cleaner-controller", alias: "legacy-service-account-token-cleaner"},
	{name: "service-cidr-controller", alias: "service-cidr-controller"},
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
	return slices.Contains(wanted, "*") && !e.optIn, false
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
