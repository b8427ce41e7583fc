package scheduler

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/client"
	"tinykube/scheduler/framework"
)

// addClasses creates the priority classes low, middle, high and polite.
func (c *cluster) addClasses(api *client.Client) {
	never := corev1.PreemptNever
	for name, class := range map[string]*schedulingv1.PriorityClass{
		"low": {Value: 1}, "middle": {Value: 50}, "high": {Value: 100}, "polite": {Value: 100, PreemptionPolicy: &never}} {
		class.Name = name
		if _, err := client.For(api, client.PriorityClasses).Create(c.t.Context(), class); err != nil {
			c.t.Fatal(err)
		}
	}
}

func ofClass(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.PriorityClassName = name }
}

func asking(cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
}

func told(pod *corev1.Pod, condition corev1.PodConditionType, reason string) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == condition && c.Reason == reason })
}

// Two nodes are full of unimportant pods; those on one are protected by a
// budget. An important pod must drive out two of the others, wait for them to
// go, and get their room, though somebody else asks for it meanwhile.
func TestPreemption(t *testing.T) {
	c := newCluster(t)
	api, err := client.New(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.addClasses(api)
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "guarded"}, Spec: policyv1.PodDisruptionBudgetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}, MaxUnavailable: &intstr.IntOrString{}}}
	if _, err := client.For(api, client.PodDisruptionBudgets).Create(t.Context(), budget); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"guarded", "open"} {
		c.addNode(node, "4")
		for i := range 4 {
			c.addPod(fmt.Sprint(node, i), ofClass("low"), withApp(node), func(p *corev1.Pod) { p.Spec.NodeName = node })
		}
	}
	c.schedule(client.ElectionConfig{})

	c.addPod("polite", ofClass("polite"))
	pod := c.until("polite", "unschedulable", func(p *corev1.Pod) bool { return sentence(p) != "" })
	if got, want := sentence(pod), "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never."; got != want {
		t.Errorf("sentence %q, want %q", got, want)
	}
	if err := c.pods.Delete(t.Context(), "default", "polite", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	c.addPod("important", ofClass("high"), asking("2"))
	pod = c.until("important", "nominated", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName != "" })
	if got := sentence(pod); pod.Status.NominatedNodeName != "open" || got != "0/2 nodes are available: 2 Insufficient cpu." {
		t.Errorf("nominated %s, %q", pod.Status.NominatedNodeName, got)
	}
	victims := c.victims("open", 2)
	for _, victim := range victims {
		if !told(&victim, corev1.DisruptionTarget, corev1.PodReasonPreemptionByScheduler) || *victim.DeletionGracePeriodSeconds != 30 {
			t.Errorf("%s: %+v", victim.Name, victim.Status.Conditions)
		}
		c.expectEvents(victim.Name, fmt.Sprintf("Preempted: Preempted by pod %s on node open", pod.UID))
	}
	// The first victim's room is not enough for the important pod, but would be
	// for this one, which may not have it.
	c.addPod("impatient", ofClass("middle"), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = nil })
	c.until("impatient", "unschedulable", func(p *corev1.Pod) bool { return sentence(p) != "" })
	for _, victim := range victims {
		if err := c.pods.Delete(t.Context(), "default", victim.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
	}
	if pod = c.until("important", "bound", bound); pod.Spec.NodeName != "open" {
		t.Errorf("bound to %s", pod.Spec.NodeName)
	}
	for i := range 4 {
		if pod, err := c.pods.Get(t.Context(), "default", fmt.Sprint("guarded", i)); err != nil || pod.DeletionTimestamp != nil {
			t.Errorf("guarded%d is gone: %v", i, err)
		}
	}
}

// victims waits until so many pods of a node are on their way out.
func (c *cluster) victims(node string, n int) (victims []corev1.Pod) {
	c.t.Helper()
	c.until(node+"0", "among those of which "+fmt.Sprint(n)+" leave", func(*corev1.Pod) bool {
		victims = nil
		for i := range 4 {
			if pod, err := c.pods.Get(c.t.Context(), "default", fmt.Sprint(node, i)); err == nil && pod.DeletionTimestamp != nil {
				victims = append(victims, *pod)
			}
		}
		return len(victims) == n
	})
	return victims
}

// Whoever is at least as important as the pod for which a node is being
// emptied may take the room; others see it taken.
func TestNominatedPodsCount(t *testing.T) {
	s := offline(t)
	s.nodeChanged(nil, testNode("n", "2"))
	nominated := testPod("nominated", withPriority(10), func(p *corev1.Pod) { p.Status.NominatedNodeName = "n" })
	s.podChanged(nil, nominated)
	for _, tt := range []struct {
		name     string
		priority int32
		fits     bool
	}{{"more", 11, true}, {"equal", 10, false}, {"less", 9, false}} {
		pod := testPod(tt.name, withPriority(tt.priority), asking("2"))
		a := newAttempt(s, &framework.QueuedPod{PodInfo: framework.NewPodInfo(pod)})
		if node, _, err := s.choose(a); err != nil || (node == "n") != tt.fits {
			t.Errorf("%s: %q %v", tt.name, node, err)
		}
	}
	// The pod itself is not in its own way, and when it has a node, it is no
	// longer nominated.
	if node, _ := decide(s); node != "n" || len(s.cache.Snapshot().Nominated) != 0 {
		t.Errorf("%q, nominated %v", node, s.cache.Snapshot().Nominated)
	}
}

// A nomination that the watch does not show yet is not forgotten when it shows
// something else.
func TestNominationOutlivesOldNews(t *testing.T) {
	s := offline(t)
	old := testPod("p")
	s.podChanged(nil, old)
	s.cache.Nominate(framework.NewPodInfo(old), "n")
	labelled := testPod("p", withApp("x"))
	s.podChanged(old, labelled)
	if len(s.cache.NominatedTo("n")) != 1 {
		t.Error("forgotten")
	}
	shown := testPod("p", withApp("x"), func(p *corev1.Pod) { p.Status.NominatedNodeName = "n" })
	s.podChanged(labelled, shown)
	s.podChanged(shown, labelled) // somebody took it back
	if len(s.cache.NominatedTo("n")) != 0 {
		t.Error("not taken back")
	}
	s.cache.Nominate(framework.NewPodInfo(old), "n")
	s.podChanged(labelled, nil)
	if len(s.cache.NominatedTo("n")) != 0 {
		t.Error("kept for a pod that is gone")
	}
	s.cache.NoLongerWaits(types.UID("nobody"))
}

func withApp(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
}
