package framework

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"tinykube/api/requests"
)

// What a container that requests nothing is assumed to use when nodes are
// scored (never when they are filtered), so that such pods spread too.
//
// Upstream: kubernetes pkg/scheduler/util DefaultMilliCPURequest, DefaultMemoryRequest
const (
	assumedMilliCPU = 100
	assumedMemory   = 200 << 20
)

var assumedRequests = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(assumedMilliCPU, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(assumedMemory, resource.BinarySI),
}

// Resources is a ResourceList as plain integers: CPU in thousandths, all else
// in units. Filters compare these for every node, so no Quantity appears here.
type Resources struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	// Pods counts pods: what a node allows, not what a pod asks.
	Pods int64
	// Scalar holds extended resources and huge pages; nil when there are none.
	Scalar map[corev1.ResourceName]int64
}

// NewResources converts a list.
func NewResources(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			r.addScalar(name, q.Value())
		}
	}
	return r
}

func (r *Resources) addScalar(name corev1.ResourceName, amount int64) {
	if r.Scalar == nil {
		r.Scalar = map[corev1.ResourceName]int64{}
	}
	r.Scalar[name] += amount
}

// Get returns the amount of one resource.
func (r *Resources) Get(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.MilliCPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.EphemeralStorage
	case corev1.ResourcePods:
		return r.Pods
	}
	return r.Scalar[name]
}

// add adds sign times the other; sign is +1 or -1.
func (r *Resources) add(other *Resources, sign int64) {
	r.MilliCPU += sign * other.MilliCPU
	r.Memory += sign * other.Memory
	r.EphemeralStorage += sign * other.EphemeralStorage
	r.Pods += sign * other.Pods
	for name, amount := range other.Scalar {
		r.addScalar(name, sign*amount)
	}
}

func (r Resources) clone() Resources {
	if r.Scalar != nil {
		scalar := make(map[corev1.ResourceName]int64, len(r.Scalar))
		for name, amount := range r.Scalar {
			scalar[name] = amount
		}
		r.Scalar = scalar
	}
	return r
}

// PodInfo is a pod and what is computed from it once instead of per node.
type PodInfo struct {
	*corev1.Pod
	// Requests is what filters count, Assumed what scores count.
	Requests, Assumed Resources
	// Ports are the host ports it needs, which is none for most pods.
	Ports []HostPort
	// Affinity is about other pods; nil for most.
	Affinity *PodAffinity
}

// NewPodInfo computes the rest from a pod, which must not change afterwards.
func NewPodInfo(pod *corev1.Pod) *PodInfo {
	return &PodInfo{
		Pod:      pod,
		Requests: NewResources(requests.Pod(pod)),
		Assumed:  NewResources(requests.PodAssuming(pod, assumedRequests)),
		Ports:    HostPorts(pod),
		Affinity: NewPodAffinity(pod),
	}
}

// HostPort is a port that a pod takes on its node.
type HostPort struct {
	IP       string
	Protocol corev1.Protocol
	Port     int32
}

// anyAddress is what an absent hostIP means; it collides with every address.
const anyAddress = "0.0.0.0"

// Conflicts says whether two pods cannot have these two ports on one node.
func (p HostPort) Conflicts(other HostPort) bool {
	return p.Port == other.Port && p.Protocol == other.Protocol &&
		(p.IP == other.IP || p.IP == anyAddress || other.IP == anyAddress)
}

// HostPorts lists the ports a pod takes on its node.
func HostPorts(pod *corev1.Pod) []HostPort {
	var ports []HostPort
	collect := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := HostPort{IP: p.HostIP, Protocol: p.Protocol, Port: p.HostPort}
			if port.IP == "" {
				port.IP = anyAddress
			}
			if port.Protocol == "" {
				port.Protocol = corev1.ProtocolTCP
			}
			ports = append(ports, port)
		}
	}
	for i := range pod.Spec.Containers {
		collect(&pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if requests.IsSidecar(&pod.Spec.InitContainers[i]) {
			collect(&pod.Spec.InitContainers[i])
		}
	}
	return ports
}

