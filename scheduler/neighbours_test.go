package scheduler

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// Like pods spread over the nodes of a real API server's cluster. One node is
// nearly full, so that free room alone would put everything on the other.

func lopsidedCluster(t *testing.T) *cluster {
	c := newCluster(t)
	c.addNode("busy", "10")
	c.addNode("free", "10")
	c.addPod("ballast", onNode("busy"))
	return c
}

func tagged(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": app}
		p.Spec.Containers[0].Resources.Requests = nil
	}
}

func refusing(app string, required bool) func(*corev1.Pod) {
	term := corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
	anti := &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}
	if !required {
		// As CoreDNS's Deployment has it.
		anti = &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: term}}}
	}
	return func(p *corev1.Pod) { p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: anti} }
}

// expectSpread waits for both replicas and wants them on different nodes.
func (c *cluster) expectSpread(app string) {
	c.t.Helper()
	first := c.until(app+"-0", "bound", bound).Spec.NodeName
	if second := c.until(app+"-1", "bound", bound).Spec.NodeName; first == second {
		c.t.Errorf("both replicas of %s are on %s", app, first)
	}
}

func TestReplicasSpreadByDefault(t *testing.T) {
	c := lopsidedCluster(t)
	api, err := client.New(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, web := context.Background(), map[string]string{"app": "web"}
	if _, err := client.For(api, client.Services).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: web}}); err != nil {
		t.Fatal(err)
	}
	owner, err := client.For(api, client.ReplicaSets).Create(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app:1"}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		c.addPod(fmt.Sprint("web-", i), tagged("web"), func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}
		})
	}
	c.schedule(client.ElectionConfig{})
	c.expectSpread("web")
}

func TestAntiAffinity(t *testing.T) {
	c := lopsidedCluster(t)
	c.schedule(client.ElectionConfig{})
	for i := range 2 {
		c.addPod(fmt.Sprint("dns-", i), tagged("dns"), refusing("dns", false))
	}
	c.expectSpread("dns")

	for i := range 2 {
		c.addPod(fmt.Sprint("db-", i), tagged("db"), refusing("db", true))
	}
	c.expectSpread("db")
	c.addPod("db-2", tagged("db"), refusing("db", true))
	pod := c.until("db-2", "unschedulable", func(p *corev1.Pod) bool { return sentence(p) != "" })
	if got, want := sentence(pod), "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."+noVictims; got != want {
		t.Errorf("sentence %q, want %q", got, want)
	}
	// One that refuses nobody, but is refused.
	c.addPod("intruder", tagged("db"))
	pod = c.until("intruder", "unschedulable", func(p *corev1.Pod) bool { return sentence(p) != "" })
	if got, want := sentence(pod), "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."+noVictims; got != want {
		t.Errorf("sentence %q, want %q", got, want)
	}
	if err := c.pods.Delete(t.Context(), "default", "intruder", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	// A replica that goes makes room at once.
	gone := c.until("db-0", "bound", bound)
	if err := c.pods.Delete(t.Context(), "default", "db-0", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	if pod = c.until("db-2", "bound", bound); pod.Spec.NodeName != gone.Spec.NodeName {
		t.Errorf("db-2 is on %s", pod.Spec.NodeName)
	}
}

const noVictims = " no new claims to deallocate, preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
