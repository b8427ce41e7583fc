package apiserver

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/requests"
)

// admitPodResize refuses a resize that the pod's node could never grant. What
// it cannot grant now is its kubelet's to defer.
//
// Upstream: kubernetes@v1.36 plugin/pkg/admission/podresize
func admitPodResize(a *admission) error {
	pod, ok := a.obj.(*corev1.Pod)
	old, update := a.old.(*corev1.Pod)
	if !ok || !update || a.subresource != "resize" || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	node, ok := cached[*corev1.Node](a.server, "", "nodes", pod.Spec.NodeName)
	if !ok {
		return a.refuse(fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	if os := node.Labels[corev1.LabelOSStable]; os != "" && os != string(corev1.Linux) {
		return because(a.refuse(fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, os)), "UnsupportedPlatform")
	}
	asked, has := requests.Pod(&corev1.Pod{Spec: pod.Spec}), node.Status.Allocatable
	var short []string
	if asked.Cpu().Cmp(*has.Cpu()) > 0 {
		short = append(short, fmt.Sprintf("cpu, requested: %d, allocatable: %d", asked.Cpu().MilliValue(), has.Cpu().MilliValue()))
	}
	if asked.Memory().Cmp(*has.Memory()) > 0 {
		short = append(short, fmt.Sprintf("memory, requested: %d, allocatable: %d", asked.Memory().Value(), has.Memory().Value()))
	}
	if len(short) > 0 {
		return because(a.refuse(errors.New("node didn't have enough allocatable resources: "+strings.Join(short, "; "))), "NodeCapacity")
	}
	return nil
}

// because adds a cause that programs can read.
func because(err error, cause metav1.CauseType) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) && status.ErrStatus.Details != nil {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return err
}
