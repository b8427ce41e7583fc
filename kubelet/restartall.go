package kubelet

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// A container's restartPolicyRules may say that its end is the end of all the
// others too, and that the pod starts over, init containers first, in the
// sandbox that it has. What a container has been through is then gone from the
// runtime; only its logs tell how many lives it had.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/container ShouldAllContainersRestart,
// and kuberuntime getContainersToReset.

// reasonRestartingAll is told of containers that went with another.
const reasonRestartingAll = "RestartingAllContainers"

// asksForAll says whether a life ended so that all containers must restart.
func asksForAll(pod *corev1.Pod, life *observedContainer) bool {
	c := findContainer(pod, life.name())
	return c != nil && life.exited() && matchingRule(c, life.ExitCode) == corev1.ContainerRestartRuleActionRestartAllContainers
}

// mayRestartAll says whether any container has such a rule.
func mayRestartAll(pod *corev1.Pod) bool {
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r corev1.ContainerRestartRule) bool {
			return r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		})
	})
}

// restartsAll says whether the pod is to start over.
func restartsAll(pod *corev1.Pod, seen *observedPod) bool {
	return mayRestartAll(pod) && slices.ContainsFunc(seen.containers, func(life *observedContainer) bool {
		return seen.latest(life.name()) == life && asksForAll(pod, life)
	})
}

// restartAll kills and removes every life of every container. Those that asked
// for it go last: a kubelet that comes after a kill -9 finds them, and goes on.
func (w *worker) restartAll(ctx context.Context, pod *corev1.Pod, seen *observedPod) error {
	rank := func(life *observedContainer) (n int) {
		if asksForAll(pod, life) {
			n = 2
		}
		if isInit(pod, life.name()) {
			n++
		}
		return n
	}
	lives := slices.DeleteFunc(slices.Clone(seen.containers), func(life *observedContainer) bool { return isEphemeral(pod, life.name()) })
	slices.SortStableFunc(lives, func(a, b *observedContainer) int { return cmp.Compare(rank(a), rank(b)) })
	for _, life := range lives {
		if c := findContainer(pod, life.name()); c != nil && life.running() {
			w.k.containerEvents(pod, c)(corev1.EventTypeNormal, "Killing", "killing")
			if err := w.k.runtime.stopContainer(ctx, life.Id, 0); err != nil {
				return err
			}
		}
		if err := w.k.runtime.removeContainer(ctx, life.Id); err != nil {
			return err
		}
	}
	return nil
}

// restartingAll is the condition of a pod that may start over. It names no
// generation, as upstream's does not.
func restartingAll(in statusInput, status corev1.PodStatus) corev1.PodCondition {
	out := corev1.PodCondition{Type: corev1.AllContainersRestarting, Status: corev1.ConditionFalse}
	switch {
	case isTerminal(status.Phase):
		_, out.Reason, _ = containersReady(in.pod, status)
	case in.over && slices.ContainsFunc(in.seen.containers, func(c *observedContainer) bool { return !isEphemeral(in.pod, c.name()) }):
		out.Status, out.Reason, out.Message = corev1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	return out
}
