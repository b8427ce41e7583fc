package hollow

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/reference"
	"tinykube/test/clusters"
)

// TestKwok: the same applications on the nodes of kwok, a fake kubelet that
// others wrote with upstream's own client library, which takes our API server,
// scheduler and controllers for real ones.
func TestKwok(t *testing.T) {
	kwok := clusters.Built(t, "kwok")
	manifests := reference.Path(t, "manifests")
	c := clusters.New(t)
	c.Scheduler()
	c.ControllerManager("")
	c.Start(kwok, "--kubeconfig="+c.Env.Kubeconfig, "--config="+clusters.Built(t, "kwok-stages.yaml"), "--manage-all-nodes=false",
		"--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake", "--cidr=10.0.0.0/16", "--node-lease-duration-seconds=40")
	for i := range 5 {
		plenty := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("110")}
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("kwok-%d", i), Annotations: map[string]string{"kwok.x-k8s.io/node": "fake"}},
			Status:     corev1.NodeStatus{Capacity: plenty, Allocatable: plenty},
		}
		if _, err := client.For(c.Client, client.Nodes).Create(t.Context(), node); err != nil {
			t.Fatal(err)
		}
	}
	c.Provision()
	c.Ready(5)
	applications(c, manifests)
	settled(t, c, "default", "guestbook")
	t.Log("\n" + c.MustKubectl("get", "nodes,statefulsets,deployments,replicationcontrollers", "-A"))

	c.MustKubectl("delete", "namespace", "guestbook", "--wait=false")
	clusters.Eventually(t, "a namespace with pods on kwok's nodes is gone", func(ctx context.Context) (bool, error) {
		list, err := client.For(c.Client, client.Namespaces).List(ctx, "", metav1.ListOptions{FieldSelector: "metadata.name=guestbook"})
		return err == nil && len(list.Items) == 0, err
	})
}
