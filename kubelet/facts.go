package kubelet

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// podFacts is what a pod may be told about itself: through environment
// variables (env.go) and downwardAPI volumes (volume_api.go).
type podFacts struct {
	pod         *corev1.Pod
	podIPs      []string // none before the sandbox has its network
	hostIPs     []string
	allocatable corev1.ResourceList // stands in for a limit that is not set
	volumes     map[string]mountedVolume
}

// field reads one fieldRef path.
//
// Upstream: kubernetes@v1.36 pkg/fieldpath ExtractFieldPathAsString.
func (f podFacts) field(path string) (string, error) {
	pod := f.pod
	if name, key, found := subscript(path); found {
		switch name {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return mapLines(pod.Labels), nil
	case "metadata.annotations":
		return mapLines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return first(f.hostIPs), nil
	case "status.hostIPs":
		return strings.Join(f.hostIPs, ","), nil
	case "status.podIP":
		return first(f.podIPs), nil
	case "status.podIPs":
		return strings.Join(f.podIPs, ","), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}

// resourceField reads a container's request or limit, in units of the divisor,
// rounded up. An unset limit is what the node could give.
func (f podFacts) resourceField(ref *corev1.ResourceFieldSelector, defaultContainer string) (string, error) {
	name := cmp.Or(ref.ContainerName, defaultContainer)
	container := findContainer(f.pod, name)
	if container == nil {
		return "", fmt.Errorf("container %s not found", name)
	}
	kind, which, _ := strings.Cut(ref.Resource, ".")
	var quantity resource.Quantity
	switch kind {
	case "limits":
		limit, found := container.Resources.Limits[corev1.ResourceName(which)]
		if quantity = limit; !found {
			quantity = f.allocatable[corev1.ResourceName(which)]
		}
	case "requests":
		quantity = container.Resources.Requests[corev1.ResourceName(which)]
	default:
		return "", fmt.Errorf("unsupported container resource: %v", ref.Resource)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if which == string(corev1.ResourceCPU) {
		return strconv.FormatInt(ceilDivide(quantity.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceilDivide(quantity.Value(), divisor.Value()), 10), nil
}

func ceilDivide(a, b int64) int64 {
	if b <= 0 {
		return a
	}
	return (a + b - 1) / b
}

// subscript splits metadata.labels['key'].
func subscript(path string) (name, key string, found bool) {
	name, rest, found := strings.Cut(path, "['")
	if !found || !strings.HasSuffix(rest, "']") {
		return "", "", false
	}
	return name, strings.TrimSuffix(rest, "']"), true
}

// mapLines prints a map as key="value" lines in the order of its keys.
func mapLines(m map[string]string) string {
	var lines []string
	for key, value := range m {
		lines = append(lines, fmt.Sprintf("%s=%q", key, value))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// findContainer finds a container of any sort by name.
func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, c := range allContainers(pod) {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// allContainers lists init, regular and ephemeral containers, in this order.
func allContainers(pod *corev1.Pod) []*corev1.Container {
	var all []*corev1.Container
	for i := range pod.Spec.InitContainers {
		all = append(all, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		all = append(all, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.EphemeralContainers {
		all = append(all, (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return all
}
