package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// plan is what has to be done to a Deployment's ReplicaSets.
type plan struct {
	create *appsv1.ReplicaSet   // the new one, if it does not exist
	update []*appsv1.ReplicaSet // copies with another size, annotation or minReadySeconds
	remove []*appsv1.ReplicaSet // history beyond the limit
	// rollout says that this was a step of a rollout, whose progress counts
	// against the deadline; scaling and pausing are not.
	rollout bool
	// failure says why create did not come to be, once that has been tried.
	failure string
}

// sets are the ReplicaSets of a Deployment: working copies, oldest first.
type sets struct {
	new *appsv1.ReplicaSet // whose template is the Deployment's; nil if there is none
	old []*appsv1.ReplicaSet
}

// sortSets copies what the Deployment owns and finds the new ReplicaSet: the
// oldest one with the Deployment's template.
func sortSets(d *appsv1.Deployment, owned []*appsv1.ReplicaSet) sets {
	var s sets
	owned = slices.Clone(owned)
	slices.SortFunc(owned, byAge)
	for _, rs := range owned {
		if s.new == nil && sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			s.new = rs.DeepCopy()
		} else {
			s.old = append(s.old, rs.DeepCopy())
		}
	}
	return s
}

// all is a new list of every ReplicaSet, which the caller may rearrange.
func (s sets) all() []*appsv1.ReplicaSet {
	all := slices.Clone(s.old)
	if s.new != nil {
		all = append(all, s.new)
	}
	return all
}

// makePlan decides the next step. owned are the ReplicaSets as they are.
func makePlan(d *appsv1.Deployment, owned []*appsv1.ReplicaSet) plan {
	var p plan
	if d.DeletionTimestamp != nil {
		return p
	}
	s := sortSets(d, owned)
	if s.new != nil {
		annotateNew(d, s.new, nextRevision(s.old), true)
		s.new.Spec.MinReadySeconds = d.Spec.MinReadySeconds
	}
	switch {
	case d.Spec.Paused:
		scale(d, s)
	case d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType:
		p.rollout = true
		p.create = recreate(d, s)
	case wasScaled(d, s.all()):
		scale(d, s)
	default:
		p.rollout = true
		p.create = roll(d, s)
	}
	for _, rs := range s.all() {
		if !equality.Semantic.DeepEqual(rs, find(owned, rs)) {
			p.update = append(p.update, rs)
		}
	}
	if status := count(d, owned); d.Spec.Paused || complete(d, &status) {
		p.remove = beyondHistory(d, s.old)
	}
	return p
}

// recreate takes all old pods away before it makes a new one, so that two
// versions never run at once.
func recreate(d *appsv1.Deployment, s sets) (create *appsv1.ReplicaSet) {
	gone := true
	for _, rs := range s.old {
		if *rs.Spec.Replicas != 0 || rs.Status.Replicas != 0 || terminating(rs) != 0 || rs.Generation != rs.Status.ObservedGeneration {
			gone = false
		}
		resize(rs, 0)
	}
	if !gone {
		return nil
	}
	if s.new == nil {
		return newReplicaSet(d, s.old, *d.Spec.Replicas)
	}
	resizeAndAnnotate(d, s.new, *d.Spec.Replicas)
	return nil
}

// beyondHistory returns the empty ReplicaSets of the lowest revisions that
// revisionHistoryLimit leaves no room for.
//
// Upstream: kubernetes/kubernetes pkg/controller/deployment cleanupDeployment
func beyondHistory(d *appsv1.Deployment, old []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	limit := d.Spec.RevisionHistoryLimit
	if limit == nil || *limit == math.MaxInt32 {
		return nil
	}
	old = slices.DeleteFunc(slices.Clone(old), func(rs *appsv1.ReplicaSet) bool { return rs.DeletionTimestamp != nil })
	slices.SortFunc(old, func(a, b *appsv1.ReplicaSet) int {
		return cmp.Or(cmp.Compare(revision(a), revision(b)), byAge(a, b))
	})
	var remove []*appsv1.ReplicaSet
	for _, rs := range old[:max(0, len(old)-int(*limit))] {
		if *rs.Spec.Replicas == 0 && rs.Status.Replicas == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			remove = append(remove, rs)
		}
	}
	return remove
}

// resize sets the size of a working copy.
func resize(rs *appsv1.ReplicaSet, replicas int32) { *rs.Spec.Replicas = replicas }

func find(owned []*appsv1.ReplicaSet, rs *appsv1.ReplicaSet) *appsv1.ReplicaSet {
	i := slices.IndexFunc(owned, func(o *appsv1.ReplicaSet) bool { return o.UID == rs.UID })
	return owned[i]
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func sum(all []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) (total int32) {
	for _, rs := range all {
		total += of(rs)
	}
	return total
}

func size(rs *appsv1.ReplicaSet) int32      { return *rs.Spec.Replicas }
func available(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }
func terminating(rs *appsv1.ReplicaSet) int32 {
	if rs.Status.TerminatingReplicas == nil {
		return 0
	}
	return *rs.Status.TerminatingReplicas
}
