package framework

import (
	"errors"
	"fmt"
)

// Points names every extension point in the order of an attempt. A
// configuration file names them the same way, with a small first letter.
var Points = []string{
	"PreEnqueue", "QueueSort", "PreFilter", "Filter", "PostFilter", "PreScore", "Score",
	"Reserve", "Permit", "PreBind", "Bind", "PostBind",
}

// Implements says whether the plugin can be asked at a point.
func Implements(plugin Plugin, point string) bool {
	return (&Profile{}).Add(point, plugin, 1) == nil
}

// Add appends the plugin to a point; weight matters only to Score.
func (p *Profile) Add(point string, plugin Plugin, weight int64) error {
	if point == "QueueSort" && p.QueueSort != nil {
		return fmt.Errorf("only one queueSort plugin can be enabled, not %s and %s", p.QueueSort.Name(), plugin.Name())
	}
	if add := p.adders(weight)[point]; add == nil || !add(plugin) {
		return fmt.Errorf("plugin %q does not extend %sPlugin plugin", plugin.Name(), point)
	}
	if e, hopes := plugin.(EnqueuePlugin); hopes {
		if p.Hints == nil {
			p.Hints = map[string][]Hint{}
		}
		p.Hints[plugin.Name()] = e.Hints()
	}
	return nil
}

// adders says, per point, how a plugin that implements it is taken in.
func (p *Profile) adders(weight int64) map[string]func(Plugin) bool {
	return map[string]func(Plugin) bool{
		"PreEnqueue": appendTo(&p.PreEnqueue),
		"QueueSort":  func(plugin Plugin) (ok bool) { p.QueueSort, ok = plugin.(QueueSortPlugin); return ok },
		"PreFilter":  appendTo(&p.PreFilter),
		"Filter":     appendTo(&p.Filter),
		"PostFilter": appendTo(&p.PostFilter),
		"PreScore":   appendTo(&p.PreScore),
		"Score": func(plugin Plugin) bool {
			score, ok := plugin.(ScorePlugin)
			if ok {
				p.Score = append(p.Score, WeightedScore{score, weight})
			}
			return ok
		},
		"Reserve":  appendTo(&p.Reserve),
		"Permit":   appendTo(&p.Permit),
		"PreBind":  appendTo(&p.PreBind),
		"Bind":     appendTo(&p.Bind),
		"PostBind": appendTo(&p.PostBind),
	}
}

func appendTo[T any](list *[]T) func(Plugin) bool {
	return func(plugin Plugin) bool {
		t, ok := plugin.(T)
		if ok {
			*list = append(*list, t)
		}
		return ok
	}
}

// Validate finds the profiles that could not schedule anything.
func (p *Profile) Validate() error {
	var errs []error
	if p.QueueSort == nil {
		errs = append(errs, fmt.Errorf("only one queue sort plugin required for profile with scheduler name %q, but got 0", p.Name))
	}
	if len(p.Bind) == 0 {
		errs = append(errs, fmt.Errorf("at least one bind plugin is needed for profile with scheduler name %q", p.Name))
	}
	return errors.Join(errs...)
}
