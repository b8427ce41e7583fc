package swap

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
	"tinykube/scheduler"
	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
)

const (
	clusterNodes = 16
	clusterPods  = 120
)

var (
	seed      = flag.Uint64("seed", 36, "seed of the random cluster")
	verbosity = flag.String("their-v", "2", "verbosity of the real scheduler")
)

// TestRealSchedulerDecidesAsOurs lets the real kube-scheduler place random
// pods on random nodes, one after another, and asks our plugins each time: the
// node it chose must be among those we think best, and when it finds none, its
// sentence must begin like ours. (It ends with what its PostFilter plugins
// tried, which are not compared here.)
func TestRealSchedulerDecidesAsOurs(t *testing.T) {
	path := program(t, "KUBE_SCHEDULER")
	server := testenv.Start(t)
	api, err := client.New(server)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "default"}}
	if _, err := client.For(api, client.ServiceAccounts).Create(ctx, account); err != nil {
		t.Fatal(err)
	}
	objects := createSelectors(t, api)
	random := rand.New(rand.NewPCG(1, *seed))
	cache := scheduler.NewCache()
	nodes, pods := client.For(api, client.Nodes), client.For(api, client.Pods)
	for i := range clusterNodes {
		node := randomNode(random, i)
		created, err := nodes.Create(ctx, node)
		if err != nil {
			t.Fatal(err)
		}
		// Admission taints new nodes as not ready; nobody here takes that away.
		created.Spec.Taints = node.Spec.Taints
		if created, err = nodes.Update(ctx, created); err != nil {
			t.Fatal(err)
		}
		created.Status = node.Status
		if created, err = nodes.UpdateStatus(ctx, created); err != nil {
			t.Fatal(err)
		}
		cache.SetNode(created)
	}
	start(t, path, "--kubeconfig="+kubeconfig(t, server), "--leader-elect=true", "--secure-port=0", "-v="+*verbosity)

	profiles, err := config.Profiles(config.Default(), framework.Handle{Objects: objects})
	if err != nil {
		t.Fatal(err)
	}
	placed, refused := 0, 0
	// How often a plugin had more than one opinion, and how often it said no.
	scoredBy, refusedBy := map[string]int{}, map[string]int{}
	for i := range clusterPods {
		pod := randomPod(random, i)
		if i%2 == 1 {
			objects.befriend(random, pod)
		}
		pod, err := pods.Create(ctx, pod)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := scheduler.Explain(profiles[0], cache.Snapshot(), framework.NewPodInfo(pod))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range ours.Nodes {
			for _, verdict := range n.Verdicts {
				if !verdict.IsSuccess() {
					refusedBy[verdict.Plugin]++
				}
			}
		}
		var theirs *corev1.Pod
		eventually(t, "a decision about "+pod.Name, func(ctx context.Context) (bool, error) {
			theirs, err = pods.Get(ctx, pod.Namespace, pod.Name)
			return err == nil && (theirs.Spec.NodeName != "" || sentenceOf(theirs) != ""), err
		})
		if theirs.Spec.NodeName != "" {
			placed++
			for _, s := range ours.Scores {
				if slices.Min(s.Normalized) < slices.Max(s.Normalized) {
					scoredBy[s.Plugin]++
				}
			}
			if !slices.Contains(ours.Best, theirs.Spec.NodeName) {
				t.Errorf("%s: they chose %s, we %v of %v with totals %v", pod.Name, theirs.Spec.NodeName, ours.Best, ours.Feasible, ours.Totals)
			}
			cache.AddPod(theirs)
			continue
		}
		refused++
		// What follows the nodes' reasons is told by PostFilter.
		if their := sentenceOf(theirs); !strings.HasPrefix(their+" ", ours.Message+" ") {
			t.Errorf("%s:\n they say %q\n we say   %q", pod.Name, their, ours.Message)
		}
		// Gone, so that it is not tried again when something changes.
		if err := pods.Delete(ctx, pod.Namespace, pod.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d pods placed, %d refused; scored by %v, refused by %v", placed, refused, scoredBy, refusedBy)
	if placed < clusterPods/3 || refused < clusterPods/20 {
		t.Error("the random cluster tests only one side; change it")
	}
	eventually(t, "events of the real scheduler", func(ctx context.Context) (bool, error) {
		events, err := client.For(api, client.Events).List(ctx, "default", metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		reasons := map[string]bool{}
		for _, e := range events.Items {
			reasons[e.Reason] = true
		}
		return reasons["Scheduled"] && reasons["FailedScheduling"], fmt.Errorf("reasons so far: %v", reasons)
	})
}

// selectors are what makes pods alike: a Service for app=a, a ReplicaSet for
// app=b, both for app=c. Both schedulers see the same.
type selectors struct {
	services   []*corev1.Service
	replicaSet map[string]*appsv1.ReplicaSet
}

func createSelectors(t *testing.T, api *client.Client) *selectors {
	t.Helper()
	s := &selectors{replicaSet: map[string]*appsv1.ReplicaSet{}}
	for _, app := range []string{"a", "c"} {
		service, err := client.For(api, client.Services).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: app},
			Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": app}}})
		if err != nil {
			t.Fatal(err)
		}
		s.services = append(s.services, service)
	}
	for _, app := range []string{"b", "c"} {
		labels := map[string]string{"app": app, "tier": "1"}
		// No replicas: they are made here, by hand.
		set, err := client.For(api, client.ReplicaSets).Create(t.Context(), &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: app},
			Spec: appsv1.ReplicaSetSpec{Replicas: new(int32), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}}}}})
		if err != nil {
			t.Fatal(err)
		}
		s.replicaSet[app] = set
	}
	return s
}

