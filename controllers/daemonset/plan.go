package daemonset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/api/placement"
	"tinykube/controllers/harness"
)

// plan is what has to happen to the pods.
type plan struct {
	create []string // names of nodes that need a pod
	delete []deletion
}

// deletion is a pod to delete. finished is Succeeded or Failed for one that
// ended by itself and has to be replaced.
type deletion struct {
	pod      *corev1.Pod
	finished corev1.PodPhase
}

// snapshot is all that a plan is made of.
type snapshot struct {
	ds    *appsv1.DaemonSet
	hash  string // of the current revision
	nodes []*corev1.Node
	pods  map[string][]*corev1.Pod // what the DaemonSet owns, by node
	now   time.Time

	// Derived from the above by newSnapshot.
	verdicts map[string]verdict
	desired  int // how many nodes should run a pod
}

func newSnapshot(ds *appsv1.DaemonSet, hash string, nodes []*corev1.Node, owned []*corev1.Pod, now time.Time) snapshot {
	s := snapshot{ds: ds, hash: hash, nodes: nodes, pods: byNode(owned), now: now, verdicts: judge(ds, nodes)}
	for _, v := range s.verdicts {
		if v.run {
			s.desired++
		}
	}
	return s
}

// byNode sorts a DaemonSet's pods by the node they are on or meant for.
// Finished pods on their way out are as good as gone.
func byNode(owned []*corev1.Pod) map[string][]*corev1.Pod {
	pods := map[string][]*corev1.Pod{}
	for _, pod := range owned {
		if pod.DeletionTimestamp == nil || !harness.IsFinished(pod) {
			pods[nodeOf(pod)] = append(pods[nodeOf(pod)], pod)
		}
	}
	for _, list := range pods {
		slices.SortFunc(list, placedAndOldFirst)
	}
	return pods
}

// verdict says whether a DaemonSet's pod should be made on a node, and whether
// one that is there may stay.
type verdict struct{ run, stay bool }

// judge gives every node's verdict. A taint that keeps pods away does not
// drive those off that are there: only NoExecute does.
func judge(ds *appsv1.DaemonSet, nodes []*corev1.Node) map[string]verdict {
	pod := &corev1.Pod{Spec: template(ds).Spec}
	required := placement.ForPod(pod)
	verdicts := make(map[string]verdict, len(nodes))
	for _, node := range nodes {
		v := verdict{}
		if required.Match(node) && (pod.Spec.NodeName == "" || pod.Spec.NodeName == node.Name) {
			v.stay = !repels(node, pod, corev1.TaintEffectNoExecute)
			v.run = v.stay && !repels(node, pod, corev1.TaintEffectNoSchedule)
		}
		verdicts[node.Name] = v
	}
	return verdicts
}

func repels(node *corev1.Node, pod *corev1.Pod, effect corev1.TaintEffect) bool {
	return placement.Untolerated(node.Spec.Taints, pod.Spec.Tolerations, effect) != nil
}

// makePlan compares, node by node, what is there with what should be.
func makePlan(s snapshot) plan {
	var p plan
	if s.ds.DeletionTimestamp != nil {
		return p
	}
	for _, node := range s.nodes {
		v, pods := s.verdicts[node.Name], s.pods[node.Name]
		switch {
		case v.run && len(pods) == 0:
			p.create = append(p.create, node.Name)
		case v.stay:
			p.delete = append(p.delete, superfluous(s, pods)...)
		default:
			p.delete = append(p.delete, living(pods)...)
		}
	}
	for name, pods := range s.pods {
		if _, exists := s.verdicts[name]; !exists {
			// Pinned to a node that is gone before they got there; pods that
			// were there are pod garbage collection's.
			pending := slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" })
			p.delete = append(p.delete, living(pending)...)
		}
	}
	p = roll(s, p)
	slices.Sort(p.create)
	seen := map[types.UID]bool{}
	p.delete = slices.DeleteFunc(p.delete, func(d deletion) bool {
		again := seen[d.pod.UID]
		seen[d.pod.UID] = true
		return again
	})
	return p
}

// superfluous returns a node's pods that ended, and all that run but one. With
// a surge, one of the current revision may run beside one of another.
func superfluous(s snapshot, pods []*corev1.Pod) []deletion {
	var remove []deletion
	kept := map[bool]bool{}
	for _, pod := range pods {
		current := maxSurge(s) > 0 && isCurrent(s, pod)
		switch {
		case pod.DeletionTimestamp != nil:
		case harness.IsFinished(pod):
			remove = append(remove, deletion{pod, pod.Status.Phase})
		case kept[current]:
			remove = append(remove, deletion{pod: pod})
		default:
			kept[current] = true
		}
	}
	return remove
}

func living(pods []*corev1.Pod) []deletion {
	var remove []deletion
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			remove = append(remove, deletion{pod: pod})
		}
	}
	return remove
}

// placedAndOldFirst sorts by who is kept when there are several.
func placedAndOldFirst(a, b *corev1.Pod) int {
	placed := func(pod *corev1.Pod) int {
		if pod.Spec.NodeName != "" {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(placed(a), placed(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func isCurrent(s snapshot, pod *corev1.Pod) bool { return pod.Labels[hashLabel] == s.hash }
