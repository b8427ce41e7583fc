package job

import (
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const indexVariable = "JOB_COMPLETION_INDEX"

// newPod makes a Job's pod, with the finalizer by which it is counted.
func newPod(s snapshot, t tally, index int) *corev1.Pod {
	pod := harness.NewPod(s.job, client.Jobs.GVK(), &s.job.Spec.Template)
	if !tracked(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if index < 0 {
		return pod
	}
	number := strconv.Itoa(index)
	// The number must survive where the name is cut to fit.
	suffix := "-" + number + "-"
	const room = 58 // of 63 characters, less five at random
	pod.GenerateName = s.job.Name[:min(len(s.job.Name), room-len(suffix))] + suffix
	pod.Name = harness.NewName(pod.GenerateName)
	pod.Spec.Hostname = fmt.Sprintf("%s-%d", s.job.Name, index)
	set(&pod.Annotations, batchv1.JobCompletionIndexAnnotation, number)
	set(&pod.Labels, batchv1.JobCompletionIndexAnnotation, number)
	if s.perIndex() {
		countFailures(s, pod, t.replaced[index])
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			tellIndex(&containers[i])
		}
	}
	return pod
}

// countFailures notes on a pod how many pods of its index failed before.
func countFailures(s snapshot, pod, before *corev1.Pod) {
	failed, ignored := 0, 0
	if before != nil {
		failed, ignored = numberIn(before, batchv1.JobIndexFailureCountAnnotation), numberIn(before, batchv1.JobIndexIgnoredFailureCountAnnotation)
		if judgeFailure(s.job, before).counts() {
			failed++
		} else {
			ignored++
		}
	}
	set(&pod.Annotations, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(failed))
	if ignored > 0 {
		set(&pod.Annotations, batchv1.JobIndexIgnoredFailureCountAnnotation, strconv.Itoa(ignored))
	}
}

// tellIndex lets a container know its index.
func tellIndex(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == indexVariable }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
	}})
}

func set(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}
