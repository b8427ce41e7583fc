package swap

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"tinykube/internal/reference"
	"tinykube/test/clusters"
)

// TestRealFlanneldManifest applies flannel's own manifest, unedited, to a cluster
// of ours, with the real flanneld and our CNI plugin in the images that it names,
// and goes back, while requests are being answered.
func TestRealFlanneldManifest(t *testing.T) {
	path := clusters.Program(t, "FLANNELD")
	manifest := reference.Path(t, "manifests/flannel/kube-flannel.yml")
	c := up(t)
	c.loadImages(path)
	c.web("web")
	c.reachable("web")
	load := c.startTraffic("web")
	before := c.vxlan()
	// What ours left in the kernel stays while nobody keeps it.
	c.run("", "kubectl", "delete", "namespace", "kube-flannel", "--timeout=120s")
	c.run("", "kubectl", "apply", "-f", manifest)
	c.run("", "kubectl", "rollout", "status", "-n", "kube-flannel", "daemonset", "kube-flannel-ds", "--timeout=180s")
	c.web("made-under-theirs")
	c.reachable("made-under-theirs", "web")
	pods := c.run("", "kubectl", "get", "pods", "-n", "kube-flannel", "-o", "wide")
	if n := strings.Count(pods, "1/1"); n != 2 {
		t.Errorf("%d pods of 2 are ready:\n%s", n, pods)
	}
	t.Logf("%s\n%s", pods, c.run("", "kubectl", "logs", "-n", "kube-flannel", "daemonset/kube-flannel-ds", "-c", "kube-flannel", "--tail=-1"))
	if link := c.onNode0("", "readlink /opt/cni/bin/flannel || cat /etc/cni/net.d/10-flannel.conflist"); !strings.Contains(link, `"0.3.1"`) {
		t.Errorf("the plugin or its configuration is not the manifest's: %s", link)
	}
	if now := c.vxlan(); now != before {
		t.Errorf("before:\n%s\nwith theirs:\n%s", before, now)
	}
	c.run("", "kubectl", "delete", "-f", manifest, "--timeout=120s")
	c.run("", "up")
	c.web("made-under-ours")
	c.reachable("made-under-theirs", "made-under-ours", "web")
	load.end()
	if now := c.vxlan(); now != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, now)
	}
}

// loadImages builds the images that the manifest names and brings them to the nodes.
func (c *clusterUnderTest) loadImages(flanneld string) {
	c.t.Helper()
	dir, checkout := c.t.TempDir(), reference.Checkout(c.t)
	cp := filepath.Join(dir, "cp")
	for _, args := range [][]string{{"build", "-o", cp, "tinykube/test/upstream/cp"},
		{"run", "tinykube/test/upstream/images", "-flanneld", flanneld, "-plugin", filepath.Join(checkout, "bin/payload/cni"), "-cp", cp, dir}} {
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			c.t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	archives, err := filepath.Glob(filepath.Join(dir, "*.tar"))
	if err != nil || len(archives) != 2 {
		c.t.Fatalf("%v %v", archives, err)
	}
	for _, node := range []string{"node-0", "node-1"} {
		c.run("", append([]string{"node", "load", node}, archives...)...)
	}
}

// vxlan is what node-0 knows of the way to node-1.
func (c *clusterUnderTest) vxlan() string {
	return c.onNode0("", "ip route show dev flannel.1; ip neigh show dev flannel.1 nud permanent; bridge fdb show dev flannel.1 | grep dst; ip -d link show flannel.1 | grep -o 'vxlan id .* dstport [0-9]*'")
}

// TestRealPlugins puts the reference CNI plugins in the place of ours on all
// nodes, and back: each takes away what the other has made.
func TestRealPlugins(t *testing.T) {
	folder := os.Getenv("CNI_BIN")
	names := []string{"bridge", "host-local", "loopback", "portmap"}
	for _, name := range names {
		if _, err := exec.LookPath(filepath.Join(folder, name)); err != nil {
			t.Fatalf("$CNI_BIN: give the folder of the reference plugins, for example make smoke-swap CNI_BIN=/opt/cni/bin: %v", err)
		}
	}
	c := up(t)
	c.web("lasting")
	c.reachable("lasting")
	load := c.startTraffic("lasting")
	clean := c.attachments()

	c.hostPort("ours", 18081)
	for _, name := range names { // a rename over our link
		c.install(filepath.Join(folder, name), "/opt/cni/bin")
	}
	c.hostPort("theirs", 18082)
	c.run("", "kubectl", "delete", "pod", "ours-0", "ours-1", "--timeout=120s") // which theirs did not make
	for _, node := range []string{"node-0", "node-1"} {
		for _, name := range names {
			c.run("", "node", "shell", node, "--", "ln", "-sfn", "/opt/tinykube/bin/cni", "/opt/cni/bin/"+name)
		}
	}
	c.hostPort("ours", 18081)
	c.run("", "kubectl", "delete", "pod", "ours-0", "ours-1", "theirs-0", "theirs-1", "--timeout=120s")
	c.reachable("lasting")
	load.end()
	eventually(t, "nothing left of the pods that are gone", func(context.Context) (bool, error) {
		now := c.attachments()
		return now == clean, fmt.Errorf("before:\n%s\nnow:\n%s", clean, now)
	})
}

// hostPort runs a pod with a host port on each node and asks it, from both.
func (c *clusterUnderTest) hostPort(name string, port int) {
	c.t.Helper()
	for i, node := range []string{"node-0", "node-1"} {
		pod := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s-%d"},"spec":{"nodeName":%q,"tolerations":[{"operator":"Exists"}],"terminationGracePeriodSeconds":1,
			"containers":[{"name":"web","image":"tinykube.local/podinfo:6.9.2","ports":[{"containerPort":9898,"hostPort":%d}]}]}}`, name, i, node, port)
		c.run(pod, "kubectl", "apply", "-f", "-")
	}
	c.run("", "kubectl", "wait", "--for=condition=Ready", "pod", name+"-0", name+"-1", "--timeout=120s")
	var nodes corev1.NodeList
	c.get(&nodes, "nodes")
	for _, node := range nodes.Items {
		address := net.JoinHostPort(node.Status.Addresses[0].Address, fmt.Sprint(port))
		for _, from := range []string{"node-0", "node-1"} {
			eventually(c.t, "host port "+address+" from "+from, func(context.Context) (bool, error) {
				err := c.inNode(from, func() error { return request(address) })
				return err == nil, err
			})
		}
	}
	c.t.Logf("%s: host port %d answers on both nodes\n%s", name, port, c.run("", "kubectl", "get", "pods", "-o", "wide"))
}

// attachments are the addresses, veths and rules that each node holds for pods.
func (c *clusterUnderTest) attachments() string {
	var text string
	for _, node := range []string{"node-0", "node-1"} {
		text += node + "\n" + c.run("", "node", "shell", node, "--", "sh", "-c",
			"ls /var/lib/cni/networks/cbr0 | grep '^[0-9]' | wc -l; bridge link show | wc -l; iptables-save -t nat | grep -e CNI-DN -e 'CNI-[0-9a-f]' | grep -v '^:' || true")
	}
	return text
}
