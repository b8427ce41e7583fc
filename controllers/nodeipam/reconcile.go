package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// Config says which addresses to give out.
type Config struct {
	Ranges []Range // one, or one of each family
	// Reserved are never given: the Service ranges.
	Reserved []netip.Prefix
}

// Validate says what is wrong with a Config.
func (c Config) Validate() error {
	if len(c.Ranges) == 0 {
		return errors.New("--allocate-node-cidrs needs --cluster-cidr")
	}
	for _, r := range c.Ranges {
		if err := r.Validate(); err != nil {
			return err
		}
	}
	return nil
}

type controller struct {
	*harness.Scope
	cfg   Config
	nodes *harness.Store[*corev1.Node]
	// last is the number of the range given last, per Range. Losing it costs
	// only that a range is used again earlier. Owned by the one worker.
	last []int
}

// Register adds the controller to a manager.
func Register(m *harness.Manager, cfg Config) {
	s := m.Scope(harness.Identity{Name: "node-ipam-controller", Account: "node-controller", Source: "cidrAllocator"})
	c := &controller{Scope: s, cfg: cfg, nodes: harness.StoreOf(s, client.Nodes), last: make([]int, len(cfg.Ranges))}
	for i := range c.last {
		c.last[i] = -1
	}
	// Invariant: one worker. Two could give the same range to two nodes.
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.Watch(loop, c.nodes, func(old, new *corev1.Node) []string {
		if new != nil {
			return []string{new.Name}
		}
		// A range came free: those that got none may have it.
		var waiting []string
		for _, node := range c.nodes.List() {
			if len(node.Spec.PodCIDRs) == 0 {
				waiting = append(waiting, node.Name)
			}
		}
		return waiting
	})
}

func (c *controller) reconcile(ctx context.Context, name string) (time.Duration, error) {
	node, ok := c.nodes.Get("", name)
	if !ok || node.DeletionTimestamp != nil || node.Spec.PodCIDR != "" || len(node.Spec.PodCIDRs) > 0 {
		return 0, nil
	}
	taken := append([]netip.Prefix(nil), c.cfg.Reserved...)
	for _, other := range c.nodes.List() {
		taken = append(taken, podCIDRs(other)...)
	}
	given := make([]string, len(c.cfg.Ranges))
	for i, r := range c.cfg.Ranges {
		prefix, index, ok := r.next(taken, c.last[i])
		if !ok {
			c.Events.Event(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
			return 0, fmt.Errorf("no range is left in %s for node %s", r.Cluster, name)
		}
		given[i], c.last[i] = prefix.String(), index
	}
	if err := c.assign(ctx, node, given); err != nil {
		return 0, fmt.Errorf("give %v to node %s: %w", given, name, err)
	}
	c.Log.Info("Gave a pod range", "node", name, "podCIDRs", given)
	return 0, nil
}

// assign writes the ranges, if the node is still the one we looked at and
// nobody has given it others.
func (c *controller) assign(ctx context.Context, node *corev1.Node, cidrs []string) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": cidrs[0], "podCIDRs": cidrs},
	})
	if err != nil {
		return err
	}
	_, err = c.nodes.Patch(ctx, "", node.Name, types.StrategicMergePatchType, patch)
	return err
}
