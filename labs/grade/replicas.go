package grade

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// replicas judges the plan of lab 08: what a ReplicaSet makes and deletes, and
// what it does not.
var replicas = suite{
	programs: []string{"kube-controller-manager"},
	open:     withManager("--controllers=replicaset,replicationcontroller"),
	checks: []Check{
		{
			Name: filled, Points: 2, run: played("fill", fill),
			Hint: "compare how many pods there are with how many are wanted; the difference decides",
		},
		{
			Name: "what is there counts: of three, one gone is one made", Points: 1, Needs: []string{filled}, run: played("refill", refill),
			Hint: "create says how many are missing, not how many are wanted",
		},
		{
			Name: emptied, Points: 1, Needs: []string{filled}, run: played("shrink", shrink),
			Hint: "more than wanted: delete the difference",
		},
		{
			Name: "first goes what loses the least: unplaced, then pending, then not ready", Points: 2, Needs: []string{emptied}, run: played("least", leastLost),
			Hint: "rank puts those first that should go first",
		},
		{
			Name: "of two that do the same work on one node one goes before a third that is alone", Points: 2, Needs: []string{emptied}, run: played("spread", spread),
			Hint: "rank wants to know perNode",
		},
		{
			Name: "what has ended, or is on its way out, is as good as gone", Points: 2, Needs: []string{filled}, run: played("ended", ended),
			Hint: "count the active pods only: harness.IsActive",
		},
		{
			Name: "a ReplicaSet that is being deleted makes nothing more", Points: 1, Needs: []string{filled}, run: played("dying", dying),
			Hint: "DeletionTimestamp: its pods are somebody else's now",
		},
		{
			Name: "who wants very many gets 500 at once, then the rest", Points: 1, Needs: []string{filled}, run: played("burst", burst),
			Hint: "burst bounds what one plan makes or deletes",
		},
	},
}

const (
	filled  = "as many pods are made as are wanted, and then no more"
	emptied = "as many pods are deleted as are too many"
)

// grown is scaled, and the pods that there are then.
func (p *play) grown(ctx context.Context, replicas int32, made int) ([]*corev1.Pod, error) {
	if err := p.scaled(ctx, replicas, made, 0); err != nil {
		return nil, err
	}
	return p.alive(ctx)
}

func fill(ctx context.Context, p *play) error {
	return p.scaled(ctx, 3, 3, 0)
}

