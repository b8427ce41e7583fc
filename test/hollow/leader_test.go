package hollow

import (
	"context"
	"fmt"
	"testing"

	"tinykube/client"
	"tinykube/test/clusters"
)

// TestLeadersAreReplaced: of two schedulers and two controller managers one
// each works; when it is killed the other takes over, and when that one is
// stopped the lease is given back at once.
func TestLeadersAreReplaced(t *testing.T) {
	c := clusters.New(t)
	c.Hollow(2)
	quick := []string{"--leader-elect=true", "--leader-elect-lease-duration=3s", "--leader-elect-renew-deadline=2s", "--leader-elect-retry-period=500ms"}
	start := map[string]func() *clusters.Process{
		"kube-controller-manager": func() *clusters.Process { return c.ControllerManager("", quick...) },
		"kube-scheduler":          func() *clusters.Process { return c.Scheduler(quick...) },
	}
	first, second := map[string]*clusters.Process{}, map[string]*clusters.Process{}
	holders := map[string]string{}
	for name, run := range start {
		first[name] = run()
		holders[name] = newLeader(t, c, name, "")
		second[name] = run()
	}
	c.Ready(2)
	works := func(deployment string) {
		c.MustKubectl("create", "deployment", deployment, "--image=x", "--replicas=2")
		c.MustKubectl("rollout", "status", "deployment", deployment, "--timeout=110s")
	}
	works("before")
	for name := range start {
		if holder := newLeader(t, c, name, ""); holder != holders[name] {
			t.Errorf("%s: %s leads, %s came first and lives", name, holder, holders[name])
		}
		first[name].Kill()
		t.Logf("%s: %s was killed, %s leads", name, holders[name], newLeader(t, c, name, holders[name]))
	}
	works("after")
	for name := range start {
		second[name].Stop()
		lease, err := client.For(c.Client, client.Leases).Get(t.Context(), "kube-system", name)
		if err != nil || *lease.Spec.HolderIdentity != "" || *lease.Spec.LeaseTransitions != 1 {
			t.Errorf("%s: it did not give the lease back: %+v %v", name, lease.Spec, err)
		}
	}
}

// newLeader waits for a holder other than old.
func newLeader(t *testing.T, c *clusters.Cluster, lease, old string) (holder string) {
	t.Helper()
	clusters.Eventually(t, "a leader of "+lease, func(ctx context.Context) (bool, error) {
		l, err := client.For(c.Client, client.Leases).Get(ctx, "kube-system", lease)
		if err != nil || l.Spec.HolderIdentity == nil {
			return false, err
		}
		holder = *l.Spec.HolderIdentity
		return holder != "" && holder != old, fmt.Errorf("it is %q", holder)
	})
	return holder
}
