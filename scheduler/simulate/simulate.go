package simulate

import (
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
	"tinykube/scheduler"
	"tinykube/scheduler/framework"
)

// Run decides every pod of the world that has no node yet and prints how, or if
// asked for bars only what came of it.
func Run(out io.Writer, profiles []*framework.Profile, world *World, bars bool) error {
	cache := scheduler.NewCache()
	for _, node := range world.Nodes {
		cache.SetNode(node)
	}
	var waiting []*framework.QueuedPod
	for _, pod := range world.Pods {
		switch {
		case finished(pod):
		case pod.Spec.NodeName != "":
			cache.AddPod(pod)
		default:
			cache.Waits(nil, pod)
			waiting = append(waiting, &framework.QueuedPod{PodInfo: framework.NewPodInfo(pod)})
		}
	}
	// Equal priorities keep the order of the files: nobody has waited longer.
	slices.SortStableFunc(waiting, func(a, b *framework.QueuedPod) int {
		if profiles[0].QueueSort.Less(a, b) {
			return -1
		} else if profiles[0].QueueSort.Less(b, a) {
			return 1
		}
		return 0
	})
	var summary [][]string
	for _, pod := range waiting {
		profile := profileFor(profiles, pod.Pod)
		if profile == nil {
			summary = append(summary, []string{client.Key(pod), fmt.Sprintf("(no profile named %q)", pod.Spec.SchedulerName)})
			continue
		}
		e, err := scheduler.Explain(profile, cache.Snapshot(), pod.PodInfo)
		if err != nil {
			return err
		}
		if !bars {
			printExplanation(out, e)
		}
		choice := "(pending)"
		if len(e.Best) > 0 {
			choice = e.Best[0]
			cache.Assume(pod.PodInfo, choice)
		}
		summary = append(summary, []string{client.Key(pod), choice})
	}
	if bars {
		printBars(out, cache.Snapshot())
		return nil
	}
	fmt.Fprintln(out, "Result")
	printTable(out, "  ", []string{"POD", "NODE"}, summary)
	return nil
}

func profileFor(profiles []*framework.Profile, pod *corev1.Pod) *framework.Profile {
	for _, p := range profiles {
		if p.Name == pod.Spec.SchedulerName {
			return p
		}
	}
	return nil
}
