package ttl

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// steps give the time by the number of nodes. They overlap, so that a cluster
// whose size goes up and down by a few does not write to all its nodes.
//
// Upstream: kubernetes/kubernetes pkg/controller/ttl ttlBoundaries
var steps = []struct{ least, most, seconds int }{
	{0, 100, 0}, {90, 500, 15}, {450, 1000, 30}, {900, 2000, 60}, {1800, math.MaxInt, 300},
}

type controller struct {
	*harness.Scope
	nodes *harness.Store[*corev1.Node]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "ttl-controller", Account: "ttl-controller", Source: "ttl-controller"})
	c := &controller{Scope: s, nodes: harness.StoreOf(s, client.Nodes)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.Watch(loop, c.nodes, func(old, new *corev1.Node) []string {
		if old != nil && new != nil && old != new && annotation(old) == annotation(new) {
			return nil
		}
		return []string{"nodes"} // one more or less may concern all
	})
}

func (c *controller) reconcile(ctx context.Context, _ string) (time.Duration, error) {
	nodes := c.nodes.List()
	return 0, harness.Parallel(len(nodes), func(i int) error {
		want := seconds(annotation(nodes[i]), len(nodes))
		if annotation(nodes[i]) == want {
			return nil
		}
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, nodes[i].UID, corev1.ObjectTTLAnnotationKey, want)
		_, err := c.nodes.Patch(ctx, "", nodes[i].Name, types.StrategicMergePatchType, []byte(patch))
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}

func annotation(node *corev1.Node) string { return node.Annotations[corev1.ObjectTTLAnnotationKey] }

// seconds is what a node should be told in a cluster of so many: what it is
// told now, as long as the step still holds.
func seconds(now string, nodes int) string {
	i := 0
	for j := range steps {
		if strconv.Itoa(steps[j].seconds) == now {
			i = j
		}
	}
	for nodes > steps[i].most {
		i++
	}
	for nodes < steps[i].least {
		i--
	}
	return strconv.Itoa(steps[i].seconds)
}
