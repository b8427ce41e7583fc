package swap

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"

	"tinykube/internal/reference"
	"tinykube/test/clusters"
)

var (
	orders     = flag.Int("orders", 2, "how many of the 120 orders TestStartOrders tries; the first is the worst")
	firstOrder = flag.Int("first-order", 0, "with how many left out before")
)

// The five that a node needs before a name is answered. Each can be started by
// hand at any time, before all others as well: the kubelet is held back by a
// script in its place, the control plane and CoreDNS are files that it reads,
// and kube-proxy and flanneld are programs of the node, as in a cluster without
// DaemonSets. flanneld and CoreDNS reach the API server by its Service.
var starts = map[string]string{
	"kubelet":       "touch /run/start-kubelet",
	"control plane": "mv " + held + "/[ek]*.yaml /etc/kubernetes/manifests/",
	"kube-proxy":    "setsid /opt/tinykube/bin/tinykube kube-proxy --config " + held + "/proxy.conf --hostname-override node-0 >/run/kube-proxy.log 2>&1 &",
	"flannel": "/opt/tinykube/bin/tinykube flanneld install-cni --conf " + held + "/cni-conf.json; setsid /opt/tinykube/bin/tinykube flanneld --kube-subnet-mgr --ip-masq " +
		"--node-name node-0 --kubeconfig-file " + held + "/by-service.conf --net-config-path " + held + "/net-conf.json >/run/flannel.log 2>&1 &",
	"DNS": "mv " + held + "/dns.yaml /etc/kubernetes/manifests/",
}

const held = "/var/lib/tinykube/held"

// TestStartOrders makes names with CoreDNS's own manifest, asks for them, and
// then starts the five in one order after the other, on a node that has lost its
// power. From every order the same cluster comes about, and nobody is
// started twice by hand.
func TestStartOrders(t *testing.T) {
	c := up(t, "--nodes", "1")
	c.run("", "kubectl", "create", "deployment", "web", "--image=tinykube.local/podinfo:6.9.2", "--replicas=2")
	c.run("", "kubectl", "expose", "deployment", "web", "--port=80", "--target-port=9898", "--cluster-ip=10.96.9.9")
	c.run("", "kubectl", "rollout", "status", "deployment", "web", "--timeout=120s")
	c.coreDNSOwnManifest()
	c.names()
	c.holdBack()
	all := permutations("DNS", "flannel", "kube-proxy", "control plane", "kubelet")[*firstOrder:]
	for i, order := range all[:min(*orders, len(all))] {
		// The power goes, with nothing in the folders that starts by itself.
		c.onNode0("", "mv /etc/kubernetes/manifests/*.yaml "+held+"/; rm -rf /etc/cni/net.d/*")
		c.run("", "node", "stop", "node-0")
		c.run("", "node", "start", "node-0")
		eventually(t, "a node without anything", func(context.Context) (bool, error) {
			out, err := c.try("", "node", "shell", "node-0", "--", "sh", "-c", "test ! -e /run/start-kubelet && test -S /run/tinykube/cri.sock")
			return err == nil, fmt.Errorf("%v: %s", err, out)
		})
		if i == 1 {
			t.Run("kubeadm's own manifests", c.asKubeadm)
		}
		begun := time.Now()
		for n, name := range order {
			c.onNode0("", starts[name])
			c.tried(name, order[:n+1])
		}
		c.converged()
		c.controlPlaneReady(begun)
		t.Logf("%s: a name and a Service after %.1f s", strings.Join(order, " → "), time.Since(begun).Seconds())
	}
}

// permutations are all orders: the given one first, then its reverse, and the
// others as chance has it, the same each time.
func permutations(names ...string) [][]string {
	all := [][]string{{}}
	for range names {
		var longer [][]string
		for _, some := range all {
			for _, name := range names {
				if !strings.Contains(strings.Join(some, ","), name) {
					longer = append(longer, append(some[:len(some):len(some)], name))
				}
			}
		}
		all = longer
	}
	last := len(all) - 1 // made in the order of the names
	all[1], all[last] = all[last], all[1]
	rand.New(rand.NewPCG(1, 1)).Shuffle(last-1, func(i, j int) { all[i+2], all[j+2] = all[j+2], all[i+2] })
	return all
}

