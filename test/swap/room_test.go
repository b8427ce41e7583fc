package swap

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// TestRoomDecides swaps nothing: each node has a driver and a provisioner of its
// own, and more or less room. A pod goes where there is enough for its claim; one
// for which there is not waits, and goes on when a volume has gone. A claim that
// waits for no pod gets its volume where there is room for it.
func TestRoomDecides(t *testing.T) {
	c := up(t, "--nodes", "3", "--api-port", "26445")
	c.run("", "kubectl", "apply", "-f", "testdata/hostpath-per-node.yaml")
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := c.try("", "kubectl", "get", "pods,pvc,pv,csistoragecapacities,events", "-o", "wide")
			t.Log(out)
		}
	})
	eventually(t, "both nodes' room is published", func(context.Context) (bool, error) {
		out, err := c.try("", "kubectl", "get", "csistoragecapacities", "-o", `jsonpath={range .items[*]}{.storageClassName} {.nodeTopology.matchLabels.topology\.hostpath\.csi/node} {.capacity}{"\n"}{end}`)
		return strings.Contains(out, "late node-1 1Gi\n") && strings.Contains(out, "late node-2 10Gi\n"), fmt.Errorf("%s %v", out, err)
	})
	wants := func(name, class, size string) {
		t.Helper()
		c.apply(fmt.Sprintf(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":%q},"spec":{"storageClassName":%q,"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":%q}}}}`, name, class, size))
		c.apply(fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"c","image":"tinykube.local/pause:3.10"}],
			"volumes":[{"name":"d","persistentVolumeClaim":{"claimName":%q}}]}}`, name, name))
	}
	on := func(name, node string) {
		t.Helper()
		c.run("", "kubectl", "wait", "--for=condition=Ready", "pod/"+name, "--timeout=120s")
		if out := c.run("", "kubectl", "get", "pod", name, "-o", "jsonpath={.spec.nodeName}"); out != node {
			t.Errorf("%s is on %s, want %s", name, out, node)
		}
	}
	wants("first", "late", "5Gi")
	on("first", "node-2")
	wants("second", "late", "8Gi")
	c.waitsForRoom("second")
	c.run("", "kubectl", "delete", "pod,pvc", "first", "--timeout=120s")
	on("second", "node-2")
	wants("third", "at-once", "2Gi") // all that is left there, and more than node-1 has
	on("third", "node-2")
	wants("fourth", "late", "1Gi")
	on("fourth", "node-1")
	t.Log(c.run("", "kubectl", "get", "pods,pvc,csistoragecapacities", "-o", "wide"))

	c.run("", "kubectl", "delete", "pod,pvc", "second", "third", "fourth", "--timeout=120s")
	eventually(t, "each provisioner has deleted its own volumes", func(context.Context) (bool, error) {
		out, err := c.try("", "kubectl", "get", "pv", "-o", "name")
		return err == nil && out == "", fmt.Errorf("%s %v", out, err)
	})
}
