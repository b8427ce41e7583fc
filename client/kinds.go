package client

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is what every stored kind is: metadata plus a runtime type. T in this
// package is always a pointer, such as *corev1.Pod.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind names a resource and fixes its Go type.
type Kind[T Object] struct {
	Group, Version, Kind, Plural string
	Namespaced                   bool
}

// GVK returns group, version and kind, as an owner reference needs them.
func (k Kind[T]) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// The kinds that our components read or write.
var (
	Pods                   = Kind[*corev1.Pod]{"", "v1", "Pod", "pods", true}
	Nodes                  = Kind[*corev1.Node]{"", "v1", "Node", "nodes", false}
	Namespaces             = Kind[*corev1.Namespace]{"", "v1", "Namespace", "namespaces", false}
	Services               = Kind[*corev1.Service]{"", "v1", "Service", "services", true}
	Endpoints              = Kind[*corev1.Endpoints]{"", "v1", "Endpoints", "endpoints", true}
	ConfigMaps             = Kind[*corev1.ConfigMap]{"", "v1", "ConfigMap", "configmaps", true}
	Secrets                = Kind[*corev1.Secret]{"", "v1", "Secret", "secrets", true}
	ServiceAccounts        = Kind[*corev1.ServiceAccount]{"", "v1", "ServiceAccount", "serviceaccounts", true}
	Events                 = Kind[*corev1.Event]{"", "v1", "Event", "events", true}
	PersistentVolumes      = Kind[*corev1.PersistentVolume]{"", "v1", "PersistentVolume", "persistentvolumes", false}
	PersistentVolumeClaims = Kind[*corev1.PersistentVolumeClaim]{"", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", true}
	ReplicationControllers = Kind[*corev1.ReplicationController]{"", "v1", "ReplicationController", "replicationcontrollers", true}
	ResourceQuotas         = Kind[*corev1.ResourceQuota]{"", "v1", "ResourceQuota", "resourcequotas", true}

	Deployments         = Kind[*appsv1.Deployment]{"apps", "v1", "Deployment", "deployments", true}
	ReplicaSets         = Kind[*appsv1.ReplicaSet]{"apps", "v1", "ReplicaSet", "replicasets", true}
	DaemonSets          = Kind[*appsv1.DaemonSet]{"apps", "v1", "DaemonSet", "daemonsets", true}
	StatefulSets        = Kind[*appsv1.StatefulSet]{"apps", "v1", "StatefulSet", "statefulsets", true}
	ControllerRevisions = Kind[*appsv1.ControllerRevision]{"apps", "v1", "ControllerRevision", "controllerrevisions", true}

	Jobs                     = Kind[*batchv1.Job]{"batch", "v1", "Job", "jobs", true}
	CronJobs                 = Kind[*batchv1.CronJob]{"batch", "v1", "CronJob", "cronjobs", true}
	HorizontalPodAutoscalers = Kind[*autoscalingv2.HorizontalPodAutoscaler]{"autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", true}
	PodDisruptionBudgets     = Kind[*policyv1.PodDisruptionBudget]{"policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", true}

	CertificateSigningRequests = Kind[*certificatesv1.CertificateSigningRequest]{"certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", false}

	EndpointSlices          = Kind[*discoveryv1.EndpointSlice]{"discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", true}
	Leases                  = Kind[*coordinationv1.Lease]{"coordination.k8s.io", "v1", "Lease", "leases", true}
	PriorityClasses         = Kind[*schedulingv1.PriorityClass]{"scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", false}
	VolumeAttributesClasses = Kind[*storagev1.VolumeAttributesClass]{"storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", false}
	RuntimeClasses          = Kind[*nodev1.RuntimeClass]{"node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", false}
	StorageClasses          = Kind[*storagev1.StorageClass]{"storage.k8s.io", "v1", "StorageClass", "storageclasses", false}
	CSIDrivers              = Kind[*storagev1.CSIDriver]{"storage.k8s.io", "v1", "CSIDriver", "csidrivers", false}
	CSINodes                = Kind[*storagev1.CSINode]{"storage.k8s.io", "v1", "CSINode", "csinodes", false}

	CSIStorageCapacities = Kind[*storagev1.CSIStorageCapacity]{"storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", true}
	VolumeAttachments    = Kind[*storagev1.VolumeAttachment]{"storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", false}

	Roles               = Kind[*rbacv1.Role]{"rbac.authorization.k8s.io", "v1", "Role", "roles", true}
	RoleBindings        = Kind[*rbacv1.RoleBinding]{"rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", true}
	ClusterRoles        = Kind[*rbacv1.ClusterRole]{"rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", false}
	ClusterRoleBindings = Kind[*rbacv1.ClusterRoleBinding]{"rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", false}
)
