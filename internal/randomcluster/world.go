package randomcluster

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Config is the schedulers' configuration: a profile for each way to score.
const Config = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
percentageOfNodesToScore: 100
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: MostAllocated
        resources: [{name: cpu, weight: 3}, {name: memory, weight: 1}, {name: example.com/gpu, weight: 5}]
- schedulerName: shaped
  plugins:
    score:
      disabled: [{name: ImageLocality}]
      enabled: [{name: NodeResourcesFit, weight: 5}]
    multiPoint:
      enabled: [{name: TaintToleration, weight: 1}]
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: cpu, weight: 2}, {name: memory, weight: 1}]
        requestedToCapacityRatio:
          shape: [{utilization: 0, score: 2}, {utilization: 60, score: 10}, {utilization: 100, score: 0}]
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 40}
  - name: PodTopologySpread
    args:
      defaultingType: List
      defaultConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway}]
`

// Namespaces are where the pods live. Other has a label that terms select by.
const (
	Home  = "default"
	Other = "other"
)

// What pods choose from.
var (
	apps     = []string{"a", "b", "c", "d"}
	zones    = []string{"east", "west", "north"}
	profiles = []string{"default-scheduler", "default-scheduler", "default-scheduler", "packing", "shaped"}
	// classes are priority classes, by name.
	classes = map[string]int32{"p-10": -10, "p10": 10, "p100": 100, "p1000": 1000, "polite": 500}
	ranks   = []string{"", "", "p-10", "p10", "p10", "p100", "p1000"}
	claims  = []string{"in-east", "in-west", "for-one", "unbound", "unmatched", "missing"}
)

// World is what all clusters have in common. It must be there before a
// scheduler starts: who comes later might be seen too late.
func World() []runtime.Object {
	objects := []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: Other, Labels: map[string]string{"team": "x"}}},
		service("a"), service("c"), replicaSet("b"), replicaSet("c"),
		budget(Home, "a", 0), budget(Home, "b", 1), budget(Home, "d", 2), budget(Other, "a", 0),
	}
	for name, value := range classes {
		class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
		if name == "polite" {
			never := corev1.PreemptNever
			class.PreemptionPolicy = &never
		}
		objects = append(objects, class)
	}
	return append(objects, volumes()...)
}

// service makes pods of an app alike; so does a ReplicaSet.
func service(app string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: Home, Name: app},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": app}}}
}

func replicaSet(app string) *appsv1.ReplicaSet {
	labels := map[string]string{"app": app, "tier": "1"}
	// No replicas: they are made here, by hand.
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: Home, Name: app},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}}}}}
}

func budget(namespace, app string, allowed int32) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: app},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			MaxUnavailable: &intstr.IntOrString{IntVal: allowed}},
		Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed}}
}

// volumes are two that are bound, in zones; one for a single pod; and claims
// that nothing will ever bind.
func volumes() []runtime.Object {
	now, later := storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer
	objects := []runtime.Object{
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: "disk.example.com", VolumeBindingMode: &now},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &later},
		claim("unbound", "now", "", corev1.ReadWriteOnce), claim("unmatched", "later", "", corev1.ReadWriteOnce),
	}
	for name, mode := range map[string]corev1.PersistentVolumeAccessMode{
		"in-east": corev1.ReadWriteMany, "in-west": corev1.ReadWriteMany, "for-one": corev1.ReadWriteOncePod} {
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{StorageClassName: "now",
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{mode},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: name}},
			ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: Home, Name: name}}}
		switch name {
		case "in-east": // the older way to say where
			volume.Labels = map[string]string{corev1.LabelTopologyZone: "east"}
		case "in-west":
			volume.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
				{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"west"}}}}}}}
		}
		objects = append(objects, volume, claim(name, "now", name, mode))
	}
	return objects
}

func claim(name, class, volume string, mode corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: Home, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeName: volume, AccessModes: []corev1.PersistentVolumeAccessMode{mode},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	if volume != "" {
		c.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
	}
	return c
}
