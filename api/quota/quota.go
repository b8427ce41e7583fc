// Package quota counts what objects use up of a namespace's ResourceQuota. The
// API server charges by it when something is created, and the controller counts
// by it when something has gone: both must agree to the byte.
//
//	kind                       counts as
//	any                        count/<resource>.<group>: 1
//	Pod, not finished          pods, cpu, memory, requests.*, limits.*
//	Service                    services, services.nodeports, services.loadbalancers
//	PersistentVolumeClaim      persistentvolumeclaims, requests.storage, both also per class
//	ConfigMap, Secret, …       an older name for the same count
//
// Upstream: kubernetes@v1.36 pkg/quota/v1/evaluator/core
package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/api/requests"
)

// CountName is the name under which all objects of a resource are counted.
func CountName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + gr.String())
}

// oldCounts are the names from before every resource could be counted.
var oldCounts = map[schema.GroupResource]corev1.ResourceName{
	{Resource: "configmaps"}:             corev1.ResourceConfigMaps,
	{Resource: "resourcequotas"}:         corev1.ResourceQuotas,
	{Resource: "replicationcontrollers"}: corev1.ResourceReplicationControllers,
	{Resource: "secrets"}:                corev1.ResourceSecrets,
}

var (
	podNames = []corev1.ResourceName{
		corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	}
	serviceNames = []corev1.ResourceName{corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers}
	claimNames   = []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage}
)

const (
	requestsPrefix = corev1.DefaultResourceRequestsPrefix // "requests."
	classSuffix    = ".storageclass.storage.k8s.io/"
)

// Counted are those of a quota's names that objects of a resource use up.
func Counted(gr schema.GroupResource, hard corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for name := range hard {
		if name == CountName(gr) || name == oldCounts[gr] || special(gr, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func special(gr schema.GroupResource, name corev1.ResourceName) bool {
	switch gr {
	case corev1.Resource("pods"):
		return slices.Contains(podNames, name) || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) ||
			strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) || extended(name)
	case corev1.Resource("services"):
		return slices.Contains(serviceNames, name)
	case corev1.Resource("persistentvolumeclaims"):
		_, ofClass, ok := strings.Cut(string(name), classSuffix)
		return slices.Contains(claimNames, name) || ok && slices.Contains(claimNames, corev1.ResourceName(ofClass))
	}
	return false
}

// extended reports a quota's name for a device: requests.example.com/gpu.
func extended(name corev1.ResourceName) bool {
	device, ok := strings.CutPrefix(string(name), requestsPrefix)
	domain, _, named := strings.Cut(device, "/")
	return ok && named && !strings.HasSuffix(domain, "kubernetes.io") || ok && strings.HasPrefix(device, "deviceclass.resource.kubernetes.io/")
}

// Usage is what an object uses up.
func Usage(gr schema.GroupResource, obj any, now time.Time) corev1.ResourceList {
	out := corev1.ResourceList{CountName(gr): one}
	if old, ok := oldCounts[gr]; ok {
		out[old] = one
	}
	switch obj := obj.(type) {
	case *corev1.Pod:
		podUsage(out, obj, now)
	case *corev1.Service:
		serviceUsage(out, obj)
	case *corev1.PersistentVolumeClaim:
		claimUsage(out, obj)
	}
	return out
}

var one = resource.MustParse("1")

// podUsage charges a pod as long as it lives. One that should be gone already,
// but whose node does not answer, must not stand in its successor's way.
func podUsage(out corev1.ResourceList, pod *corev1.Pod, now time.Time) {
	overdue := pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil &&
		now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second))
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded || overdue {
		return
	}
	compute(out, requests.Pod(pod), requests.Limits(pod))
}

// compute writes requests and limits under all the names that a quota may use.
func compute(out, asked, limits corev1.ResourceList) {
	out[corev1.ResourcePods] = one
	for name, value := range asked {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			out[name], out[requestsPrefix+name] = value, value
		case extended(requestsPrefix + name):
			out[requestsPrefix+name] = value
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if value, ok := limits[name]; ok {
			out["limits."+name] = value
		}
	}
}

func serviceUsage(out corev1.ResourceList, service *corev1.Service) {
	ports, balancers := 0, 0
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(service.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers, ports = 1, len(service.Spec.Ports)
		if wants := service.Spec.AllocateLoadBalancerNodePorts; wants != nil && !*wants {
			ports = 0
			for _, port := range service.Spec.Ports {
				if port.NodePort != 0 {
					ports++
				}
			}
		}
	}
	out[corev1.ResourceServices] = one
	out[corev1.ResourceServicesNodePorts] = *resource.NewQuantity(int64(ports), resource.DecimalSI)
	out[corev1.ResourceServicesLoadBalancers] = *resource.NewQuantity(int64(balancers), resource.DecimalSI)
}

func claimUsage(out corev1.ResourceList, claim *corev1.PersistentVolumeClaim) {
	out[corev1.ResourcePersistentVolumeClaims] = one
	class := claim.Annotations[corev1.BetaStorageClassAnnotation]
	if class == "" && claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	storage, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	// An expansion that failed halfway still holds what it got.
	if held, has := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && has && held.Cmp(storage) > 0 {
		storage = held
	}
	if ok {
		storage = storage.DeepCopy()
		storage.RoundUp(0)
		out[corev1.ResourceRequestsStorage] = storage
	}
	if class == "" {
		return
	}
	out[corev1.ResourceName(class+classSuffix)+corev1.ResourcePersistentVolumeClaims] = one
	if ok {
		out[corev1.ResourceName(class+classSuffix)+corev1.ResourceRequestsStorage] = storage
	}
}

// Missing says which of the quota's names a pod must give a value for and does
// not: who limits CPU or memory wants every container to ask for some.
func Missing(pod *corev1.Pod, counted []corev1.ResourceName) error {
	if pod.Spec.Resources != nil && len(pod.Spec.Resources.Requests)+len(pod.Spec.Resources.Limits) > 0 {
		return nil
	}
	missing := map[corev1.ResourceName][]string{}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			has := corev1.ResourceList{}
			compute(has, list[i].Resources.Requests, list[i].Resources.Limits)
			for _, name := range counted {
				if _, ok := has[name]; !ok && mandatory(name) {
					missing[name] = append(missing[name], list[i].Name)
				}
			}
		}
	}
	var parts []string
	for _, name := range counted {
		if names := missing[name]; len(names) > 0 {
			slices.Sort(names)
			parts = append(parts, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(names), ",")))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func mandatory(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
		return true
	}
	return false
}
