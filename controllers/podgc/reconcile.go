package podgc

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	// Upstream: kubernetes/kubernetes pkg/controller/podgc gcCheckPeriod, quarantineTime
	period     = 20 * time.Second
	quarantine = 40 * time.Second
)

type controller struct {
	*harness.Scope
	threshold int
	pods      *harness.Store[*corev1.Pod]
	nodes     *harness.Store[*corev1.Node]
	// missing notes since when a node that has pods does not exist. Owned by
	// the one worker.
	missing map[string]time.Time
}

// Register adds the controller to a manager; threshold is upstream's
// --terminated-pod-gc-threshold.
func Register(m *harness.Manager, threshold int) {
	s := m.Scope(harness.Identity{Name: "pod-garbage-collector-controller", Account: "pod-garbage-collector", Source: "pod-garbage-collector-controller"})
	c := &controller{
		Scope: s, threshold: threshold,
		pods: harness.StoreOf(s, client.Pods), nodes: harness.StoreOf(s, client.Nodes),
		missing: map[string]time.Time{},
	}
	// There is one key, all pods, looked at again and again.
	harness.NewLoop(s, 1, c.reconcile).Add(struct{}{})
}

func (c *controller) reconcile(ctx context.Context, _ struct{}) (time.Duration, error) {
	nodes := map[string]*corev1.Node{}
	for _, node := range c.nodes.List() {
		nodes[node.Name] = node
	}
	pods := c.pods.List()
	gone, err := c.confirmGone(ctx, c.quarantined(pods, nodes, time.Now()))
	if err != nil {
		return 0, err
	}
	remove := makePlan(pods, nodes, gone, c.threshold)
	err = harness.Parallel(len(remove), func(i int) error { return c.remove(ctx, remove[i]) })
	return period, err
}

// quarantined returns the nodes that have been missing for long enough.
func (c *controller) quarantined(pods []*corev1.Pod, nodes map[string]*corev1.Node, now time.Time) []string {
	wanted := map[string]bool{}
	for _, pod := range pods {
		if name := pod.Spec.NodeName; name != "" && nodes[name] == nil {
			wanted[name] = true
		}
	}
	for name := range c.missing {
		if !wanted[name] {
			delete(c.missing, name)
		}
	}
	var due []string
	for name := range wanted {
		since, known := c.missing[name]
		if !known {
			c.missing[name] = now
		} else if now.Sub(since) >= quarantine {
			due = append(due, name)
		}
	}
	return due
}

// confirmGone asks the server, past the cache: what follows cannot be undone.
func (c *controller) confirmGone(ctx context.Context, names []string) (map[string]bool, error) {
	gone := map[string]bool{}
	for _, name := range names {
		_, err := c.nodes.Live(ctx, "", name)
		if err != nil && !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("is node %s gone: %w", name, err)
		}
		gone[name] = err != nil
	}
	return gone, nil
}

func (c *controller) remove(ctx context.Context, r removal) error {
	pod := r.pod
	if !harness.IsFinished(pod) {
		var target corev1.PodCondition
		if r.message != "" {
			target = corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: r.message}
		}
		failed, err := harness.PatchPodStatus(ctx, c.pods, pod, target, corev1.PodFailed)
		if err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("declare pod %s failed: %w", client.Key(pod), err)
		}
		pod = failed
	}
	now := int64(0)
	if err := c.pods.Delete(ctx, pod, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return fmt.Errorf("remove pod %s: %w", client.Key(pod), err)
	}
	c.Log.Info("Removed pod", "key", client.Key(pod), "node", pod.Spec.NodeName, "reason", r.message)
	return nil
}
