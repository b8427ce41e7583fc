package config

import (
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	configv1 "k8s.io/kube-scheduler/config/v1"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"tinykube/scheduler/framework"
	"tinykube/scheduler/plugins"
)

// DefaultSchedulerName is the profile of pods that name no scheduler.
const DefaultSchedulerName = "default-scheduler"

// Default is the configuration without a file.
func Default() *configv1.KubeSchedulerConfiguration {
	c := &configv1.KubeSchedulerConfiguration{}
	setDefaults(c)
	return c
}

// LoadFile reads a configuration file.
func LoadFile(path string) (*configv1.KubeSchedulerConfiguration, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c, err := Load(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Load decodes strictly: an unknown or repeated field is an error, because a
// scheduler that quietly ignores half of its file is worse than none.
func Load(raw []byte) (*configv1.KubeSchedulerConfiguration, error) {
	asJSON, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return nil, err
	}
	c := &configv1.KubeSchedulerConfiguration{}
	strict, err := sigsjson.UnmarshalStrict(asJSON, c)
	if err == nil && len(strict) > 0 {
		err = runtime.NewStrictDecodingError(strict)
	}
	if err != nil {
		return nil, err
	}
	if c.Kind != "KubeSchedulerConfiguration" || c.APIVersion != configv1.SchemeGroupVersion.String() {
		return nil, fmt.Errorf("want apiVersion %s, kind KubeSchedulerConfiguration, not %q, %q",
			configv1.SchemeGroupVersion, c.APIVersion, c.Kind)
	}
	setDefaults(c)
	return c, validate(c)
}

// setDefaults fills in what upstream fills in, as far as we use it.
//
// Upstream: kubernetes pkg/scheduler/apis/config/v1 SetDefaults_KubeSchedulerConfiguration
func setDefaults(c *configv1.KubeSchedulerConfiguration) {
	setDefault(&c.Parallelism, 16)
	setDefault(&c.PercentageOfNodesToScore, 0)
	setDefault(&c.PodInitialBackoffSeconds, 1)
	setDefault(&c.PodMaxBackoffSeconds, 10)
	if len(c.Profiles) == 0 {
		c.Profiles = []configv1.KubeSchedulerProfile{{}}
	}
	// A name may be left out only where there is nothing to confuse.
	if len(c.Profiles) == 1 {
		setDefault(&c.Profiles[0].SchedulerName, DefaultSchedulerName)
	}
}

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// validate names every field that cannot be meant.
func validate(c *configv1.KubeSchedulerConfiguration) error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(*c.Parallelism > 0, "parallelism: Invalid value: %d: should be an integer value greater than zero", *c.Parallelism)
	checkPercentage := func(path string, p *int32) {
		check(p == nil || *p >= 0 && *p <= 100, "%s: Invalid value: %d: not in valid range [0-100]", path, value(p))
	}
	checkPercentage("percentageOfNodesToScore", c.PercentageOfNodesToScore)
	check(*c.PodInitialBackoffSeconds > 0, "podInitialBackoffSeconds: Invalid value: %d: must be greater than 0", *c.PodInitialBackoffSeconds)
	check(*c.PodMaxBackoffSeconds >= *c.PodInitialBackoffSeconds,
		"podMaxBackoffSeconds: Invalid value: %d: must be greater than or equal to PodInitialBackoffSeconds", *c.PodMaxBackoffSeconds)
	check(len(c.Extenders) == 0, "extenders: not supported")
	lock := c.LeaderElection.ResourceLock
	check(lock == "" || lock == "leases", "leaderElection.resourceLock: Invalid value: %q: resourceLock value must be \"leases\"", lock)
	if e := c.LeaderElection; (e.LeaderElect == nil || *e.LeaderElect) && e.LeaseDuration.Duration != 0 && e.RenewDeadline.Duration != 0 {
		check(e.LeaseDuration.Duration > e.RenewDeadline.Duration,
			"leaderElection.leaseDuration: Invalid value: %q: must be greater than `RenewDeadline`", e.RenewDeadline.Duration)
	}

	seen := map[string]bool{}
	for i := range c.Profiles {
		p := &c.Profiles[i]
		checkPercentage(fmt.Sprintf("profiles[%d].percentageOfNodesToScore", i), p.PercentageOfNodesToScore)
		if p.SchedulerName == nil || *p.SchedulerName == "" {
			check(false, "profiles[%d].schedulerName: Required value", i)
			continue
		}
		check(!seen[*p.SchedulerName], "profiles[%d].schedulerName: Duplicate value: %q", i, *p.SchedulerName)
		seen[*p.SchedulerName] = true
		named := map[string]bool{}
		for j, c := range p.PluginConfig {
			check(!named[c.Name], "profiles[%d].pluginConfig[%d]: Duplicate value: %q", i, j, c.Name)
			named[c.Name] = true
		}
		errs = append(errs, checkArgs(i, p.PluginConfig))
	}
	return errors.Join(errs...)
}

func value(p *int32) int32 {
	if p == nil {
		return 0
	}
	return *p
}

// checkArgs makes each plugin that has arguments once, only to see whether it
// takes them. What NodeResourcesFit says of values, it says when the profile is
// made, as upstream's does.
func checkArgs(profile int, configs []configv1.PluginConfig) error {
	var errs []error
	for i, c := range configs {
		for _, row := range plugins.Rows {
			if row.Name != c.Name {
				continue
			}
			_, err := row.New(c.Args.Raw, framework.Handle{})
			switch {
			case runtime.IsStrictDecodingError(err):
				errs = append(errs, fmt.Errorf("strict decoding error: decoding .profiles[%d].pluginConfig[%d]: strict decoding error: decoding args for plugin %s: %w", profile, i, c.Name, err))
			case err != nil && c.Name != "NodeResourcesFit":
				errs = append(errs, fmt.Errorf("profiles[%d].pluginConfig[%d].args.%w", profile, i, err))
			}
		}
	}
	return errors.Join(errs...)
}
