package statefulset

import (
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/controllers/harness"
)

// snapshot is all that a plan is made of.
type snapshot struct {
	set             *appsv1.StatefulSet
	current, update revision
	pods            []*corev1.Pod // what the set owns
	claims          map[string]*corev1.PersistentVolumeClaim
	now             time.Time
}

// revision is a template and the name of the ControllerRevision that keeps it.
type revision struct {
	name     string
	template *corev1.PodTemplateSpec
}

// plan is what can be done now. Steps before a wait are enough: what they
// change brings us back.
type plan struct {
	create []*corev1.Pod
	// repair are pods whose names, labels or volumes were changed by someone,
	// as they should be.
	repair []*corev1.Pod
	delete []*corev1.Pod
	// owners are claims with the owner references they should have.
	owners []*corev1.PersistentVolumeClaim
	// provide are living pods of which a claim may be missing.
	provide []*corev1.Pod
}

// makePlan compares ordinals with pods.
//
// Upstream: kubernetes/kubernetes pkg/controller/statefulset/stateful_set_control.go updateStatefulSet
func makePlan(s snapshot) plan {
	var p plan
	if s.set.DeletionTimestamp != nil {
		return p
	}
	replicas, condemned := s.sorted()
	for ordinal, pod := range replicas {
		if !s.fill(&p, first(s.set)+ordinal, pod) && s.ordered() {
			return p
		}
	}
	for _, pod := range condemned {
		p.owners = append(p.owners, s.claimsToTell(pod)...)
	}
	if !s.shrink(&p, replicas, condemned) {
		return p
	}
	if s.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		s.roll(&p, replicas)
	}
	return p
}

// sorted gives the pods their places: those that should be by ordinal, nil
// where one is missing, and those that should not, the highest first.
func (s snapshot) sorted() (replicas, condemned []*corev1.Pod) {
	replicas = make([]*corev1.Pod, *s.set.Spec.Replicas)
	for _, pod := range s.pods {
		ordinal, ok := ordinalOf(s.set, pod)
		if place := ordinal - first(s.set); ok && place >= 0 && place < len(replicas) {
			replicas[place] = pod
		} else if ok {
			condemned = append(condemned, pod)
		}
	}
	slices.SortFunc(condemned, func(a, b *corev1.Pod) int {
		x, _ := ordinalOf(s.set, a)
		y, _ := ordinalOf(s.set, b)
		return y - x
	})
	return replicas, condemned
}

// fill sees to one ordinal. It says whether its pod is available, so that the
// next in order may come.
func (s snapshot) fill(p *plan, ordinal int, pod *corev1.Pod) (done bool) {
	switch {
	case pod == nil:
		if !s.claimsLeaving(ordinal) {
			p.create = append(p.create, s.newPod(ordinal))
		}
		return false
	case harness.IsFinished(pod):
		// Its name is needed: it comes back when the finished one is gone.
		if pod.DeletionTimestamp == nil {
			p.delete = append(p.delete, pod)
		}
		return false
	}
	if pod.Status.Phase == corev1.PodPending {
		p.provide = append(p.provide, pod)
	}
	if s.ordered() && s.unavailable(pod) {
		return false
	}
	p.owners = append(p.owners, s.claimsToTell(pod)...)
	if fixed := s.withIdentity(pod); fixed != nil {
		p.repair = append(p.repair, fixed)
	}
	return true
}

// shrink takes away what is beyond the last ordinal. In order it takes the
// highest, and waits while another pod is not available: losing two at a time
// may lose a quorum. The one that ails may always go.
func (s snapshot) shrink(p *plan, replicas, condemned []*corev1.Pod) (done bool) {
	ailing := s.firstUnavailable(replicas, condemned)
	for _, pod := range condemned {
		switch {
		case pod.DeletionTimestamp != nil && s.ordered():
			return false
		case pod.DeletionTimestamp != nil:
		case s.ordered() && s.unavailable(pod) && pod != ailing:
			return false
		default:
			p.delete = append(p.delete, pod)
			if s.ordered() {
				return false
			}
		}
	}
	return true
}

