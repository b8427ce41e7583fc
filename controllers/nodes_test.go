package controllers

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// told returns the messages of a reason about one object.
func (c *cluster) told(namespace, name, reason string) (messages []string) {
	for _, e := range list(c, client.Events, namespace) {
		if e.InvolvedObject.Name == name && e.Reason == reason {
			messages = append(messages, e.Message)
		}
	}
	return messages
}

// What is planned for a pod on a tainted node is called off when the taint
// goes, and carried out when it does not.
func TestEvictionCalledOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, quick, "node-0")
		defer c.stop()
		c.start()
		taint := func(taints ...corev1.Taint) {
			change(c, client.Nodes, "", "node-0", func(n *corev1.Node) {
				n.Spec.Taints = append(slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == "mine" }), taints...)
			})
		}
		mine := corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute}
		c.until("the node is ready", time.Minute, func() bool { return ready(c.node("node-0")) == corev1.ConditionTrue })
		spec := template("v1").Spec
		spec.NodeName, spec.Tolerations = "node-0", []corev1.Toleration{{Key: "mine", Operator: corev1.TolerationOpExists, TolerationSeconds: ptr(int64(60))}}
		create(c, client.Pods, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "guest"}, Spec: spec})
		taint(mine)
		time.Sleep(30 * time.Second)
		taint()
		time.Sleep(time.Hour)
		if pod := get(c, client.Pods, "default", "guest"); pod.DeletionTimestamp != nil {
			t.Fatal("the pod was evicted though the taint went")
		}
		tells := func(want ...string) func() bool {
			return func() bool {
				got := c.told("default", "guest", "TaintManagerEviction")
				slices.Sort(got)
				return slices.Equal(got, want)
			}
		}
		const cancelled = "Cancelling deletion of Pod default/guest"
		c.until("that is told", time.Minute, tells(cancelled))
		taint(mine)
		took := c.until("the pod is gone", 2*time.Minute, func() bool { return len(c.pods()) == 0 })
		between(t, "eviction", took, 59*time.Second, 63*time.Second)
		c.until("that is told, too", time.Minute, tells(cancelled, "Marking for deletion Pod default/guest"))
		c.dead["node-0"].Store(true)
		if err := client.For(c.client, client.Nodes).Delete(t.Context(), "", "node-0", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.until("its going is told", time.Minute, func() bool {
			return slices.Equal(c.told("default", "node-0", "RemovingNode"), []string{"Node node-0 event: Removing Node node-0 from Controller"})
		})
	})
}