// NodeInfo is a node as a decision sees it: the object, the pods on it (those
// the watch reported and those we only assume), and sums over them.
//
// Invariant: what follows Pods is sums over Pods and selections of them, always.
type NodeInfo struct {
	// Node is nil while pods are known to be there but the node is not.
	Node        *corev1.Node
	Allocatable Resources
	// Images maps each name of an image on the node to its size in bytes.
	Images map[string]int64

	Pods               []*PodInfo
	Requested, Assumed Resources
	// Ports lists every taken host port. A list is enough: few pods have any.
	Ports []HostPort
	// WithAffinity are the pods that have any, WithAntiAffinity those that
	// refuse neighbours.
	WithAffinity, WithAntiAffinity []*PodInfo
}

// SetNode takes over the object's facts.
func (n *NodeInfo) SetNode(node *corev1.Node) {
	n.Node = node
	n.Allocatable = NewResources(node.Status.Allocatable)
	n.Images = nil
	if len(node.Status.Images) > 0 {
		n.Images = make(map[string]int64, len(node.Status.Images))
		for _, image := range node.Status.Images {
			for _, name := range image.Names {
				n.Images[name] = image.SizeBytes
			}
		}
	}
}

// AddPod adds a pod and its share to the sums.
func (n *NodeInfo) AddPod(pod *PodInfo) {
	n.Pods = append(n.Pods, pod)
	n.count(pod, +1)
	n.Ports = append(n.Ports, pod.Ports...)
	if pod.Affinity == nil {
		return
	}
	n.WithAffinity = append(n.WithAffinity, pod)
	if len(pod.Affinity.AntiRequired) > 0 {
		n.WithAntiAffinity = append(n.WithAntiAffinity, pod)
	}
}

// RemovePod takes the pod with this UID away again, if it is there.
func (n *NodeInfo) RemovePod(pod *corev1.Pod) bool {
	i := slices.IndexFunc(n.Pods, func(p *PodInfo) bool { return p.UID == pod.UID })
	if i < 0 {
		return false
	}
	gone := n.Pods[i]
	last := len(n.Pods) - 1
	n.Pods[i], n.Pods[last] = n.Pods[last], nil
	n.Pods = n.Pods[:last]
	n.count(gone, -1)
	isGone := func(p *PodInfo) bool { return p == gone }
	n.WithAffinity = slices.DeleteFunc(n.WithAffinity, isGone)
	n.WithAntiAffinity = slices.DeleteFunc(n.WithAntiAffinity, isGone)
	for _, port := range gone.Ports {
		if j := slices.Index(n.Ports, port); j >= 0 {
			n.Ports = slices.Delete(n.Ports, j, j+1)
		}
	}
	return true
}

func (n *NodeInfo) count(pod *PodInfo, sign int64) {
	n.Requested.add(&pod.Requests, sign)
	n.Assumed.add(&pod.Assumed, sign)
}

// Clone copies everything that AddPod and RemovePod change. The objects
// themselves are shared, since nobody changes those.
func (n *NodeInfo) Clone() *NodeInfo {
	c := *n
	c.Pods = slices.Clone(n.Pods)
	c.Requested = n.Requested.clone()
	c.Assumed = n.Assumed.clone()
	c.Ports = slices.Clone(n.Ports)
	c.WithAffinity = slices.Clone(n.WithAffinity)
	c.WithAntiAffinity = slices.Clone(n.WithAntiAffinity)
	return &c
}

// Snapshot is all nodes at one moment; it does not change during a cycle.
type Snapshot struct {
	// Nodes in a stable order, so that a search can go on where the last ended.
	Nodes  []*NodeInfo
	ByName map[string]*NodeInfo
	// WithAffinity are the nodes with pods that have any, WithAntiAffinity
	// those with pods that refuse neighbours: usually few or none, so that
	// nobody needs to search all nodes for them.
	WithAffinity, WithAntiAffinity []*NodeInfo
	// Nominated are the pods which wait for a node that is being emptied for
	// them, by its name.
	Nominated map[string][]*PodInfo
	// ImageNodes counts the nodes that have an image, by its name.
	ImageNodes map[string]int
}

// ListAffinity makes the lists of nodes whose pods care about each other.
func (s *Snapshot) ListAffinity() {
	s.WithAffinity, s.WithAntiAffinity = s.WithAffinity[:0], s.WithAntiAffinity[:0]
	for _, node := range s.Nodes {
		if len(node.WithAffinity) > 0 {
			s.WithAffinity = append(s.WithAffinity, node)
		}
		if len(node.WithAntiAffinity) > 0 {
			s.WithAntiAffinity = append(s.WithAntiAffinity, node)
		}
	}
}