// roll deletes pods of other revisions, from the highest ordinal down to the
// partition, while no more than maxUnavailable are missing.
func (s snapshot) roll(p *plan, replicas []*corev1.Pod) {
	partition, room := 0, 1
	if rolling := s.set.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		if rolling.Partition != nil {
			partition = int(*rolling.Partition)
		}
		if rolling.MaxUnavailable != nil {
			n, err := intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, len(replicas), false)
			if err == nil {
				room = max(1, n)
			}
		}
	}
	for _, pod := range replicas {
		if pod == nil || s.unavailable(pod) {
			room--
		}
	}
	for i := len(replicas) - 1; i >= partition && room > 0; i-- {
		pod := replicas[i]
		if pod != nil && pod.DeletionTimestamp == nil && !harness.IsFinished(pod) && pod.Labels[revisionLabel] != s.update.name {
			p.delete = append(p.delete, pod)
			room--
		}
	}
}

// revisionFor says which template an ordinal's new pod is made of: below the
// partition of a rolling update the current one, else the new one.
func (s snapshot) revisionFor(ordinal int) revision {
	strategy := s.set.Spec.UpdateStrategy
	old := 0
	switch {
	case strategy.RollingUpdate != nil && strategy.RollingUpdate.Partition != nil:
		old = int(*strategy.RollingUpdate.Partition)
	case strategy.RollingUpdate == nil && strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType:
		old = int(s.set.Status.CurrentReplicas)
	}
	if ordinal < first(s.set)+old {
		return s.current
	}
	return s.update
}

// makeStatus counts. again is when the passing of time alone will make another
// pod available.
func makeStatus(s snapshot) (status appsv1.StatefulSetStatus, again time.Duration) {
	status = appsv1.StatefulSetStatus{
		ObservedGeneration: s.set.Generation, CurrentRevision: s.current.name, UpdateRevision: s.update.name,
		CollisionCount: s.set.Status.CollisionCount, Conditions: s.set.Status.Conditions,
	}
	if status.CollisionCount == nil {
		status.CollisionCount = new(int32)
	}
	for _, pod := range s.pods {
		status.Replicas++
		if pod.Status.Phase == corev1.PodRunning && harness.IsReady(pod) {
			status.ReadyReplicas++
			ok, in := harness.Available(pod, s.set.Spec.MinReadySeconds, s.now)
			if ok {
				status.AvailableReplicas++
			}
			again = harness.Sooner(again, in)
		}
		if pod.DeletionTimestamp == nil && pod.Labels[revisionLabel] == s.current.name {
			status.CurrentReplicas++
		}
		if pod.DeletionTimestamp == nil && pod.Labels[revisionLabel] == s.update.name {
			status.UpdatedReplicas++
		}
	}
	want := *s.set.Spec.Replicas
	if s.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType &&
		status.UpdatedReplicas == want && status.ReadyReplicas == want && status.Replicas == want {
		status.CurrentReplicas, status.CurrentRevision = status.UpdatedReplicas, status.UpdateRevision // the rollout is over
	}
	return status, again
}

func (s snapshot) ordered() bool {
	return s.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

func (s snapshot) unavailable(pod *corev1.Pod) bool {
	ok, _ := harness.Available(pod, s.set.Spec.MinReadySeconds, s.now)
	return !ok || pod.DeletionTimestamp != nil
}

// firstUnavailable is the pod with the lowest ordinal that does not work; one
// that is not there yet counts as one.
func (s snapshot) firstUnavailable(replicas, condemned []*corev1.Pod) *corev1.Pod {
	condemned = slices.Clone(condemned)
	slices.Reverse(condemned)
	for _, pod := range slices.Concat(replicas, condemned) {
		if pod == nil || s.unavailable(pod) {
			return pod
		}
	}
	return nil
}

// first is the lowest ordinal.
func first(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// ordinalOf reads the number at the end of a pod's name, if the name is one
// that the set gives.
func ordinalOf(set *appsv1.StatefulSet, pod *corev1.Pod) (int, bool) {
	number, ok := strings.CutPrefix(pod.Name, set.Name+"-")
	n, err := strconv.ParseUint(number, 10, 31)
	return int(n), ok && err == nil
}