// holdBack takes everything away that a cluster starts by itself, and leaves it
// where starts finds it.
func (c *clusterUnderTest) holdBack() {
	c.t.Helper()
	keep := func(name, text string) { c.onNode0(text, "mkdir -p "+held+" && cat > "+held+"/"+name) }
	conf := func(namespace, name, key string) string {
		var m corev1.ConfigMap
		c.get(&m, "configmap", "-n", namespace, name)
		return m.Data[key]
	}
	keep("proxy.conf", strings.Replace(conf("kube-system", "kube-proxy", "config.conf"), "/var/lib/kube-proxy/kubeconfig.conf", "/etc/kubernetes/admin.conf", 1))
	keep("cni-conf.json", conf("kube-flannel", "kube-flannel-cfg", "cni-conf.json"))
	keep("net-conf.json", conf("kube-flannel", "kube-flannel-cfg", "net-conf.json"))
	admin := c.onNode0("", "cat /etc/kubernetes/admin.conf")
	keep("by-service.conf", strings.ReplaceAll(admin, "172.30.9.1:6443", "10.96.0.1:443"))
	keep("Corefile", "cluster.local:53 {\n errors\n ready\n kubernetes cluster.local {\n kubeconfig /held/by-service.conf\n }\n}\n")
	keep("dns.yaml", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"dns","namespace":"kube-system","labels":{"k8s-app":"kube-dns","app.kubernetes.io/name":"coredns"}},"spec":{"priorityClassName":"system-node-critical",
		"volumes":[{"name":"held","hostPath":{"path":"`+held+`"}}],"containers":[{"name":"coredns","image":"tinykube.local/coredns:v1.14.2","args":["-conf","/held/Corefile"],
		"volumeMounts":[{"name":"held","mountPath":"/held"}],"readinessProbe":{"httpGet":{"path":"/ready","port":8181},"periodSeconds":1}}]}}`)
	c.onNode0("#!/bin/sh\nuntil [ -e /run/start-kubelet ]; do sleep 0.1; done\nexec /opt/tinykube/bin/tinykube kubelet \"$@\"\n",
		"mkdir -p /var/lib/tinykube/bin && cat > /var/lib/tinykube/bin/kubelet && chmod +x /var/lib/tinykube/bin/kubelet && cp "+held+"/dns.yaml /etc/kubernetes/manifests/")
	c.run("", "kubectl", "delete", "-n", "kube-system", "daemonset/kube-proxy", "deployment/coredns", "--timeout=60s")
	c.run("", "kubectl", "delete", "namespace", "kube-flannel", "--timeout=60s")
}

// asKubeadm replaces the manifests of the control plane, which are held back, by
// those that kubeadm has written for a node of this address. Nothing but the
// image is changed. From then on every order is tried with these.
func (c *clusterUnderTest) asKubeadm(t *testing.T) {
	folder := reference.Path(t, "manifests/kubeadm")
	image := strings.TrimSpace(c.onNode0("", "grep image: "+held+"/etcd.yaml"))
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		raw, err := os.ReadFile(filepath.Join(folder, name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		c.onNode0(regexp.MustCompile(`image: .*`).ReplaceAllString(string(raw), image), "cat > "+held+"/"+name+".yaml")
	}
}

// controlPlaneReady waits until all probes of the static pods have passed, and
// until those that need a lease have taken it anew.
func (c *clusterUnderTest) controlPlaneReady(begun time.Time) {
	c.t.Helper()
	eventually(c.t, "a control plane that is ready", func(context.Context) (bool, error) {
		out, err := c.try("", "kubectl", "get", "pods", "-n", "kube-system", "-l", "tier=control-plane", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].started} {.status.containerStatuses[0].ready}{"\n"}{end}`)
		return err == nil && strings.Count(out, " true true\n") == 4 && strings.Count(out, "\n") == 4, fmt.Errorf("%v: %s", err, out)
	})
	c.t.Log(c.run("", "kubectl", "get", "pods", "-n", "kube-system", "-l", "tier=control-plane", "-o",
		"custom-columns=NAME:.metadata.name,RESTARTS:.status.containerStatuses[0].restartCount,STARTUP AFTER:.spec.containers[0].startupProbe.initialDelaySeconds,COMMAND:.spec.containers[0].command"))
	for _, name := range []string{"kube-controller-manager", "kube-scheduler"} {
		eventually(c.t, "the lease of "+name, func(context.Context) (bool, error) {
			var lease coordinationv1.Lease
			c.get(&lease, "lease", "-n", "kube-system", name)
			return lease.Spec.AcquireTime != nil && lease.Spec.AcquireTime.After(begun), fmt.Errorf("%+v", lease.Spec)
		})
	}
}

// tried waits until what was started has met whatever is missing.
func (c *clusterUnderTest) tried(name string, started []string) {
	c.t.Helper()
	running := strings.Join(started, ",")
	line := map[string]string{"kubelet": "curl -sf http://127.0.0.1:10248/healthz", "kube-proxy": "test -s /run/kube-proxy.log", "flannel": "test -s /run/flannel.log"}[name]
	if strings.Contains(running, "kubelet") && strings.Contains(running, "control plane") {
		line = "curl -skf https://127.0.0.1:6443/readyz"
	}
	if line != "" {
		eventually(c.t, name+" after "+running, func(context.Context) (bool, error) {
			out, err := c.try("", "node", "shell", "node-0", "--", "sh", "-c", line)
			return err == nil, fmt.Errorf("%v: %s", err, out)
		})
	}
}

// converged waits until the node is ready and a name that its DNS answers leads
// to a pod.
func (c *clusterUnderTest) converged() {
	c.t.Helper()
	clusters.Eventually(c.t, "a name, and a Service behind it", func(ctx context.Context) (bool, error) {
		err := lookUp(ctx, c.resolver())
		if err == nil {
			err = c.inNode("node-0", func() error { return request("10.96.9.9:80") })
		}
		if err == nil {
			var node corev1.Node
			c.get(&node, "node", "node-0")
			for _, condition := range node.Status.Conditions {
				if condition.Type == corev1.NodeReady && condition.Status != corev1.ConditionTrue {
					err = fmt.Errorf("node-0: %s", condition.Message)
				}
			}
		}
		if err != nil {
			logs, _ := c.try("", "node", "shell", "node-0", "--", "sh", "-c", "tail -n 3 /run/kube-proxy.log /run/flannel.log /var/log/tinykube/kubelet.log")
			err = fmt.Errorf("%w\n%s", err, logs)
		}
		return err == nil, err
	})
}

func lookUp(ctx context.Context, resolver *net.Resolver) error {
	try, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	addresses, err := resolver.LookupHost(try, "web.default.svc.cluster.local.")
	if err == nil && (len(addresses) != 1 || addresses[0] != "10.96.9.9") {
		err = fmt.Errorf("web is %v", addresses)
	}
	return err
}
