package simulate

import (
	"context"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/scheduler"
	"tinykube/scheduler/framework"
)

// Fetch reads a running cluster into a world. It changes nothing there.
func Fetch(ctx context.Context, api *client.Client) (*World, error) {
	w := &World{}
	for _, fetch := range []func() error{
		func() error { return list(ctx, api, client.Nodes, w) },
		func() error { return list(ctx, api, client.Pods, w) },
		func() error { return list(ctx, api, client.Namespaces, w) },
		func() error { return list(ctx, api, client.Services, w) },
		func() error { return list(ctx, api, client.ReplicationControllers, w) },
		func() error { return list(ctx, api, client.ReplicaSets, w) },
		func() error { return list(ctx, api, client.StatefulSets, w) },
		func() error { return list(ctx, api, client.PodDisruptionBudgets, w) },
		func() error { return list(ctx, api, client.PersistentVolumeClaims, w) },
		func() error { return list(ctx, api, client.PersistentVolumes, w) },
		func() error { return list(ctx, api, client.StorageClasses, w) },
		func() error { return list(ctx, api, client.CSINodes, w) },
		func() error { return list(ctx, api, client.CSIDrivers, w) },
		func() error { return list(ctx, api, client.CSIStorageCapacities, w) },
		func() error { return list(ctx, api, client.VolumeAttachments, w) },
	} {
		if err := fetch(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func list[T client.Object](ctx context.Context, api *client.Client, kind client.Kind[T], w *World) error {
	items, err := client.For(api, kind).List(ctx, "", metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list %s: %w", kind.Plural, err)
	}
	for _, item := range items.Items {
		if err := w.Add(item); err != nil {
			return err
		}
	}
	return nil
}

// ExplainPod prints what becomes of one pod of the world and why. A pod that
// has a node is decided anew, as if it were not there yet.
func ExplainPod(out io.Writer, profiles []*framework.Profile, world *World, namespace, name string) error {
	i := slices.IndexFunc(world.Pods, func(p *corev1.Pod) bool { return p.Namespace == namespace && p.Name == name })
	if i < 0 {
		return fmt.Errorf("pods %q not found in namespace %q", name, namespace)
	}
	pod := world.Pods[i].DeepCopy()
	profile := profileFor(profiles, pod)
	if profile == nil {
		return fmt.Errorf("pod %s/%s wants the scheduler %q, which is not among the profiles: give its configuration with --config", namespace, name, pod.Spec.SchedulerName)
	}
	cache := scheduler.NewCache()
	for _, node := range world.Nodes {
		cache.SetNode(node)
	}
	for _, other := range world.Pods {
		switch {
		case other.UID == pod.UID || finished(other):
		case other.Spec.NodeName != "":
			cache.AddPod(other)
		default:
			cache.Waits(nil, other)
		}
	}
	runsOn := pod.Spec.NodeName
	pod.Spec.NodeName = ""
	e, err := scheduler.Explain(profile, cache.Snapshot(), framework.NewPodInfo(pod))
	if err != nil {
		return err
	}
	printExplanation(out, e)
	switch {
	case runsOn == "":
	case slices.Contains(e.Best, runsOn):
		fmt.Fprintf(out, "It is on %s, which is still the best choice.\n", runsOn)
	default:
		fmt.Fprintf(out, "It is on %s: the cluster was another when that was decided. The scheduler never moves a pod.\n", runsOn)
	}
	return nil
}

func finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}