func (s *selectors) NamespaceLabels(name string) map[string]string {
	return map[string]string{corev1.LabelMetadataName: name}
}

func (s *selectors) Services(string) []*corev1.Service { return s.services }

func (s *selectors) Selector(_ string, owner *metav1.OwnerReference) *metav1.LabelSelector {
	return s.replicaSet[owner.Name].Spec.Selector
}

// befriend gives a pod labels, an owner, constraints and terms, at random.
func (s *selectors) befriend(random *rand.Rand, pod *corev1.Pod) {
	app := pick(random, "a", "b", "c", "d")
	pod.Labels = map[string]string{"app": app, "tier": pick(random, "1", "1", "2")}
	if set := s.replicaSet[app]; set != nil && pod.Labels["tier"] == "1" {
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
	}
	alike := func() *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(random, app, "a", "b", "d")}}
	}
	key := func() string { return pick(random, corev1.LabelHostname, corev1.LabelTopologyZone, "disk") }
	for range random.IntN(6) - 3 {
		c := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + random.IntN(3)), TopologyKey: key(), LabelSelector: alike(),
			WhenUnsatisfiable: pick(random, corev1.ScheduleAnyway, corev1.DoNotSchedule)}
		if c.WhenUnsatisfiable == corev1.DoNotSchedule && random.IntN(4) == 0 {
			domains := int32(1 + random.IntN(4))
			c.MinDomains = &domains
		}
		if random.IntN(3) == 0 {
			policy := pick(random, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			c.NodeAffinityPolicy, c.NodeTaintsPolicy = &policy, &policy
		}
		if random.IntN(4) == 0 {
			c.MatchLabelKeys = []string{"tier"}
		}
		if !slices.ContainsFunc(pod.Spec.TopologySpreadConstraints, func(other corev1.TopologySpreadConstraint) bool {
			return other.TopologyKey == c.TopologyKey && other.WhenUnsatisfiable == c.WhenUnsatisfiable
		}) {
			pod.Spec.TopologySpreadConstraints = append(pod.Spec.TopologySpreadConstraints, c)
		}
	}
	term := func() corev1.PodAffinityTerm {
		t := corev1.PodAffinityTerm{TopologyKey: key(), LabelSelector: alike()}
		if random.IntN(4) == 0 {
			t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: pick(random, "default", "kube-system")}}
		}
		return t
	}
	weighted := func() corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: int32(1 + random.IntN(100)), PodAffinityTerm: term()}
	}
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	like, dislike := &corev1.PodAffinity{}, &corev1.PodAntiAffinity{}
	pod.Spec.Affinity.PodAffinity, pod.Spec.Affinity.PodAntiAffinity = like, dislike
	switch random.IntN(9) {
	case 0:
		like.RequiredDuringSchedulingIgnoredDuringExecution = append(like.RequiredDuringSchedulingIgnoredDuringExecution, term())
	case 1:
		dislike.RequiredDuringSchedulingIgnoredDuringExecution = append(dislike.RequiredDuringSchedulingIgnoredDuringExecution, term())
	case 2, 3:
		like.PreferredDuringSchedulingIgnoredDuringExecution = append(like.PreferredDuringSchedulingIgnoredDuringExecution, weighted(), weighted())
	case 4, 5:
		dislike.PreferredDuringSchedulingIgnoredDuringExecution = append(dislike.PreferredDuringSchedulingIgnoredDuringExecution, weighted())
	}
}

