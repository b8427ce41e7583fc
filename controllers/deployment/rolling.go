package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// roll takes one step of a rolling update: as many new pods as fit under
// replicas+maxSurge, then as many old ones away as leave replicas-maxUnavailable
// available.
func roll(d *appsv1.Deployment, s sets) (create *appsv1.ReplicaSet) {
	if s.new == nil {
		s.new = newReplicaSet(d, s.old, 0)
		create = s.new
	}
	resizeAndAnnotate(d, s.new, newSize(d, s))
	shrinkOld(d, s)
	return create
}

// newSize is how large the new ReplicaSet may be now.
//
// Upstream: kubernetes/kubernetes pkg/controller/deployment/util NewRSNewReplicas
func newSize(d *appsv1.Deployment, s sets) int32 {
	want, have := *d.Spec.Replicas, size(s.new)
	if have >= want {
		return want
	}
	room := want + maxSurge(d) - sum(s.all(), size)
	return have + max(0, min(room, want-have))
}

// shrinkOld takes pods from the old ReplicaSets, oldest first: first those that
// are not available anyway, then as many available ones as can be missed.
//
// Invariant: available pods, less what is taken here, stay at or above
// replicas-maxUnavailable. Pods of the new ReplicaSet that are not available
// yet are paid for by old ones that stay.
//
// Upstream: kubernetes/kubernetes pkg/controller/deployment/rolling.go reconcileOldReplicaSets
func shrinkOld(d *appsv1.Deployment, s sets) {
	atLeast := *d.Spec.Replicas - maxUnavailable(d)
	newUnavailable := size(s.new) - available(s.new)
	spare := sum(s.all(), size) - atLeast - newUnavailable
	for _, rs := range s.old {
		if spare <= 0 {
			return
		}
		unhealthy := max(0, size(rs)-available(rs))
		take := min(unhealthy, spare)
		resize(rs, size(rs)-take)
		spare -= take
	}
	spare = sum(s.all(), available) - atLeast
	for _, rs := range s.old {
		take := max(0, min(size(rs), spare))
		resize(rs, size(rs)-take)
		spare -= take
	}
}

// wasScaled says whether someone changed replicas since the ReplicaSets were
// last sized: each carries the number it was sized for.
func wasScaled(d *appsv1.Deployment, all []*appsv1.ReplicaSet) bool {
	return slices.ContainsFunc(all, func(rs *appsv1.ReplicaSet) bool {
		desired, ok := annotatedNumber(rs, desiredReplicasAnnotation)
		return size(rs) > 0 && ok && desired != *d.Spec.Replicas
	})
}

// scale follows a change of replicas, without moving a rollout forward: the one
// ReplicaSet that is in use gets it all; in the middle of a rollout, each gets
// its share, so that the risk stays as it was.
//
// Upstream: kubernetes/kubernetes pkg/controller/deployment/sync.go scale
func scale(d *appsv1.Deployment, s sets) {
	active := slices.DeleteFunc(s.all(), func(rs *appsv1.ReplicaSet) bool { return size(rs) == 0 })
	switch {
	case len(active) == 0 && s.new != nil:
		resizeAndAnnotate(d, s.new, *d.Spec.Replicas)
	case len(active) == 0 && len(s.old) > 0:
		resizeAndAnnotate(d, s.old[len(s.old)-1], *d.Spec.Replicas)
	case len(active) == 1:
		resizeAndAnnotate(d, active[0], *d.Spec.Replicas)
	case saturated(d, s.new):
		for _, rs := range s.old {
			resize(rs, 0)
		}
		resizeAndAnnotate(d, s.new, *d.Spec.Replicas)
	case d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType:
		scaleInProportion(d, active)
	}
}

func scaleInProportion(d *appsv1.Deployment, active []*appsv1.ReplicaSet) {
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + maxSurge(d)
	}
	add := allowed - sum(active, size)
	// The largest takes the remainder: of equals the newest when growing, the
	// oldest when shrinking.
	slices.SortFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if add > 0 {
			age = -age
		}
		return cmp.Or(-cmp.Compare(size(a), size(b)), age)
	})
	sizes, left := make([]int32, len(active)), add
	for i, rs := range active {
		share := share(d, rs)
		switch {
		case left == 0:
			share = 0
		case add > 0:
			share = min(share, left)
		default:
			share = max(share, left)
		}
		sizes[i] = size(rs) + share
		left -= share
	}
	for i, rs := range active {
		if i == 0 {
			sizes[i] = max(0, sizes[i]+left)
		}
		resizeAndAnnotate(d, rs, sizes[i])
	}
}

// share is by how much a ReplicaSet changes if it keeps its part of the whole.
func share(d *appsv1.Deployment, rs *appsv1.ReplicaSet) int32 {
	if *d.Spec.Replicas == 0 {
		return -size(rs)
	}
	before, ok := annotatedNumber(rs, maxReplicasAnnotation)
	if !ok || before == 0 { // somebody took the note away
		before = d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	after := float64(*d.Spec.Replicas + maxSurge(d))
	return int32(math.Round(float64(size(rs))*after/float64(before))) - size(rs)
}

// saturated says whether the new ReplicaSet has everything, ready.
func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	if rs == nil {
		return false
	}
	desired, ok := annotatedNumber(rs, desiredReplicasAnnotation)
	return ok && size(rs) == *d.Spec.Replicas && desired == *d.Spec.Replicas && available(rs) == *d.Spec.Replicas
}

// maxSurge is how many pods there may be beyond replicas: rounded up.
func maxSurge(d *appsv1.Deployment) int32 {
	surge, _ := fenceposts(d)
	return surge
}

// maxUnavailable is how many of replicas may be unavailable: rounded down, and
// 1 if nothing could move otherwise.
func maxUnavailable(d *appsv1.Deployment) int32 {
	_, unavailable := fenceposts(d)
	return min(unavailable, *d.Spec.Replicas)
}

func fenceposts(d *appsv1.Deployment) (surge, unavailable int32) {
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return 0, 0
	}
	if rolling := d.Spec.Strategy.RollingUpdate; rolling != nil {
		surge = resolve(rolling.MaxSurge, *d.Spec.Replicas, true)
		unavailable = resolve(rolling.MaxUnavailable, *d.Spec.Replicas, false)
	}
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// resolve turns a number or a percentage of total into a number.
func resolve(value *intstr.IntOrString, total int32, roundUp bool) int32 {
	if value == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(value, int(total), roundUp)
	if err != nil {
		return 0 // the server does not let such a value in
	}
	return int32(n)
}
