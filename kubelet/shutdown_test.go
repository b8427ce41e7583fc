package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/fakecri"
)

// Before the machine goes down pods end by their priority, each within what it
// has; the node says so, and takes no new ones.
func TestShutdownEndsPodsByPriority(t *testing.T) {
	c := newCluster(t)
	c.serviceAccount()
	c.stop()
	down := make(chan struct{})
	c.down = down
	c.cfg.Shutdown = []shutdownGroup{{priority: 0, seconds: 60}, {priority: 1000, seconds: 60}}
	// The runtime's stubborn containers end when their whole grace is over.
	c.runtime.Programs["stubborn:1"] = fakecri.Program{Stubborn: true}
	c.start()
	grace, high := int64(2), int32(1000)
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: high}
	if _, err := client.For(c.client, client.PriorityClasses).Create(t.Context(), class); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"low", "high"} {
		c.create(name, func(p *corev1.Pod) {
			p.Spec.Containers[0].Image, p.Spec.TerminationGracePeriodSeconds = "stubborn:1", &grace
			if name == "high" {
				p.Spec.PriorityClassName = class.Name
			}
		})
		c.eventually(name+" runs", func() error { return running(c.pod(name)) })
	}
	close(down)
	finished := map[string]time.Time{}
	for _, name := range []string{"low", "high"} {
		c.eventually(name+" has ended", func() error {
			pod, err := c.pod(name)
			if err != nil || pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "Terminated" || pod.Status.Message != shutdownText {
				return fmt.Errorf("%v: %s %s %q", err, pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
			}
			if !slices.ContainsFunc(pod.Status.Conditions, func(p corev1.PodCondition) bool {
				return p.Type == corev1.DisruptionTarget && p.Reason == corev1.PodReasonTerminationByKubelet
			}) {
				return fmt.Errorf("conditions %v", pod.Status.Conditions)
			}
			for _, s := range c.runtime.Containers() {
				if s.Labels[labelPodName] == name {
					finished[name] = time.Unix(0, s.FinishedAt)
				}
			}
			return nil
		})
	}
	if !finished["high"].After(finished["low"].Add(time.Duration(grace) * time.Second / 2)) {
		t.Errorf("they ended at %v: the important one should begin when the other has ended", finished)
	}
	c.eventually("the node says so", func() error {
		node, err := client.For(c.client, client.Nodes).Get(t.Context(), "", "node-0")
		if ready := findNodeCondition(&node.Status, corev1.NodeReady); err != nil || ready.Status != corev1.ConditionFalse || !strings.Contains(ready.Message, "node is shutting down") {
			return fmt.Errorf("%v: %v", err, ready)
		}
		return nil
	})
	c.create("late", nil)
	c.eventually("a new pod is refused", func() error {
		pod, err := c.pod("late")
		if err != nil || pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "NodeShutdown" {
			return fmt.Errorf("%v: %s %s", err, pod.Status.Phase, pod.Status.Reason)
		}
		return nil
	})
}
