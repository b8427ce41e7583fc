package plugins

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/scheduler/framework"
)

// resources reads "cpu=1 memory=2Gi".
func resources(s string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for _, pair := range strings.Fields(s) {
		name, amount, _ := strings.Cut(pair, "=")
		list[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	return list
}

func pod(requests string, change ...func(*corev1.Pod)) *framework.PodInfo {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{Requests: resources(requests)}}}},
	}
	for _, f := range change {
		f(p)
	}
	return framework.NewPodInfo(p)
}

func node(allocatable string, change ...func(*corev1.Node)) *framework.NodeInfo {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: resources(allocatable)}}
	if n.Status.Allocatable.Pods().IsZero() {
		n.Status.Allocatable[corev1.ResourcePods] = resource.MustParse("110")
	}
	for _, f := range change {
		f(n)
	}
	info := &framework.NodeInfo{}
	info.SetNode(n)
	return info
}

// with puts pods on a node.
func with(n *framework.NodeInfo, pods ...*framework.PodInfo) *framework.NodeInfo {
	for _, p := range pods {
		n.AddPod(p)
	}
	return n
}

func taint(key string, effect corev1.TaintEffect) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func tolerate(key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
}

func hostPort(ip string, port int32, protocol corev1.Protocol) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.UID = "other"
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports,
			corev1.ContainerPort{HostIP: ip, HostPort: port, ContainerPort: port, Protocol: protocol})
	}
}

func required(terms ...corev1.NodeSelectorRequirement) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: terms}}}}}
	}
}

// check runs a plugin's PreFilter and Filter as a profile would.
func check(t *testing.T, plugin framework.Plugin, p *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
	t.Helper()
	profile := &framework.Profile{}
	for _, point := range []string{"PreFilter", "Filter"} {
		if framework.Implements(plugin, point) {
			if err := profile.Add(point, plugin, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	snapshot := &framework.Snapshot{Nodes: []*framework.NodeInfo{n}, ByName: map[string]*framework.NodeInfo{n.Node.Name: n}}
	cycle := framework.NewCycle(p, snapshot)
	run, status := profile.RunPreFilter(cycle)
	if status != nil {
		return status
	}
	if run.Nodes != nil && !run.Nodes[n.Node.Name] {
		return run.OtherNodes()
	}
	return run.Check(cycle, n)
}

// made makes a plugin by its row, from YAML-free JSON arguments.
func made(t *testing.T, name, args string) framework.Plugin {
	t.Helper()
	return madeWith(t, name, args, nil)
}

func TestFilters(t *testing.T) {
	const unresolvable, unschedulable = framework.UnschedulableAndUnresolvable, framework.Unschedulable
	onNode := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
				NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
					{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}}}}}}}}
		}
	}
	nodeName := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }
	selector := func(key, value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
	}
	label := func(key, value string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels = map[string]string{key: value} }
	}
	cordon := func(n *corev1.Node) { n.Spec.Unschedulable = true }

	tests := []struct {
		plugin, args string
		name         string
		pod          *framework.PodInfo
		node         *framework.NodeInfo
		code         framework.Code
		reasons      string
	}{
		{"NodeUnschedulable", "", "open", pod(""), node("cpu=1"), 0, ""},
		{"NodeUnschedulable", "", "cordoned", pod(""), node("cpu=1", cordon), unresolvable, "node(s) were unschedulable"},
		{"NodeUnschedulable", "", "cordoned, tolerated", pod("", tolerate(corev1.TaintNodeUnschedulable)), node("cpu=1", cordon), 0, ""},

		{"NodeName", "", "none asked", pod(""), node(""), 0, ""},
		{"NodeName", "", "this one", pod("", nodeName("n1")), node(""), 0, ""},
		{"NodeName", "", "another", pod("", nodeName("n2")), node(""), unresolvable, "node(s) didn't match the requested node name"},

		{"TaintToleration", "", "no taint", pod(""), node(""), 0, ""},
		{"TaintToleration", "", "NoSchedule", pod(""), node("", taint("k", "NoSchedule")), unresolvable, "node(s) had untolerated taint(s)"},
		{"TaintToleration", "", "NoExecute", pod(""), node("", taint("k", "NoExecute")), unresolvable, "node(s) had untolerated taint(s)"},
		{"TaintToleration", "", "PreferNoSchedule is no filter", pod(""), node("", taint("k", "PreferNoSchedule")), 0, ""},
		{"TaintToleration", "", "tolerated", pod("", tolerate("k")), node("", taint("k", "NoSchedule")), 0, ""},
		{"TaintToleration", "", "only one of two tolerated", pod("", tolerate("k")), node("", taint("k", "NoSchedule"), taint("l", "NoSchedule")), unresolvable, "node(s) had untolerated taint(s)"},

		{"NodeAffinity", "", "selector matches", pod("", selector("disk", "ssd")), node("", label("disk", "ssd")), 0, ""},
		{"NodeAffinity", "", "selector does not", pod("", selector("disk", "ssd")), node(""), unresolvable, "node(s) didn't match Pod's node affinity/selector"},
		{"NodeAffinity", "", "affinity does not", pod("", required(corev1.NodeSelectorRequirement{Key: "disk", Operator: "Exists"})), node(""), unresolvable, "node(s) didn't match Pod's node affinity/selector"},
		{"NodeAffinity", "", "a DaemonSet's node", pod("", onNode("n1")), node(""), 0, ""},
		{"NodeAffinity", "", "another DaemonSet pod's node", pod("", onNode("n2")), node(""), unresolvable, "node(s) didn't satisfy plugin(s) [NodeAffinity]"},
		{"NodeAffinity", `{"addedAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"pool","operator":"Exists"}]}]}}}`,
			"the profile demands more", pod(""), node(""), unresolvable, "node(s) didn't match scheduler-enforced node affinity"},

		{"NodePorts", "", "no ports", pod(""), with(node(""), pod("", hostPort("", 80, "TCP"))), 0, ""},
		{"NodePorts", "", "free", pod("", hostPort("", 81, "TCP")), with(node(""), pod("", hostPort("", 80, "TCP"))), 0, ""},
		{"NodePorts", "", "taken", pod("", hostPort("", 80, "TCP")), with(node(""), pod("", hostPort("", 80, ""))), unschedulable, "node(s) didn't have free ports for the requested pod ports"},
		{"NodePorts", "", "other protocol", pod("", hostPort("", 80, "UDP")), with(node(""), pod("", hostPort("", 80, "TCP"))), 0, ""},
		{"NodePorts", "", "other address", pod("", hostPort("127.0.0.1", 80, "TCP")), with(node(""), pod("", hostPort("127.0.0.2", 80, "TCP"))), 0, ""},
		{"NodePorts", "", "any address collides", pod("", hostPort("0.0.0.0", 80, "TCP")), with(node(""), pod("", hostPort("127.0.0.2", 80, "TCP"))), unschedulable, "node(s) didn't have free ports for the requested pod ports"},

		{"NodeResourcesFit", "", "fits exactly", pod("cpu=1 memory=1Gi"), with(node("cpu=2 memory=2Gi"), pod("cpu=1 memory=1Gi")), 0, ""},
		{"NodeResourcesFit", "", "cpu", pod("cpu=1"), with(node("cpu=1500m"), pod("cpu=1")), unschedulable, "Insufficient cpu"},
		{"NodeResourcesFit", "", "more than the node has", pod("cpu=2"), node("cpu=1500m"), unresolvable, "Insufficient cpu"},
		{"NodeResourcesFit", "", "all at once", pod("cpu=1 memory=1Gi ephemeral-storage=1Gi x.io/gpu=1"),
			with(node("cpu=1 memory=1Gi ephemeral-storage=1Gi x.io/gpu=1 pods=1"), pod("cpu=1 memory=1Gi ephemeral-storage=1Gi x.io/gpu=1")),
			unschedulable, "Too many pods, Insufficient cpu, Insufficient memory, Insufficient ephemeral-storage, Insufficient x.io/gpu"},
		{"NodeResourcesFit", "", "nothing asked, node overcommitted", pod(""), with(node("cpu=1"), pod("cpu=2")), 0, ""},
		{"NodeResourcesFit", "", "an unknown resource", pod("x.io/gpu=1"), node("cpu=1"), unresolvable, "Insufficient x.io/gpu"},
		{"NodeResourcesFit", `{"ignoredResources":["x.io/gpu"]}`, "an ignored resource", pod("x.io/gpu=1"), node("cpu=1"), 0, ""},
		{"NodeResourcesFit", `{"ignoredResourceGroups":["x.io"]}`, "an ignored group", pod("x.io/gpu=1"), node("cpu=1"), 0, ""},
	}
	for _, tt := range tests {
		t.Run(tt.plugin+"/"+tt.name, func(t *testing.T) {
			status := check(t, made(t, tt.plugin, tt.args), tt.pod, tt.node)
			code := framework.Success
			if status != nil {
				code = status.Code
			}
			if code != tt.code || status.Message() != tt.reasons {
				t.Errorf("got %d %q, want %d %q", code, status.Message(), tt.code, tt.reasons)
			}
		})
	}
}

