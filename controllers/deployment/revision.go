package deployment

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// What a Deployment writes on its ReplicaSets, and kubectl rollout reads.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredReplicasAnnotation = "deployment.kubernetes.io/desired-replicas"
	maxReplicasAnnotation     = "deployment.kubernetes.io/max-replicas"
	hashLabel                 = appsv1.DefaultDeploymentUniqueLabelKey // pod-template-hash
)

// notInherited are the Deployment's annotations that its ReplicaSets do not get.
var notInherited = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	revisionHistoryAnnotation:          true,
	desiredReplicasAnnotation:          true,
	maxReplicasAnnotation:              true,
	appsv1.DeprecatedRollbackTo:        true,
}

// newReplicaSet makes the ReplicaSet for the Deployment's template. Its name,
// selector and pods carry the template's hash, which keeps the pods of two
// ReplicaSets of one Deployment apart.
func newReplicaSet(d *appsv1.Deployment, old []*appsv1.ReplicaSet, replicas int32) *appsv1.ReplicaSet {
	hash := harness.Hash(&d.Spec.Template, d.Status.CollisionCount)
	template := d.Spec.Template.DeepCopy()
	template.Labels = withLabel(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: setName(d.Name, hash), Labels: maps.Clone(template.Labels),
			OwnerReferences: []metav1.OwnerReference{harness.ControllerRef(d, client.Deployments.GVK())},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: new(int32), MinReadySeconds: d.Spec.MinReadySeconds, Selector: selector, Template: *template,
		},
	}
	annotateNew(d, rs, nextRevision(old), false)
	resizeAndAnnotate(d, rs, replicas)
	return rs
}

// setName leaves room for the hash where a Deployment's name has none.
func setName(deployment, hash string) string {
	return deployment[:min(len(deployment), validation.DNS1123SubdomainMaxLength-1-len(hash))] + "-" + hash
}

func withLabel(labels map[string]string, hash string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[hashLabel] = hash
	return labels
}

// sameTemplate compares templates but for the label that we add.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, hashLabel)
	delete(b.Labels, hashLabel)
	return equality.Semantic.DeepEqual(a, b)
}

// annotateNew brings the new ReplicaSet's annotations up to date: the
// Deployment's own (kubectl's change-cause among them) and its revision. One
// that comes back by a rollback remembers the revisions it had.
//
// Upstream: kubernetes/kubernetes pkg/controller/deployment/util SetNewReplicaSetAnnotations
func annotateNew(d *appsv1.Deployment, rs *appsv1.ReplicaSet, next int64, exists bool) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for key, value := range d.Annotations {
		if !notInherited[key] {
			rs.Annotations[key] = value
		}
	}
	had := rs.Annotations[revisionAnnotation]
	if revision(rs) >= next {
		return
	}
	rs.Annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if exists && had != "" {
		history := slices.DeleteFunc(strings.Split(rs.Annotations[revisionHistoryAnnotation], ","), func(s string) bool { return s == "" })
		const maxHistory = 200 // revisions; upstream bounds the annotation's length instead
		history = append(history, had)
		rs.Annotations[revisionHistoryAnnotation] = strings.Join(history[max(0, len(history)-maxHistory):], ",")
	}
}

// resizeAndAnnotate sets a size and notes what it was made for, which is how a
// later change of replicas is told from a step of a rollout.
func resizeAndAnnotate(d *appsv1.Deployment, rs *appsv1.ReplicaSet, replicas int32) {
	resize(rs, replicas)
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[desiredReplicasAnnotation] = strconv.Itoa(int(*d.Spec.Replicas))
	rs.Annotations[maxReplicasAnnotation] = strconv.Itoa(int(*d.Spec.Replicas + maxSurge(d)))
}

func nextRevision(old []*appsv1.ReplicaSet) int64 {
	highest := int64(0)
	for _, rs := range old {
		highest = max(highest, revision(rs))
	}
	return highest + 1
}

func revision(rs *appsv1.ReplicaSet) int64 {
	n, _ := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	return n
}

func annotatedNumber(rs *appsv1.ReplicaSet, key string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	return int32(n), err == nil
}
