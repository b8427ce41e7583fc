package randomcluster

import (
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Cluster is one made-up cluster.
type Cluster struct {
	Seed  uint64
	Nodes []*corev1.Node
	// Running pods have a node, Waiting ones want one, in this order.
	Running, Waiting []*corev1.Pod
}

// ProbeLabel is on the last node of a cluster, with its seed. The first waiting
// pod goes there and nowhere else: when it has a node, the scheduler has seen
// all nodes.
const ProbeLabel = "probe"

// waitingPods is how many decisions a cluster is worth.
const waitingPods = 5

// New makes the cluster of a seed.
func New(seed uint64) *Cluster {
	g := &generator{rand.New(rand.NewPCG(36, seed))}
	c := &Cluster{Seed: seed}
	size := 1 + g.IntN(8)
	switch g.IntN(40) {
	case 0:
		size = 50 + g.IntN(51)
	case 1, 2, 3, 4:
		size = 10 + g.IntN(20)
	}
	// Crowded clusters are about preemption.
	crowd := g.IntN(7)
	for i := range size {
		c.Nodes = append(c.Nodes, g.node(i))
	}
	for i := range size * crowd {
		pod := g.pod(fmt.Sprint("r", i), size)
		pod.Spec.NodeName = c.Nodes[g.IntN(size)].Name
		// Whole seconds, all different: who started first must be clear.
		started := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(g.IntN(1000))*time.Hour + time.Duration(i)*time.Second))
		pod.Status.StartTime = &started
		pod.Status.Phase = corev1.PodRunning
		c.Running = append(c.Running, pod)
	}
	probed := c.Nodes[size-1]
	probed.Labels[ProbeLabel] = fmt.Sprint(seed)
	probed.Spec.Taints, probed.Spec.Unschedulable = nil, false
	probed.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("110")
	probe := g.bare("probe")
	probe.Spec.NodeSelector = map[string]string{ProbeLabel: fmt.Sprint(seed)}
	probe.Spec.PriorityClassName = "p1000"
	c.Waiting = append(c.Waiting, probe)
	for i := range waitingPods {
		pod := g.pod(fmt.Sprint("w", i), size)
		if crowd > 2 && !g.one(3) {
			pod.Spec.PriorityClassName = pick(g, "p100", "p100", "p1000", "p1000", "polite")
			pod.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(pick(g, "1", "2", "3"))
		}
		c.Waiting = append(c.Waiting, pod)
	}
	return c
}

// Objects is all that a decision about the waiting pods may depend on.
func (c *Cluster) Objects() []runtime.Object {
	objects := World()
	for _, node := range c.Nodes {
		objects = append(objects, node)
	}
	for _, pod := range c.Running {
		objects = append(objects, Complete(pod))
	}
	return objects
}

// Complete fills in what the API server would: a pod's priority, what it may do
// with it, and a UID.
func Complete(pod *corev1.Pod) *corev1.Pod {
	pod = pod.DeepCopy()
	pod.UID = types.UID(pod.Name)
	priority := classes[pod.Spec.PriorityClassName]
	pod.Spec.Priority = &priority
	policy := corev1.PreemptLowerPriority
	if pod.Spec.PriorityClassName == "polite" {
		policy = corev1.PreemptNever
	}
	pod.Spec.PreemptionPolicy = &policy
	return pod
}

type generator struct{ *rand.Rand }

func pick[T any](g *generator, of ...T) T { return of[g.IntN(len(of))] }

// one says yes once in n times.
func (g *generator) one(n int) bool { return g.IntN(n) == 0 }

// images have a size each: the same wherever they are.
var images = map[string]int64{"app:1": 700 << 20, "app:2": 90 << 20, "tool": 12 << 20}

func (g *generator) node(i int) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
			corev1.LabelHostname: nodeName(i), "disk": pick(g, "ssd", "hdd")}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU:              resource.MustParse(pick(g, "4", "4", "8", "7500m")),
			corev1.ResourceMemory:           resource.MustParse(pick(g, "4Gi", "8Gi", "32Gi", "15555Mi")),
			corev1.ResourceEphemeralStorage: resource.MustParse(pick(g, "10Gi", "100Gi")),
			corev1.ResourcePods:             resource.MustParse(pick(g, "4", "8", "20", "110")),
		}},
	}
	if !g.one(6) {
		node.Labels[corev1.LabelTopologyZone] = pick(g, zones...)
	}
	if g.one(4) {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "hard", Value: "x", Effect: corev1.TaintEffectNoSchedule})
	}
	if g.one(4) {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "soft", Effect: corev1.TaintEffectPreferNoSchedule})
	}
	if g.one(6) {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "softer", Effect: corev1.TaintEffectPreferNoSchedule})
	}
	node.Spec.Unschedulable = g.one(12)
	if g.one(2) {
		node.Labels["cores"] = fmt.Sprint(g.IntN(16))
		node.Status.Allocatable["example.com/gpu"] = resource.MustParse("2")
	}
	for _, name := range []string{"app:1", "app:2", "tool"} {
		if g.one(2) {
			full := name
			if name == "tool" {
				full = "tool:latest"
			}
			node.Status.Images = append(node.Status.Images, corev1.ContainerImage{Names: []string{full}, SizeBytes: images[name]})
		}
	}
	node.Status.Capacity = node.Status.Allocatable
	return node
}

func nodeName(i int) string { return fmt.Sprintf("n%02d", i) }
