package daemonset

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// hashLabel tells the revision a pod was made of; templateGeneration is what
// did so before, and is still shown by old clients.
const (
	hashLabel               = appsv1.ControllerRevisionHashLabelKey
	templateGenerationLabel = "pod-template-generation"
)

// tolerations are those of every DaemonSet pod: what is wrong with a node is
// no reason not to run a node's own agent there; it may be the cure.
//
// Upstream: kubernetes/kubernetes pkg/controller/daemon/util AddOrUpdateDaemonPodTolerations
var tolerations = []corev1.Toleration{
	{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
}

// networkUnavailable is tolerated by pods on the node's own network only: one
// of them is what makes the network.
var networkUnavailable = corev1.Toleration{
	Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule,
}

// template is the DaemonSet's pod template with our tolerations.
func template(ds *appsv1.DaemonSet) *corev1.PodTemplateSpec {
	t := ds.Spec.Template.DeepCopy()
	for _, toleration := range tolerations {
		addToleration(&t.Spec, toleration)
	}
	if t.Spec.HostNetwork {
		addToleration(&t.Spec, networkUnavailable)
	}
	return t
}

func addToleration(spec *corev1.PodSpec, add corev1.Toleration) {
	for i := range spec.Tolerations {
		if spec.Tolerations[i].MatchToleration(&add) {
			spec.Tolerations[i] = add // ours has no time limit
			return
		}
	}
	spec.Tolerations = append(spec.Tolerations, add)
}

// newPod makes the pod of one node.
func newPod(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	t := template(ds)
	t.Labels = maps.Clone(t.Labels)
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	t.Labels[hashLabel] = hash
	if generation := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; generation != "" {
		t.Labels[templateGenerationLabel] = generation
	}
	pin(&t.Spec, node)
	return harness.NewPod(ds, client.DaemonSets.GVK(), t)
}

// pin ties a pod to a node by name. It replaces all node selector terms, since
// terms are alternatives: the decision that this node fits them was made here.
func pin(spec *corev1.PodSpec, node string) {
	if spec.Affinity == nil {
		spec.Affinity = &corev1.Affinity{}
	}
	if spec.Affinity.NodeAffinity == nil {
		spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{
				Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
			}},
		}},
	}
}

// nodeOf is the node a pod is on, or is pinned to.
func nodeOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" || pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil ||
		pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return pod.Spec.NodeName
	}
	for _, term := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == metav1.ObjectNameField && field.Operator == corev1.NodeSelectorOpIn && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}
