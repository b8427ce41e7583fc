package config

import (
	"fmt"
	"strings"
	"testing"

	"tinykube/internal/reference"
	"tinykube/scheduler/framework"
)

const header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

// filtersAndScores describes a profile in a line.
func filtersAndScores(p *framework.Profile) string {
	var names []string
	for _, f := range p.Filter {
		names = append(names, f.Name())
	}
	names = append(names, "|")
	for _, s := range p.Score {
		names = append(names, fmt.Sprintf("%s×%d", s.Name(), s.Weight))
	}
	return strings.Join(names, " ")
}

func load(t *testing.T, file string) *framework.Profile {
	t.Helper()
	c, err := Load([]byte(header + file))
	if err != nil {
		t.Fatal(err)
	}
	profiles, err := Profiles(c, framework.Handle{})
	if err != nil {
		t.Fatal(err)
	}
	return profiles[0]
}

func TestPluginSets(t *testing.T) {
	const filters = "NodeUnschedulable NodeName TaintToleration NodeAffinity NodePorts NodeResourcesFit VolumeRestrictions NodeVolumeLimits VolumeBinding VolumeZone PodTopologySpread InterPodAffinity |"
	tests := []struct{ name, plugins, want string }{
		{"defaults", "{}",
			filters + " TaintToleration×3 NodeAffinity×2 NodeResourcesFit×1 VolumeBinding×1 PodTopologySpread×2 InterPodAffinity×2 NodeResourcesBalancedAllocation×1 ImageLocality×1"},
		{"disable one score", "{score: {disabled: [{name: ImageLocality}]}}",
			filters + " TaintToleration×3 NodeAffinity×2 NodeResourcesFit×1 VolumeBinding×1 PodTopologySpread×2 InterPodAffinity×2 NodeResourcesBalancedAllocation×1"},
		{"all scores but one", "{score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit, weight: 5}]}}",
			filters + " NodeResourcesFit×5"},
		{"a weight at a point moves the plugin to the front", "{score: {enabled: [{name: NodeResourcesFit, weight: 7}]}}",
			filters + " NodeResourcesFit×7 TaintToleration×3 NodeAffinity×2 VolumeBinding×1 PodTopologySpread×2 InterPodAffinity×2 NodeResourcesBalancedAllocation×1 ImageLocality×1"},
		{"multiPoint reweights in place", "{multiPoint: {enabled: [{name: TaintToleration, weight: 9}, {name: NodeAffinity}]}}",
			filters + " TaintToleration×9 NodeAffinity×1 NodeResourcesFit×1 VolumeBinding×1 PodTopologySpread×2 InterPodAffinity×2 NodeResourcesBalancedAllocation×1 ImageLocality×1"},
		{"multiPoint disables everywhere", "{multiPoint: {disabled: [{name: NodeAffinity}]}}",
			"NodeUnschedulable NodeName TaintToleration NodePorts NodeResourcesFit VolumeRestrictions NodeVolumeLimits VolumeBinding VolumeZone PodTopologySpread InterPodAffinity | TaintToleration×3 NodeResourcesFit×1 VolumeBinding×1 PodTopologySpread×2 InterPodAffinity×2 NodeResourcesBalancedAllocation×1 ImageLocality×1"},
		{"from nothing", "{multiPoint: {disabled: [{name: '*'}], enabled: [{name: PrioritySort}, {name: DefaultBinder}, {name: NodeResourcesFit}]}}",
			"NodeResourcesFit | NodeResourcesFit×1"},
		{"disabling what only upstream has", "{score: {disabled: [{name: GangScheduling}]}}",
			filters + " TaintToleration×3 NodeAffinity×2 NodeResourcesFit×1 VolumeBinding×1 PodTopologySpread×2 InterPodAffinity×2 NodeResourcesBalancedAllocation×1 ImageLocality×1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := filtersAndScores(load(t, "profiles: [{plugins: "+tt.plugins+"}]")); got != tt.want {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for file, want := range map[string]string{
		"profile: []":                                                          `strict decoding error: unknown field "profile"`,
		"profiles: [{plugins: {scores: 1}}]":                                   `unknown field "profiles[0].plugins.scores"`,
		"parallelism: 0":                                                       "parallelism: Invalid value: 0: should be an integer value greater than zero",
		"parallelism: many":                                                    "cannot unmarshal string",
		"percentageOfNodesToScore: 101":                                        "percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]",
		"podInitialBackoffSeconds: 20":                                         "podMaxBackoffSeconds: Invalid value: 10: must be greater than or equal to PodInitialBackoffSeconds",
		"extenders: [{urlPrefix: x}]":                                          "extenders: not supported",
		"profiles: [{}, {schedulerName: a}]":                                   "profiles[0].schedulerName: Required value",
		"profiles: [{schedulerName: a}, {schedulerName: a}]":                   `profiles[1].schedulerName: Duplicate value: "a"`,
		"profiles: [{plugins: {filter: {enabled: [{name: Nope}]}}}]":           `initializing profiles: creating profile for scheduler name default-scheduler: FilterPlugin "Nope" does not exist`,
		"profiles: [{plugins: {filter: {enabled: [{name: GangScheduling}]}}}]": `FilterPlugin "GangScheduling" is not built into this scheduler`,
		"profiles: [{plugins: {filter: {enabled: [{name: ImageLocality}]}}}]":  `plugin "ImageLocality" does not extend FilterPlugin plugin`,
		"profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]":             `at least one bind plugin is needed for profile with scheduler name "default-scheduler"`,
		"profiles: [{plugins: {queueSort: {disabled: [{name: '*'}]}}}]":        `only one queue sort plugin required for profile with scheduler name "default-scheduler", but got 0`,
		"profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {kind: x}}}]}]":                      `strict decoding error: decoding .profiles[0].pluginConfig[0]: strict decoding error: decoding args for plugin NodeResourcesFit: strict decoding error: unknown field "scoringStrategy.kind"`,
		"profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]":                      "profiles[0].pluginConfig[0].args.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
		"profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultConstraints: [{maxSkew: 1}]}}]}]":             `defaultingType: Invalid value: "System": when .defaultConstraints are not empty`,
		"profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{}]}}]}]": "defaultConstraints[0].topologyKey: can not be empty",
		"profiles: [{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: Some}}]}]":                           `defaultingType: unsupported value "Some"`,
		"profiles: [{pluginConfig: [{name: DefaultPreemption, args: {minCandidateNodesPercentage: 101}}]}]":               "minCandidateNodesPercentage: Invalid value: 101: not in valid range [0, 100]",
		"profiles: [{pluginConfig: [{name: VolumeBinding, args: {bindTimeoutSeconds: -1}}]}]":                             "should not be a negative value",
		"profiles: [{pluginConfig: [{name: NodeName}, {name: NodeName}]}]":                                                `profiles[0].pluginConfig[1]: Duplicate value: "NodeName"`,
		"leaderElection: {leaderElect: true, leaseDuration: 5s, renewDeadline: 10s}":                                      "leaderElection.leaseDuration: Invalid value: \"10s\": must be greater than `RenewDeadline`",
		"profiles: [{pluginConfig: [{name: Nope}]}]":                                                                      `pluginConfig[0]: plugin "Nope" does not exist`,
		"leaderElection: {resourceLock: endpoints}":                                                                       "leaderElection.resourceLock",
		"percentageOfNodesToScore: 1\npercentageOfNodesToScore: 2":                                                        "already set in map",
	} {
		c, err := Load([]byte(header + file))
		if err == nil {
			_, err = Profiles(c, framework.Handle{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", file, err, want)
		}
	}
	if _, err := Load([]byte("apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration")); err == nil {
		t.Error("an old version was accepted")
	}
}

// The file that users of packing schedulers pass.
func TestMostAllocatedFile(t *testing.T) {
	p := load(t, `
profiles:
- schedulerName: default-scheduler
  percentageOfNodesToScore: 100
  pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      scoringStrategy:
        type: MostAllocated
        resources: [{name: cpu, weight: 1}, {name: memory, weight: 1}]
`)
	if p.PercentageOfNodesToScore != 100 {
		t.Errorf("percentage %d", p.PercentageOfNodesToScore)
	}
}

func TestHardWayFile(t *testing.T) {
	c, err := LoadFile(reference.Path(t, "manifests/hard-way/kube-scheduler.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.ClientConnection.Kubeconfig == "" || c.LeaderElection.LeaderElect == nil || !*c.LeaderElection.LeaderElect {
		t.Errorf("%+v", c)
	}
}
