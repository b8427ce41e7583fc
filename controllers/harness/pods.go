package harness

import (
	"context"
	"encoding/json"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
)

// maxNamePrefix leaves room for a random suffix in a name of 63 characters,
// since a pod's name becomes its host name.
const maxNamePrefix, suffixLength = 58, 5

// NewName is prefix and a random suffix, as the server makes from generateName.
func NewName(prefix string) string {
	return prefix[:min(len(prefix), maxNamePrefix)] + rand.String(suffixLength)
}

// NewPod makes a pod of a template, controlled by owner, with a random name.
func NewPod(owner metav1.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec) *corev1.Pod {
	prefix := owner.GetName() + "-"
	t := template.DeepCopy()
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Name: NewName(prefix), GenerateName: prefix,
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{ControllerRef(owner, kind)},
		},
		Spec: t.Spec,
	}
}

// IsActive says whether a pod counts as one of its owner's: not finished, not
// on its way out.
func IsActive(pod *corev1.Pod) bool { return !IsFinished(pod) && pod.DeletionTimestamp == nil }

// IsFinished says whether a pod will never run again.
func IsFinished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// PodCondition returns the condition of a type, or nil.
func PodCondition(pod *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// SetPodCondition sets a condition in a copy of a pod; its transition time
// moves only if its status does.
func SetPodCondition(pod *corev1.Pod, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.Now()
	have := PodCondition(pod, c.Type)
	if have == nil {
		pod.Status.Conditions = append(pod.Status.Conditions, c)
		return
	}
	if have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	*have = c
}

// PatchPodStatus writes one condition, and the phase, unless they are empty. It
// is a patch, so that it does not quarrel with the kubelet about the rest.
func PatchPodStatus(ctx context.Context, pods *Store[*corev1.Pod], pod *corev1.Pod, c corev1.PodCondition, phase corev1.PodPhase) (*corev1.Pod, error) {
	changed := pod.DeepCopy()
	if c.Type == corev1.DisruptionTarget { // the Ready that others write keeps theirs
		c.ObservedGeneration = pod.Generation
	}
	status := map[string]any{}
	if c.Type != "" {
		SetPodCondition(changed, c)
		status["conditions"] = []map[string]any{conditionPatch(PodCondition(changed, c.Type))}
	}
	if phase != "" {
		status["phase"], status["observedGeneration"] = phase, pod.Generation
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return nil, err
	}
	return pods.Patch(ctx, pod.Namespace, pod.Name, types.StrategicMergePatchType, patch, "status")
}

// conditionPatch is a condition in which what is empty is null: left out, the
// words of what was there before would stay.
func conditionPatch(c *corev1.PodCondition) map[string]any {
	orNull := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return map[string]any{
		"type": c.Type, "status": c.Status, "lastTransitionTime": c.LastTransitionTime, "observedGeneration": c.ObservedGeneration,
		"reason": orNull(c.Reason), "message": orNull(c.Message),
	}
}

// IsReady says whether a pod's Ready condition is True.
func IsReady(pod *corev1.Pod) bool {
	c := PodCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available says whether a pod has been ready for minReadySeconds; if it is
// ready but not for long enough, in is how long is left.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) (ok bool, in time.Duration) {
	if !IsReady(pod) {
		return false, 0
	}
	since := PodCondition(pod, corev1.PodReady).LastTransitionTime
	left := since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	if minReadySeconds == 0 || left <= 0 {
		return true, 0
	}
	return false, left
}

// Sooner returns the earlier of two waits, where zero means never.
func Sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
