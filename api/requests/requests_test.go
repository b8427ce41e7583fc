package requests

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

func container(name, cpu, memory string) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpu, memory)}}
}

func sidecar(name, cpu, memory string) corev1.Container {
	c, always := container(name, cpu, memory), corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

func TestPod(t *testing.T) {
	resizing := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
		Name: "d", AllocatedResources: list("3", ""),
		Resources: &corev1.ResourceRequirements{Requests: list("2", "1Gi")},
	}}}
	infeasible := *resizing.DeepCopy()
	infeasible.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Reason: corev1.PodReasonInfeasible}}

	tests := []struct {
		name        string
		spec        corev1.PodSpec
		status      corev1.PodStatus
		missing     corev1.ResourceList
		cpu, memory string
	}{
		{name: "nothing asked", spec: corev1.PodSpec{Containers: []corev1.Container{container("d", "", "")}}, cpu: "0", memory: "0"},
		{name: "containers add up", cpu: "3", memory: "3Gi", spec: corev1.PodSpec{
			Containers: []corev1.Container{container("d", "1", "1Gi"), container("e", "2", "2Gi")}}},
		{name: "an init container counts as a maximum", cpu: "4", memory: "1Gi", spec: corev1.PodSpec{
			InitContainers: []corev1.Container{container("a", "4", "")},
			Containers:     []corev1.Container{container("d", "1", "1Gi")}}},
		{name: "a sidecar runs beside the containers", cpu: "3", memory: "0", spec: corev1.PodSpec{
			InitContainers: []corev1.Container{container("a", "2", ""), sidecar("b", "2", "")},
			Containers:     []corev1.Container{container("d", "1", "")}}},
		{name: "and beside later init containers", cpu: "5", memory: "0", spec: corev1.PodSpec{
			InitContainers: []corev1.Container{sidecar("b", "2", ""), container("c", "3", "")},
			Containers:     []corev1.Container{container("d", "1", "")}}},
		{name: "overhead is added", cpu: "1250m", memory: "0", spec: corev1.PodSpec{
			Overhead: list("250m", ""), Containers: []corev1.Container{container("d", "1", "")}}},
		{name: "pod-level requests win", cpu: "2", memory: "1Gi", spec: corev1.PodSpec{
			Resources:  &corev1.ResourceRequirements{Requests: list("2", "")},
			Containers: []corev1.Container{container("d", "1", "1Gi")}}},
		{name: "missing amounts are assumed per container", cpu: "1100m", memory: "1200Mi",
			missing: list("100m", "200Mi"), spec: corev1.PodSpec{
				Containers: []corev1.Container{container("d", "1", ""), container("e", "", "1000Mi")}}},
		{name: "an explicit zero is not missing", cpu: "0", memory: "0", missing: list("100m", ""),
			spec: corev1.PodSpec{Containers: []corev1.Container{container("d", "0", "")}}},
		{name: "a resize counts at its most", cpu: "3", memory: "1Gi", status: resizing,
			spec: corev1.PodSpec{Containers: []corev1.Container{container("d", "1", "1Gi")}}},
		{name: "an infeasible resize does not count", cpu: "3", memory: "1Gi", status: infeasible,
			spec: corev1.PodSpec{Containers: []corev1.Container{container("d", "9", "1Gi")}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := tt.spec.DeepCopy()
			got := PodAssuming(&corev1.Pod{Spec: tt.spec, Status: tt.status}, tt.missing)
			want := list(tt.cpu, tt.memory)
			if got.Cpu().Cmp(*want.Cpu()) != 0 || got.Memory().Cmp(*want.Memory()) != 0 {
				t.Errorf("requests cpu %s memory %s, want %s %s", got.Cpu(), got.Memory(), tt.cpu, tt.memory)
			}
			for i := range before.Containers {
				if b, a := before.Containers[i].Resources.Requests.Cpu(), tt.spec.Containers[i].Resources.Requests.Cpu(); b.Cmp(*a) != 0 {
					t.Errorf("the pod itself changed: %s → %s", b, a)
				}
			}
		})
	}
}

func TestLimitsOverheadOnlyRaisesExistingLimits(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Overhead:   list("250m", "1Gi"),
		Containers: []corev1.Container{container("d", "1", "")},
	}}
	got := Limits(pod)
	if _, ok := got[corev1.ResourceMemory]; ok || got.Cpu().String() != "1250m" {
		t.Errorf("limits %v, want only cpu 1250m", got)
	}
}