func TestSchedulingGates(t *testing.T) {
	gated := pod("", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}, {Name: "b"}} })
	if got, want := (SchedulingGates{}).PreEnqueue(gated.Pod).Message(), "waiting for scheduling gates: [a b]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if status := (SchedulingGates{}).PreEnqueue(pod("").Pod); status != nil {
		t.Errorf("a pod without gates was stopped: %v", status)
	}
}

func TestArgumentErrors(t *testing.T) {
	for args, want := range map[string]string{
		`{"scoringStrategy":{"type":"Fullest"}}`:                                   `scoringStrategy.type: Unsupported value: "Fullest": supported values`,
		`{"scoringStrategi":{}}`:                                                   `unknown field "scoringStrategi"`,
		`{"scoringStrategy":{"resources":[{"name":"cpu","weight":101}]}}`:          "scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not in valid range (0, 100]",
		`{"scoringStrategy":{"type":"RequestedToCapacityRatio"}}`:                  "scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is RequestedToCapacityRatio",
		shape(`{"utilization":10,"score":1},{"utilization":10,"score":2}`):         "shape[1].utilization: Invalid value: 10: values must be sorted in increasing order",
		shape(`{"utilization":0,"score":11}`):                                      "shape[0].score: Invalid value: 11: not in valid range [0, 10]",
		shape(`{"utilization":101,"score":1}`):                                     "shape[0].utilization: Invalid value: 101: not in valid range [0, 100]",
		`{"scoringStrategy":{"resources":[{"weight":1}]}}`:                         "scoringStrategy.resources[0].name: required",
		`{"scoringStrategy":{"resources":[{"name":"cpu","weight":1,"wieght":2}]}}`: `unknown field "scoringStrategy.resources[0].wieght"`,
	} {
		_, err := newFit([]byte(args), framework.Handle{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", args, err, want)
		}
	}
}

func shape(points string) string {
	return fmt.Sprintf(`{"scoringStrategy":{"type":"RequestedToCapacityRatio","requestedToCapacityRatio":{"shape":[%s]}}}`, points)
}
