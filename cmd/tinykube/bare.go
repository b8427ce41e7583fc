package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tinykube/internal/node"
)

// upBare is the part of up that comes before any Kubernetes: machines, a
// network between them, and a container runtime on each.
func (c *cluster) upBare(ctx context.Context, p *progress) error {
	for _, s := range []step{
		{"machine has what a cluster needs", func(context.Context) error { return c.preflight() }},
		{"programs and images unpacked", func(context.Context) error { return c.unpack() }},
		{"bridge between the nodes", func(context.Context) error {
			return errors.Join(c.save(), node.CreateBridge(c.path("net"), bridgeAddress))
		}},
		{plural(c.Nodes, "node") + " started: containerd, and nothing else", func(ctx context.Context) error {
			for _, s := range c.specs() {
				if err := node.Start(s); err != nil {
					return err
				}
			}
			return c.awaitPhase(ctx, "running")
		}},
	} {
		if err := p.run(ctx, s); err != nil {
			return err
		}
	}
	fmt.Printf("\nBare after %.1f s. Try:\n\n  tinykube node shell node-0\n  tinykube down\n", time.Since(p.started).Seconds())
	return nil
}
