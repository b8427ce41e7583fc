package randomcluster

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bare is a pod that asks for nothing.
func (g *generator) bare(name string) *corev1.Pod {
	// Gone at once when deleted: nobody is there to end it gracefully.
	grace := int64(0)
	token := false
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: Home, Name: name}, Spec: corev1.PodSpec{SchedulerName: "default-scheduler",
		TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &token, Containers: []corev1.Container{{Name: "c", Image: "app:1"}}}}
}

// pod asks for anything.
func (g *generator) pod(name string, nodes int) *corev1.Pod {
	pod := g.bare(name)
	pod.Spec.SchedulerName = pick(g, profiles...)
	pod.Spec.PriorityClassName = pick(g, ranks...)
	if g.one(5) {
		pod.Namespace = Other
	}
	g.resources(pod)
	if g.one(3) {
		pod.Spec.Tolerations = []corev1.Toleration{{Key: pick(g, "hard", "soft", "softer"), Operator: corev1.TolerationOpExists}}
	}
	if g.one(6) {
		pod.Spec.NodeSelector = map[string]string{"disk": pick(g, "ssd", "hdd", "tape")}
	}
	if !g.one(4) {
		app := pick(g, apps...)
		pod.Labels = map[string]string{"app": app, "tier": pick(g, "1", "1", "2")}
		if (app == "b" || app == "c") && pod.Namespace == Home && pod.Labels["tier"] == "1" {
			pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(&appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: app, UID: "x"}},
				appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		}
	}
	affinity := &corev1.Affinity{NodeAffinity: g.nodeAffinity(nodes)}
	if g.one(2) {
		pod.Spec.TopologySpreadConstraints = g.spreads(pod.Labels["app"])
		affinity.PodAffinity, affinity.PodAntiAffinity = g.podAffinity(pod.Labels["app"])
	}
	if affinity.NodeAffinity != nil || affinity.PodAffinity != nil || affinity.PodAntiAffinity != nil {
		pod.Spec.Affinity = affinity
	}
	if pod.Namespace == Home && g.one(12) {
		pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: pick(g, claims...)}}}}
	}
	return pod
}

func (g *generator) resources(pod *corev1.Pod) {
	requests := corev1.ResourceList{}
	if !g.one(4) {
		requests[corev1.ResourceCPU] = resource.MustParse(pick(g, "100m", "250m", "500m", "1", "3"))
	}
	if !g.one(4) {
		requests[corev1.ResourceMemory] = resource.MustParse(pick(g, "64Mi", "500Mi", "1Gi", "3Gi"))
	}
	if g.one(8) {
		requests[corev1.ResourceEphemeralStorage] = resource.MustParse(pick(g, "1Gi", "8Gi"))
	}
	c := &pod.Spec.Containers[0]
	c.Image = pick(g, "app:1", "app:2", "tool")
	c.Resources = corev1.ResourceRequirements{Requests: requests}
	if g.one(10) {
		requests["example.com/gpu"] = resource.MustParse("1")
		c.Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	}
	if g.one(12) {
		port := int32(8000 + g.IntN(2))
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: port, HostIP: pick(g, "", "", "127.0.0.1"), Protocol: pick(g, corev1.ProtocolTCP, corev1.ProtocolUDP)}}
	}
	if g.one(10) {
		pod.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "tool", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(pick(g, "50m", "2"))}}}}
		if g.one(2) {
			always := corev1.ContainerRestartPolicyAlways
			pod.Spec.InitContainers[0].RestartPolicy = &always
		}
	}
}

func (g *generator) nodeAffinity(nodes int) *corev1.NodeAffinity {
	affinity := &corev1.NodeAffinity{}
	switch g.IntN(9) {
	case 0:
		affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cores", Operator: pick(g, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt), Values: []string{"7"}}}}}}
	case 1:
		affinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{
			{Weight: 30, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}}}},
			{Weight: 20, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cores", Operator: corev1.NodeSelectorOpExists}}}}}
	case 2:
		affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{nodeName(g.IntN(nodes + 1))}}}}}}
	case 3:
		affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpNotIn, Values: []string{pick(g, zones...)}}}},
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cores", Operator: corev1.NodeSelectorOpDoesNotExist}}}}}
	default:
		return nil
	}
	return affinity
}

func (g *generator) topology() string {
	return pick(g, corev1.LabelHostname, corev1.LabelTopologyZone, "disk")
}

func (g *generator) alike(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(g, app, "a", "b", "d")}}
}

func (g *generator) spreads(app string) (spreads []corev1.TopologySpreadConstraint) {
	for range g.IntN(5) - 2 {
		c := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + g.IntN(3)), TopologyKey: g.topology(), LabelSelector: g.alike(app),
			WhenUnsatisfiable: pick(g, corev1.ScheduleAnyway, corev1.DoNotSchedule)}
		if c.WhenUnsatisfiable == corev1.DoNotSchedule && g.one(4) {
			domains := int32(1 + g.IntN(4))
			c.MinDomains = &domains
		}
		if g.one(3) {
			policy := pick(g, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			c.NodeAffinityPolicy, c.NodeTaintsPolicy = &policy, &policy
		}
		if g.one(4) {
			c.MatchLabelKeys = []string{"tier"}
		}
		if !slices.ContainsFunc(spreads, func(other corev1.TopologySpreadConstraint) bool {
			return other.TopologyKey == c.TopologyKey && other.WhenUnsatisfiable == c.WhenUnsatisfiable
		}) {
			spreads = append(spreads, c)
		}
	}
	return spreads
}

func (g *generator) podAffinity(app string) (like *corev1.PodAffinity, dislike *corev1.PodAntiAffinity) {
	term := func() corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{TopologyKey: g.topology(), LabelSelector: g.alike(app)}
		switch g.IntN(6) {
		case 0:
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}
		case 1:
			t.Namespaces = []string{Home, Other}
		case 2:
			t.NamespaceSelector = &metav1.LabelSelector{}
		}
		return t
	}
	weighted := func() corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: int32(1 + g.IntN(100)), PodAffinityTerm: term()}
	}
	switch g.IntN(9) {
	case 0:
		like = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term()}}
	case 1, 2:
		dislike = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term()}}
	case 3, 4:
		like = &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{weighted(), weighted()}}
	case 5, 6:
		dislike = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{weighted()}}
	}
	return like, dislike
}