func refill(ctx context.Context, p *play) error {
	pods, err := p.grown(ctx, 3, 3)
	if err != nil {
		return err
	}
	if err := p.pods.Delete(ctx, p.name, pods[0].Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	return p.scaled(ctx, 3, 4, 0)
}

func shrink(ctx context.Context, p *play) error {
	if err := p.scaled(ctx, 5, 5, 0); err != nil {
		return err
	}
	return p.scaled(ctx, 2, 5, 3)
}

// leastLost makes four pods that are in four states, and takes them away one
// by one.
func leastLost(ctx context.Context, p *play) error {
	pods, err := p.grown(ctx, 4, 4)
	if err != nil {
		return err
	}
	order := []string{pods[2].Name, pods[0].Name, pods[3].Name, pods[1].Name} // of how they should go
	for i, state := range []struct {
		phase corev1.PodPhase
		ready corev1.ConditionStatus
	}{{}, {corev1.PodPending, corev1.ConditionFalse}, {corev1.PodRunning, corev1.ConditionFalse}, {corev1.PodRunning, corev1.ConditionTrue}} {
		pod := pods[slices.IndexFunc(pods, func(pod *corev1.Pod) bool { return pod.Name == order[i] })]
		if i == 0 {
			continue // nobody has placed it
		}
		if err := p.is(ctx, pod, "n1", state.phase, state.ready); err != nil {
			return err
		}
	}
	what := []string{"not placed", "pending", "not ready"}
	for i := range 3 {
		if err := p.scaled(ctx, int32(3-i), 4, i+1); err != nil {
			return err
		}
		left, err := p.alive(ctx)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(left, func(pod *corev1.Pod) bool { return pod.Name == order[i] }) {
			return fmt.Errorf("scaled to %d, and the pod that is %s is still there", 3-i, what[i])
		}
	}
	return nil
}

// spread has eleven ready pods on four nodes, eight of them on one.
func spread(ctx context.Context, p *play) error {
	pods, err := p.grown(ctx, 11, 11)
	if err != nil {
		return err
	}
	for i, node := range []string{"n1", "n1", "n2", "n1", "n1", "n3", "n1", "n1", "n4", "n1", "n1"} {
		if err := p.is(ctx, pods[i], node, corev1.PodRunning, corev1.ConditionTrue); err != nil {
			return err
		}
	}
	if err := p.scaled(ctx, 4, 11, 7); err != nil {
		return err
	}
	left, err := p.alive(ctx)
	if err != nil {
		return err
	}
	on := map[string]int{}
	for _, pod := range left {
		on[pod.Spec.NodeName]++
	}
	if len(on) != 4 {
		return fmt.Errorf("of 8 on n1 and one each on n2, n3 and n4 these are left: %v; want one on each", on)
	}
	return nil
}

// ended has one pod that failed and one that takes its time to go: nobody on
// its node answers, since there is no node.
func ended(ctx context.Context, p *play) error {
	pods, err := p.grown(ctx, 3, 3)
	if err != nil {
		return err
	}
	if err := p.is(ctx, pods[0], "n1", corev1.PodFailed, corev1.ConditionFalse); err != nil {
		return err
	}
	if err := p.scaled(ctx, 3, 4, 0); err != nil {
		return fmt.Errorf("one failed: %w", err)
	}
	if err := p.is(ctx, pods[1], "n1", corev1.PodRunning, corev1.ConditionTrue); err != nil {
		return err
	}
	if err := p.pods.Delete(ctx, p.name, pods[1].Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := p.scaled(ctx, 3, 5, 0); err != nil {
		return fmt.Errorf("one is terminating: %w", err)
	}
	return nil
}

// dying deletes the ReplicaSet in the foreground: it stays, as nobody collects
// garbage here.
func dying(ctx context.Context, p *play) error {
	if err := p.scaled(ctx, 2, 2, 0); err != nil {
		return err
	}
	foreground := metav1.DeletePropagationForeground
	if err := p.sets.Delete(ctx, p.name, p.name, metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		return err
	}
	if err := p.looked(ctx, 2); err != nil {
		return err
	}
	pods, err := p.alive(ctx)
	if err != nil {
		return err
	}
	if err := p.pods.Delete(ctx, p.name, pods[0].Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := p.heard(ctx); err != nil {
		return err
	}
	if err := p.looked(ctx, 1); err != nil {
		return err
	}
	return p.counts(2, 0)
}

// burst waits until all are counted. The status is written after each plan that
// was carried out, so what was made before it was made at once. What it counts
// is what the manager has heard of by then: any number.
func burst(ctx context.Context, p *play) error {
	if err := p.scaled(ctx, 0, 0, 0); err != nil {
		return err
	}
	set, err := p.sets.Get(ctx, p.name, p.name)
	if err != nil {
		return err
	}
	w, err := p.sets.Watch(ctx, p.name, metav1.ListOptions{ResourceVersion: set.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	if _, err := p.sets.Patch(ctx, p.name, p.name, types.MergePatchType, []byte(`{"spec":{"replicas":505}}`)); err != nil {
		return err
	}
	counted := int32(0)
	for counted < 505 {
		select {
		case event, open := <-w.Events:
			if !open || event.Status != nil {
				return fmt.Errorf("the watch ended: %v", w.Err())
			}
			counted = event.Object.Status.Replicas
		case <-p.manager.ended:
			return p.manager.until(ctx, func() error { return fmt.Errorf("counted %d", counted) })
		case <-ctx.Done():
			return fmt.Errorf("the ReplicaSet that wants 505 pods counted %d", counted)
		}
	}
	made := 0
	for _, write := range p.wire.wrote("") {
		if write == p.made() {
			made++
		} else if made > 0 && strings.HasSuffix(write, " "+p.name+"/replicasets/"+p.name+"/status") {
			break
		}
	}
	if made != 500 {
		return fmt.Errorf("the ReplicaSet that wants 505 pods made %d of them at once; it should have been 500", made)
	}
	return nil
}
