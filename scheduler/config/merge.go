package config

import (
	"errors"
	"fmt"
	"slices"

	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/scheduler/framework"
	"tinykube/scheduler/plugins"
)

// choice is one plugin in a list of enabled ones.
type choice struct {
	name   string
	weight int64
}

// Profiles makes every profile of the configuration.
func Profiles(c *configv1.KubeSchedulerConfiguration, handle framework.Handle) ([]*framework.Profile, error) {
	var profiles []*framework.Profile
	var errs []error
	for i := range c.Profiles {
		p, err := newProfile(c, &c.Profiles[i], handle)
		if err != nil {
			errs = append(errs, fmt.Errorf("initializing profiles: creating profile for scheduler name %s: %w", *c.Profiles[i].SchedulerName, err))
			continue
		}
		profiles = append(profiles, p)
		// There is one queue, so there is one order.
		if p.QueueSort.Name() != profiles[0].QueueSort.Name() {
			errs = append(errs, fmt.Errorf("profiles[%d]: queueSort %s differs from the first profile's", i, p.QueueSort.Name()))
		}
	}
	return profiles, errors.Join(errs...)
}

func newProfile(c *configv1.KubeSchedulerConfiguration, from *configv1.KubeSchedulerProfile, handle framework.Handle) (*framework.Profile, error) {
	sets := from.Plugins
	if sets == nil {
		sets = &configv1.Plugins{}
	}
	if err := checkNames(sets, from.PluginConfig); err != nil {
		return nil, err
	}
	instances, err := instantiate(from.PluginConfig, handle)
	if err != nil {
		return nil, err
	}
	p := &framework.Profile{Name: *from.SchedulerName, PercentageOfNodesToScore: *c.PercentageOfNodesToScore}
	if from.PercentageOfNodesToScore != nil {
		p.PercentageOfNodesToScore = *from.PercentageOfNodesToScore
	}
	multiPoint := mergeMultiPoint(sets.MultiPoint)
	for _, point := range framework.Points {
		fits := func(name string) bool { return framework.Implements(instances[name], point) }
		for _, ch := range mergePoint(multiPoint, setOf(sets, point), fits) {
			if err := p.Add(point, instances[ch.name], ch.weight); err != nil {
				return nil, err
			}
		}
	}
	return p, p.Validate()
}

// mergeMultiPoint lays a profile's multiPoint section over the defaults: what
// is enabled there again takes its default's place with its own weight.
//
// Upstream: kubernetes pkg/scheduler/apis/config/v1 mergePluginSet
func mergeMultiPoint(custom configv1.PluginSet) []choice {
	var list []choice
	replaced := map[string]bool{}
	for _, row := range plugins.Rows {
		if disables(custom, row.Name) {
			continue
		}
		ch := choice{row.Name, row.Weight}
		if i := indexOf(custom.Enabled, row.Name); i >= 0 {
			ch.weight = weightOf(custom.Enabled[i])
			replaced[row.Name] = true
		}
		list = append(list, ch)
	}
	for _, e := range custom.Enabled {
		if !replaced[e.Name] {
			list = append(list, choice{e.Name, weightOf(e)})
		}
	}
	return list
}

// mergePoint is what runs at one point: first the multiPoint plugins which the
// point's own section names again (that is how a file changes their order),
// then the rest of multiPoint, then what only the section names.
//
// Upstream: kubernetes pkg/scheduler/framework/runtime expandMultiPointPlugins
func mergePoint(multiPoint []choice, own configv1.PluginSet, fits func(name string) bool) []choice {
	fromMultiPoint := func(name string) bool {
		return slices.ContainsFunc(multiPoint, func(ch choice) bool { return ch.name == name })
	}
	var list, last []choice
	for _, e := range own.Enabled {
		ch := choice{e.Name, weightOf(e)}
		if fromMultiPoint(e.Name) {
			list = append(list, ch)
		} else {
			last = append(last, ch)
		}
	}
	for _, ch := range multiPoint {
		if fits(ch.name) && !disables(own, ch.name) && !enables(own, ch.name) {
			list = append(list, ch)
		}
	}
	return append(list, last...)
}

// instantiate makes each plugin once per profile, with its arguments.
func instantiate(configs []configv1.PluginConfig, handle framework.Handle) (map[string]framework.Plugin, error) {
	args := map[string][]byte{}
	for _, c := range configs {
		args[c.Name] = c.Args.Raw
	}
	instances := map[string]framework.Plugin{}
	for _, row := range plugins.Rows {
		plugin, err := row.New(args[row.Name], handle)
		if err != nil {
			return nil, fmt.Errorf("initializing plugin %q: %w", row.Name, err)
		}
		instances[row.Name] = plugin
	}
	return instances, nil
}

// checkNames refuses plugins that do not exist, and says so differently for
// those that exist upstream only.
func checkNames(sets *configv1.Plugins, configs []configv1.PluginConfig) error {
	built := map[string]bool{"*": true}
	for _, row := range plugins.Rows {
		built[row.Name] = true
	}
	var errs []error
	for _, point := range append([]string{"MultiPoint"}, framework.Points...) {
		set := setOf(sets, point)
		for _, e := range set.Enabled {
			switch {
			case plugins.NotBuilt[e.Name]:
				errs = append(errs, fmt.Errorf("%sPlugin %q is not built into this scheduler", point, e.Name))
			case !built[e.Name] || e.Name == "*":
				errs = append(errs, fmt.Errorf("%sPlugin %q does not exist", point, e.Name))
			}
		}
		for _, d := range set.Disabled {
			if !built[d.Name] && !plugins.NotBuilt[d.Name] {
				errs = append(errs, fmt.Errorf("%sPlugin %q, which is disabled, does not exist", point, d.Name))
			}
		}
	}
	for i, c := range configs {
		// Arguments for a plugin that we do not run change nothing, unless
		// nobody has such a plugin: then a name is misspelt.
		if !built[c.Name] && !plugins.NotBuilt[c.Name] {
			errs = append(errs, fmt.Errorf("pluginConfig[%d]: plugin %q does not exist", i, c.Name))
		}
	}
	return errors.Join(errs...)
}

// setOf picks a point's section of the file.
func setOf(p *configv1.Plugins, point string) configv1.PluginSet {
	return map[string]configv1.PluginSet{
		"MultiPoint": p.MultiPoint,
		"PreEnqueue": p.PreEnqueue, "QueueSort": p.QueueSort,
		"PreFilter": p.PreFilter, "Filter": p.Filter, "PostFilter": p.PostFilter,
		"PreScore": p.PreScore, "Score": p.Score,
		"Reserve": p.Reserve, "Permit": p.Permit,
		"PreBind": p.PreBind, "Bind": p.Bind, "PostBind": p.PostBind,
	}[point]
}

func indexOf(list []configv1.Plugin, name string) int {
	return slices.IndexFunc(list, func(p configv1.Plugin) bool { return p.Name == name })
}

func enables(set configv1.PluginSet, name string) bool { return indexOf(set.Enabled, name) >= 0 }

func disables(set configv1.PluginSet, name string) bool {
	return indexOf(set.Disabled, name) >= 0 || indexOf(set.Disabled, "*") >= 0
}

// weightOf: a plugin that a file names without a weight weighs 1, even if its
// default is more.
func weightOf(p configv1.Plugin) int64 {
	if p.Weight == nil || *p.Weight == 0 {
		return 1
	}
	return int64(*p.Weight)
}
