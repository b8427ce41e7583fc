package kubelet

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
)

// minimumStop is what a container gets after its preStop hook used up all the
// grace there was.
const minimumStop = 2

// terminate ends the pod: containers, sandbox, then all that was made for it.
// It may be cut short by a shorter grace period and is then called again.
func (w *worker) terminate(ctx context.Context, pod *corev1.Pod, seen *observedPod, ending *endCase) error {
	k := w.k
	k.probes.drain(seen) // no more restarts; readiness goes on being told
	w.publish(pod, seen, false)
	if err := k.stopPod(ctx, pod, seen, ending.graceSeconds(pod)); err != nil {
		return err
	}
	seen, err := k.runtime.observe(ctx, w.uid)
	if err != nil {
		return err
	}
	w.note(seen)
	if seen.alive() {
		return fmt.Errorf("the runtime still shows a running container or sandbox after stopping them")
	}
	k.probes.forget(w.uid)
	// The last words are read from the pod's directory: status first.
	w.publish(pod, seen, true)
	if err := k.volumes.tearDown(ctx, w.uid, false); err != nil {
		return err
	}
	if err := k.cgroups.removePod(pod); err != nil {
		return err
	}
	w.stopped = true
	return nil
}

// vanish removes the last traces of a pod that nobody wants any more.
func (w *worker) vanish(ctx context.Context, seen *observedPod) error {
	k := w.k
	for _, c := range seen.containers {
		if err := k.runtime.removeContainer(ctx, c.Id); err != nil {
			return err
		}
	}
	for _, s := range seen.sandboxes {
		if err := k.runtime.stopSandbox(ctx, s.Id); err != nil { // releases its network, whatever its state
			return err
		}
		if err := k.runtime.removeSandbox(ctx, s.Id); err != nil {
			return err
		}
	}
	if err := k.volumes.tearDown(ctx, w.uid, true); err != nil {
		return err
	}
	if err := os.RemoveAll(k.logDir(w.pod)); err != nil {
		return err
	}
	k.removeDangling(w.pod.Name + "_" + w.pod.Namespace + "_*.log")
	return nil
}

// stopPod stops everything of the pod that runs: first the containers, all at
// once, then sidecars in reverse order, each once those it serves are gone,
// then the sandboxes.
func (k *Kubelet) stopPod(ctx context.Context, pod *corev1.Pod, seen *observedPod, grace int64) error {
	start := time.Now()
	left := func() int64 { return max(grace-int64(time.Since(start)/time.Second), minimumStop) }
	var sidecars []*observedContainer
	var group errgroup.Group
	for _, c := range seen.running() {
		if spec := findContainer(pod, c.name()); spec != nil && isInit(pod, c.name()) && isSidecar(spec) {
			sidecars = append(sidecars, c)
			continue
		}
		group.Go(func() error { return k.stopOne(ctx, pod, c, "Stopping container "+c.name(), grace) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(sidecars, func(a, b *observedContainer) int {
		return initIndex(pod, b.name()) - initIndex(pod, a.name())
	})
	for _, c := range sidecars {
		if err := k.stopOne(ctx, pod, c, "Stopping container "+c.name(), left()); err != nil {
			return err
		}
	}
	for _, s := range seen.sandboxes {
		if err := k.runtime.stopSandbox(ctx, s.Id); err != nil {
			return fmt.Errorf("stop sandbox: %w", err)
		}
	}
	return nil
}

// stopOne stops one container: its preStop hook, then its signal, then SIGKILL.
func (k *Kubelet) stopOne(ctx context.Context, pod *corev1.Pod, c *observedContainer, text string, grace int64) error {
	spec := findContainer(pod, c.name())
	if spec == nil {
		spec = &corev1.Container{Name: c.name()}
	}
	k.containerEvents(pod, spec)(corev1.EventTypeNormal, "Killing", "%s", text)
	if spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
		start := time.Now()
		hookCtx, cancel := context.WithTimeout(ctx, time.Duration(grace)*time.Second)
		if err := k.runHook(hookCtx, pod, spec, c.Id, spec.Lifecycle.PreStop); err != nil && ctx.Err() == nil {
			k.containerEvents(pod, spec)(corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
			k.log.Warn("preStop hook failed", "key", pod.Namespace+"/"+pod.Name, "err", err)
		}
		cancel()
		grace = max(grace-int64(time.Since(start)/time.Second), minimumStop)
	}
	if err := k.runtime.stopContainer(ctx, c.Id, grace); err != nil {
		return fmt.Errorf("stop container %s: %w", c.name(), err)
	}
	return nil
}

// probeGrace is the grace of a container that goes while its pod stays: the
// probe that gave it up may have its own.
func probeGrace(pod *corev1.Pod, order stopOrder) int64 {
	if c := findContainer(pod, order.container.name()); c != nil {
		p := map[string]*corev1.Probe{"liveness": c.LivenessProbe, "startup": c.StartupProbe}[order.probe]
		if p != nil && p.TerminationGracePeriodSeconds != nil {
			return *p.TerminationGracePeriodSeconds
		}
	}
	return (*endCase)(nil).graceSeconds(pod)
}

func isInit(pod *corev1.Pod, name string) bool { return initIndex(pod, name) >= 0 }

func initIndex(pod *corev1.Pod, name string) int {
	return slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name })
}

// orphan rebuilds, from labels, enough of a pod that nobody remembers to end it
// properly.
func orphan(seen *observedPod) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.APIVersion, pod.Kind = "v1", "Pod"
	pod.Name, pod.Namespace, pod.UID = seen.name, seen.namespace, seen.uid
	names := map[string]bool{}
	for _, c := range seen.containers {
		if names[c.name()] {
			continue
		}
		names[c.name()] = true
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c.name(), Image: c.GetImage().GetImage()})
		if grace, err := strconv.ParseInt(c.Annotations[annotationGracePeriod], 10, 64); err == nil {
			pod.Spec.TerminationGracePeriodSeconds = &grace
		}
	}
	pod.Spec.HostNetwork = usesHostNetwork(seen.sandbox())
	return pod
}
