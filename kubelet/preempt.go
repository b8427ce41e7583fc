package kubelet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/qos"
)

// A critical pod that finds no room makes it: a control plane must start on its
// node, whoever got there first. This is not the scheduler's preemption, which
// deletes pods through the API; here there may be no API server yet.

// errMakingRoom says that a pod waits for others to end.
var errMakingRoom = errors.New("waiting for other pods to make room")

const reasonPreempting = "Preempting"

// makeRoom answers for a pod that does not fit: a rejection, or, if it is
// critical, an error until the pods that must go have gone. The caller holds mu.
func (k *Kubelet) makeRoom(pod *corev1.Pod, staying []*corev1.Pod, short []shortage) (*rejection, error) {
	if !isCritical(pod) {
		return short[0].rejection(), nil
	}
	victims, err := planPreemption(pod, staying, short)
	if err != nil {
		return &rejection{"UnexpectedAdmissionError", fmt.Sprintf("Unexpected error while attempting to recover from admission failure: %v", err)}, nil
	}
	for _, victim := range victims {
		k.eventf(victim, corev1.EventTypeWarning, reasonPreempting, "Preempted in order to admit critical pod")
		k.workers[victim.UID].end(&endCase{reason: reasonPreempting, message: "Preempted in order to admit critical pod", disruption: true})
	}
	return nil, errMakingRoom
}

// planPreemption chooses as few and as unimportant pods as possible: first what
// must go of the guaranteed ones even if all others went, then of the burstable
// ones, then of the rest; in each class again and again the pod that comes
// nearest to what is still missing.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/preemption/preemption.go.
func planPreemption(pod *corev1.Pod, others []*corev1.Pod, short []shortage) ([]*corev1.Pod, error) {
	missing := map[corev1.ResourceName]int64{}
	for _, s := range short {
		missing[s.name] = s.missing()
	}
	classes := map[corev1.PodQOSClass][]*corev1.Pod{}
	for _, other := range others {
		if preemptable(pod, other) {
			classes[qos.Of(other)] = append(classes[qos.Of(other)], other)
		}
	}
	order := []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort}
	var victims []*corev1.Pod
	for i, class := range order {
		left := without(missing, victims)
		for _, lower := range order[i+1:] {
			left = without(left, classes[lower])
		}
		chosen, err := nearest(classes[class], left)
		if err != nil {
			return nil, fmt.Errorf("preemption: error finding a set of pods to preempt: %w", err)
		}
		victims = append(victims, chosen...)
	}
	return victims, nil
}

// preemptable says whether one pod may push another out.
func preemptable(pod, other *corev1.Pod) bool {
	if isCritical(pod) && !isCritical(other) {
		return true
	}
	return pod.Spec.Priority != nil && other.Spec.Priority != nil && priority(pod) > priority(other)
}

// nearest takes pods until nothing is missing any more.
func nearest(pods []*corev1.Pod, missing map[corev1.ResourceName]int64) ([]*corev1.Pod, error) {
	pods = slices.Clone(pods)
	var out []*corev1.Pod
	for len(missing) > 0 {
		if len(pods) == 0 {
			return nil, fmt.Errorf("no set of running pods found to reclaim resources: %s", describe(missing))
		}
		best := slices.MinFunc(pods, func(a, b *corev1.Pod) int {
			return cmp.Or(cmp.Compare(distance(a, missing), distance(b, missing)),
				cmp.Compare(requestOf(a, corev1.ResourceMemory), requestOf(b, corev1.ResourceMemory)),
				cmp.Compare(requestOf(a, corev1.ResourceCPU), requestOf(b, corev1.ResourceCPU)))
		})
		missing, out = without(missing, []*corev1.Pod{best}), append(out, best)
		pods = slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p == best })
	}
	return out, nil
}

// without is what is missing once these pods have gone.
func without(missing map[corev1.ResourceName]int64, pods []*corev1.Pod) map[corev1.ResourceName]int64 {
	left := map[corev1.ResourceName]int64{}
	for name, amount := range missing {
		for _, p := range pods {
			amount -= requestOf(p, name)
		}
		if amount > 0 {
			left[name] = amount
		}
	}
	return left
}

// distance is how far from enough a pod is: 0 if it alone is enough.
func distance(pod *corev1.Pod, missing map[corev1.ResourceName]int64) (total float64) {
	for name, amount := range missing {
		if left := float64(amount - requestOf(pod, name)); left > 0 {
			total += (left / float64(amount)) * (left / float64(amount))
		}
	}
	return total
}

func describe(missing map[corev1.ResourceName]int64) string {
	var parts []string
	for name, amount := range missing {
		parts = append(parts, fmt.Sprintf("(res: %s, q: %d), ", name, amount))
	}
	slices.Sort(parts)
	return "[" + strings.Join(parts, "") + "]"
}
