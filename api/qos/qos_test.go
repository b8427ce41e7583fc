package qos

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func container(requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func TestOf(t *testing.T) {
	for name, test := range map[string]struct {
		containers []corev1.Container
		want       corev1.PodQOSClass
	}{
		"nothing":              {[]corev1.Container{container(nil, nil)}, corev1.PodQOSBestEffort},
		"zero is nothing":      {[]corev1.Container{container(list("0", "0"), nil)}, corev1.PodQOSBestEffort},
		"request only":         {[]corev1.Container{container(list("100m", ""), nil)}, corev1.PodQOSBurstable},
		"limits equal":         {[]corev1.Container{container(list("1", "1Gi"), list("1", "1Gi"))}, corev1.PodQOSGuaranteed},
		"limit above request":  {[]corev1.Container{container(list("1", "1Gi"), list("2", "1Gi"))}, corev1.PodQOSBurstable},
		"memory limit missing": {[]corev1.Container{container(list("1", ""), list("1", ""))}, corev1.PodQOSBurstable},
		"one of two":           {[]corev1.Container{container(list("1", "1Gi"), list("1", "1Gi")), container(nil, nil)}, corev1.PodQOSBurstable},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: test.containers}}
		if got := Of(pod); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}

func TestOOMScoreAdj(t *testing.T) {
	const capacity = 4 << 30
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container(list("", "1Gi"), nil)}}}
	if got := OOMScoreAdj(pod, &pod.Spec.Containers[0], capacity); got != 750 {
		t.Errorf("a quarter of the memory: %d, want 750", got)
	}
	pod.Spec.Containers[0] = container(list("100m", ""), nil)
	if got := OOMScoreAdj(pod, &pod.Spec.Containers[0], capacity); got != 999 {
		t.Errorf("no memory request: %d, want 999", got)
	}
	pod.Spec.Containers[0] = container(nil, nil)
	if got := OOMScoreAdj(pod, &pod.Spec.Containers[0], capacity); got != 1000 {
		t.Errorf("best effort: %d, want 1000", got)
	}
	priority := int32(2000001000)
	pod.Spec.Priority = &priority
	if got := OOMScoreAdj(pod, &pod.Spec.Containers[0], capacity); got != -997 {
		t.Errorf("critical: %d, want -997", got)
	}
}
