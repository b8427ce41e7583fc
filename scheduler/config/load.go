package config

import (
	"errors"
	"fmt"
	"os"

	configv1 "k8s.io/kube-scheduler/config/v1"
	sigsjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
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
	if err == nil {
		err = errors.Join(strict...)
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
	check(*c.Parallelism > 0, "parallelism: %d must be greater than 0", *c.Parallelism)
	checkPercentage := func(path string, p *int32) {
		check(p == nil || *p >= 0 && *p <= 100, "%s: not in the range 0-100", path)
	}
	checkPercentage("percentageOfNodesToScore", c.PercentageOfNodesToScore)
	check(*c.PodInitialBackoffSeconds > 0, "podInitialBackoffSeconds: %d must be greater than 0", *c.PodInitialBackoffSeconds)
	check(*c.PodMaxBackoffSeconds >= *c.PodInitialBackoffSeconds,
		"podMaxBackoffSeconds: %d must not be less than podInitialBackoffSeconds", *c.PodMaxBackoffSeconds)
	check(len(c.Extenders) == 0, "extenders: not supported")
	lock := c.LeaderElection.ResourceLock
	check(lock == "" || lock == "leases", "leaderElection.resourceLock: %q is not supported, only leases", lock)

	seen := map[string]bool{}
	for i := range c.Profiles {
		p := &c.Profiles[i]
		checkPercentage(fmt.Sprintf("profiles[%d].percentageOfNodesToScore", i), p.PercentageOfNodesToScore)
		if p.SchedulerName == nil || *p.SchedulerName == "" {
			check(false, "profiles[%d].schedulerName: required", i)
			continue
		}
		check(!seen[*p.SchedulerName], "profiles[%d].schedulerName: duplicate value %q", i, *p.SchedulerName)
		seen[*p.SchedulerName] = true
	}
	return errors.Join(errs...)
}