func sentenceOf(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message
		}
	}
	return ""
}

func pick[T any](random *rand.Rand, of ...T) T { return of[random.IntN(len(of))] }

func randomNode(random *rand.Rand, i int) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%02d", i), Labels: map[string]string{
			"kubernetes.io/hostname": fmt.Sprintf("n%02d", i), "disk": pick(random, "ssd", "hdd")}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse(pick(random, "4", "8", "16", "7500m")),
			corev1.ResourceMemory: resource.MustParse(pick(random, "8Gi", "16Gi", "32Gi", "15555Mi")),
			corev1.ResourcePods:   resource.MustParse(pick(random, "8", "20", "110")),
		}},
	}
	if random.IntN(6) > 0 {
		node.Labels[corev1.LabelTopologyZone] = pick(random, "east", "west", "north")
	}
	if random.IntN(4) == 0 {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "hard", Value: "x", Effect: corev1.TaintEffectNoSchedule})
	}
	if random.IntN(4) == 0 {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: "soft", Effect: corev1.TaintEffectPreferNoSchedule})
	}
	if random.IntN(12) == 0 {
		node.Spec.Unschedulable = true
	}
	if random.IntN(2) == 0 {
		node.Labels["cores"] = fmt.Sprint(random.IntN(16))
		node.Status.Allocatable["example.com/gpu"] = resource.MustParse("2")
		node.Status.Images = []corev1.ContainerImage{{Names: []string{"app:1"}, SizeBytes: 700 << 20}}
	}
	node.Status.Capacity = node.Status.Allocatable
	return node
}

func randomPod(random *rand.Rand, i int) *corev1.Pod {
	list := corev1.ResourceList{}
	if random.IntN(4) > 0 {
		list[corev1.ResourceCPU] = resource.MustParse(pick(random, "100m", "250m", "500m", "1", "3"))
	}
	if random.IntN(4) > 0 {
		list[corev1.ResourceMemory] = resource.MustParse(pick(random, "64Mi", "500Mi", "1Gi", "3Gi"))
	}
	if random.IntN(10) == 0 {
		list["example.com/gpu"] = resource.MustParse("1")
	}
	c := corev1.Container{Name: "c", Image: "app:1", Resources: corev1.ResourceRequirements{Requests: list, Limits: corev1.ResourceList{}}}
	if gpu, ok := list["example.com/gpu"]; ok {
		c.Resources.Limits["example.com/gpu"] = gpu
	}
	if random.IntN(12) == 0 {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(8000 + random.IntN(2))}}
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p%03d", i)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{c}},
	}
	if random.IntN(3) == 0 {
		pod.Spec.Tolerations = []corev1.Toleration{{Key: pick(random, "hard", "soft"), Operator: corev1.TolerationOpExists}}
	}
	if random.IntN(5) == 0 {
		pod.Spec.NodeSelector = map[string]string{"disk": pick(random, "ssd", "hdd", "tape")}
	}
	affinity := &corev1.NodeAffinity{}
	switch random.IntN(6) {
	case 0:
		affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cores", Operator: pick(random, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt), Values: []string{"7"}}}}}}
	case 1:
		affinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.PreferredSchedulingTerm{
			{Weight: 30, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"ssd"}}}}},
			{Weight: 20, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "cores", Operator: corev1.NodeSelectorOpExists}}}}}
	case 2:
		affinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{fmt.Sprintf("n%02d", random.IntN(clusterNodes+1))}}}}}}
	default:
		return pod
	}
	pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: affinity}
	return pod
}
