package plugins

import (
	"context"
	"errors"

	"tinykube/scheduler/framework"
)

// DefaultBinder makes a decision true by POSTing a Binding. The API server
// sets spec.nodeName in one compare-and-swap, so that of two schedulers which
// both believe in their choice exactly one is right.
type DefaultBinder struct{ handle framework.Handle }

func newDefaultBinder(raw []byte, handle framework.Handle) (framework.Plugin, error) {
	if len(raw) > 0 {
		return nil, errors.New("plugin DefaultBinder takes no arguments")
	}
	return DefaultBinder{handle}, nil
}

// Name is the plugin's name in configuration files.
func (DefaultBinder) Name() string { return "DefaultBinder" }

// Bind sends the Binding.
func (p DefaultBinder) Bind(ctx context.Context, c *framework.Cycle, node string) *framework.Status {
	if p.handle.Bind == nil {
		return framework.NewStatus(framework.Error, "there is no API server to bind with")
	}
	return framework.AsStatus(p.handle.Bind(ctx, c.Pod.Pod, node))
}
