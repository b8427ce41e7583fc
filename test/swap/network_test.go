package swap

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"tinykube/test/clusters"
)

// The network's programs are swapped while requests are being answered. Nothing
// may fail or hang: rules, routes and entries stay while their keeper is away.

// TestRealKubeProxy puts a real kube-proxy in the place of ours, on all nodes,
// and back, in both modes that it has with us.
func TestRealKubeProxy(t *testing.T) {
	path := clusters.Program(t, "KUBE_PROXY")
	for _, mode := range []string{"iptables", "nftables"} {
		t.Run(mode, func(t *testing.T) {
			c := up(t, "--proxy-mode", mode)
			c.unlimitedConntrack()
			c.web("web")
			c.reachable("web")
			ours := c.daemonSet("kube-system", "kube-proxy")
			before := c.rules(mode)
			load := c.startTraffic("web")
			c.useDaemonSet(realProgram(c, ours, path), `"Version info"`)
			c.web("made-under-theirs")
			c.reachable("made-under-theirs")
			c.run("", "kubectl", "delete", "service", "web2")
			c.useDaemonSet(ours, "Rules are up to date")
			c.web("made-under-ours")
			c.reachable("made-under-theirs", "made-under-ours", "web")
			load.end()
			c.run("", "kubectl", "delete", "service,deployment", "made-under-theirs", "made-under-ours")
			c.run("", "kubectl", "expose", "deployment", "web", "--name=web2", "--port=80", "--target-port=9898", "--cluster-ip=10.96.9.9")
			eventually(t, "the rules that were there before", func(context.Context) (bool, error) {
				after := c.rules(mode)
				return after == before, fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
			})
		})
	}
}

// unlimitedConntrack tells the proxies to leave the size and timeouts of the
// machine's connection tracking alone: a node of namespaces may not set them,
// and the real program ends when it cannot.
func (c *clusterUnderTest) unlimitedConntrack() {
	var config corev1.ConfigMap
	c.get(&config, "configmap", "-n", "kube-system", "kube-proxy")
	if !strings.Contains(config.Data["config.conf"], "conntrack:") {
		config.Data["config.conf"] += "conntrack:\n  maxPerCore: 0\n  min: 0\n  tcpEstablishedTimeout: 0s\n  tcpCloseWaitTimeout: 0s\n"
		c.replace(config)
	}
}

// web runs podinfo on both nodes behind two Services, the second of which
// always has the same address.
func (c *clusterUnderTest) web(name string) {
	c.t.Helper()
	c.run("", "kubectl", "create", "deployment", name, "--image=tinykube.local/podinfo:6.9.2", "--replicas=2")
	c.run("", "kubectl", "expose", "deployment", name, "--type=NodePort", "--port=80", "--target-port=9898")
	if name == "web" {
		c.run("", "kubectl", "expose", "deployment", "web", "--name=web2", "--port=80", "--target-port=9898", "--cluster-ip=10.96.9.9")
	}
	c.run("", "kubectl", "rollout", "status", "deployment", name, "--timeout=120s")
}

// addresses are where a Service answers: its cluster IP, and the node port of
// each node.
func (c *clusterUnderTest) addresses(service string) []string {
	var s corev1.Service
	c.get(&s, "service", service)
	list := []string{net.JoinHostPort(s.Spec.ClusterIP, "80")}
	var nodes corev1.NodeList
	c.get(&nodes, "nodes")
	for _, n := range nodes.Items {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				list = append(list, net.JoinHostPort(a.Address, fmt.Sprint(s.Spec.Ports[0].NodePort)))
			}
		}
	}
	return list
}

// reachable waits until the Services answer at each address, from each node.
func (c *clusterUnderTest) reachable(services ...string) {
	c.t.Helper()
	for _, service := range services {
		for _, address := range c.addresses(service) {
			for _, node := range []string{"node-0", "node-1"} {
				eventually(c.t, service+" at "+address+" from "+node, func(context.Context) (bool, error) {
					err := c.inNode(node, func() error { return request(address) })
					return err == nil, err
				})
			}
		}
	}
}

// inNode runs fn on a thread in the node's network namespace; the thread dies.
func (c *clusterUnderTest) inNode(node string, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			text, err := os.ReadFile(filepath.Join(c.dir, "nodes", node, "pid"))
			if err != nil {
				return err
			}
			pid, _, _ := strings.Cut(string(text), " ")
			namespace, err := os.Open("/proc/" + pid + "/ns/net")
			if err != nil {
				return err
			}
			defer namespace.Close()
			if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return fn()
		}()
	}()
	return <-done
}

// hanging is how long a request may take before it counts as failed; a lost SYN
// alone costs a second.
const hanging = 5 * time.Second

// request opens a connection, asks, and reads an answer.
func request(address string) error {
	conn, err := net.DialTimeout("tcp", address, hanging)
	if err != nil {
		return err
	}
	defer conn.Close()
	return ask(conn, bufio.NewReader(conn))
}

func ask(conn net.Conn, answers *bufio.Reader) error {
	_ = conn.SetDeadline(time.Now().Add(hanging))
	if _, err := fmt.Fprint(conn, "GET /healthz HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return err
	}
	length := 0
	for {
		line, err := answers.ReadString('\n')
		if err != nil {
			return err
		}
		_, _ = fmt.Sscanf(line, "Content-Length: %d", &length)
		if line == "\r\n" {
			_, err := answers.Discard(length)
			return err
		}
	}
}

// traffic asks without end: at each address by new connections, from both
// nodes, and over one connection that stays open.
type traffic struct {
	t          *testing.T
	stop       context.CancelFunc
	group      sync.WaitGroup
	ok, failed atomic.Int64
	longest    atomic.Int64
}

func (c *clusterUnderTest) startTraffic(service string) *traffic {
	ctx, cancel := context.WithCancel(context.Background())
	l := &traffic{t: c.t, stop: cancel}
	run := func(what, node string, once func() error) {
		l.group.Go(func() {
			_ = c.inNode(node, func() error {
				for ctx.Err() == nil {
					start := time.Now()
					if err := once(); err != nil {
						l.failed.Add(1)
						c.t.Errorf("%s from %s: %v after %v", what, node, err, time.Since(start))
					} else {
						l.ok.Add(1)
					}
					l.longest.Store(max(l.longest.Load(), int64(time.Since(start))))
					time.Sleep(20 * time.Millisecond)
				}
				return nil
			})
		})
	}
	for i, address := range c.addresses(service) {
		for _, node := range []string{"node-0", "node-1"} {
			run(address, node, func() error { return request(address) })
		}
		if i > 0 {
			continue
		}
		var conn net.Conn
		var answers *bufio.Reader
		run("one connection to "+address, "node-1", func() (err error) {
			if conn == nil {
				if conn, err = net.DialTimeout("tcp", address, hanging); err != nil {
					return err
				}
				answers = bufio.NewReader(conn)
			}
			return ask(conn, answers)
		})
	}
	return l
}

func (l *traffic) end() {
	l.t.Helper()
	l.stop()
	l.group.Wait()
	l.t.Logf("%d requests were answered, the longest after %v; %d failed", l.ok.Load(), time.Duration(l.longest.Load()).Round(time.Millisecond), l.failed.Load())
	if l.ok.Load() == 0 {
		l.t.Error("nothing was asked")
	}
}

// get reads an object by kubectl.
func (c *clusterUnderTest) get(into any, args ...string) {
	c.t.Helper()
	text := c.run("", append(append([]string{"kubectl", "get"}, args...), "-o", "json")...)
	if err := json.Unmarshal([]byte(text), into); err != nil {
		c.t.Fatal(err)
	}
}

func (c *clusterUnderTest) replace(object any) {
	c.t.Helper()
	text, err := json.Marshal(object)
	if err != nil {
		c.t.Fatal(err)
	}
	c.run(string(text), "kubectl", "apply", "--server-side", "--force-conflicts", "--field-manager=swap", "-f", "-")
}

func (c *clusterUnderTest) daemonSet(namespace, name string) *appsv1.DaemonSet {
	c.t.Helper()
	var ds appsv1.DaemonSet
	c.get(&ds, "daemonset", "-n", namespace, name)
	return &ds
}

// realProgram is the DaemonSet with a real program as its command, which sees
// the node's system folders: it runs the machine's own iptables and nft.
func realProgram(c *clusterUnderTest, ours *appsv1.DaemonSet, path string) *appsv1.DaemonSet {
	c.t.Helper()
	theirs := ours.DeepCopy()
	c.install(path, realFolder)
	container := &theirs.Spec.Template.Spec.Containers[0]
	container.Command[0] = realFolder + "/" + filepath.Base(path)
	container.Command = slices.DeleteFunc(container.Command, func(arg string) bool { return strings.HasPrefix(arg, "--host-root") })
	for i, folder := range []string{realFolder, "/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/alternatives", "/etc/protocols"} { // nft looks up what tcp is
		if _, err := os.Stat(folder); err != nil && folder != realFolder {
			continue
		}
		name := fmt.Sprint("real-", i)
		theirs.Spec.Template.Spec.Volumes = append(theirs.Spec.Template.Spec.Volumes, corev1.Volume{Name: name,
			VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: folder}}})
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: folder, ReadOnly: true})
	}
	return theirs
}

// install copies a program into a folder of every node.
func (c *clusterUnderTest) install(path, folder string) {
	c.t.Helper()
	executable, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	to := folder + "/" + filepath.Base(path)
	for _, node := range []string{"node-0", "node-1"} {
		c.run(string(executable), "node", "shell", node, "--", "sh", "-c", "mkdir -p "+folder+" && cat > "+to+".new && chmod +x "+to+".new && mv "+to+".new "+to)
	}
}

// useDaemonSet brings a DaemonSet's pod template and waits until all its pods
// are the new ones and say so.
func (c *clusterUnderTest) useDaemonSet(ds *appsv1.DaemonSet, says string) {
	c.t.Helper()
	template, err := json.Marshal([]map[string]any{{"op": "replace", "path": "/spec/template", "value": ds.Spec.Template}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.run("", "kubectl", "patch", "daemonset", "-n", ds.Namespace, ds.Name, "--type=json", "-p", string(template))
	c.run("", "kubectl", "rollout", "status", "daemonset", "-n", ds.Namespace, ds.Name, "--timeout=180s")
	selector := ""
	for k, v := range ds.Spec.Selector.MatchLabels {
		selector = k + "=" + v
	}
	eventually(c.t, ds.Name+" that says "+says, func(context.Context) (bool, error) {
		logs, err := c.try("", "kubectl", "logs", "-n", ds.Namespace, "-l", selector, "--tail=-1", "--prefix")
		saying := map[string]bool{}
		for line := range strings.Lines(logs) {
			if strings.Contains(line, says) {
				pod, _, _ := strings.Cut(line, " ")
				saying[pod] = true
			}
		}
		return len(saying) == 2, fmt.Errorf("%v: %s", err, logs)
	})
	c.t.Logf("on both nodes now: %v", ds.Spec.Template.Spec.Containers[0].Command)
}

// rules are what node-0's kernel holds of a proxy, in order and without counters.
func (c *clusterUnderTest) rules(mode string) string {
	text := c.onNode0("", map[string]string{"iptables": "iptables-save", "nftables": "nft -s list table ip kube-proxy"}[mode])
	var lines []string
	for line := range strings.Lines(text) {
		// KUBE-FIREWALL stays when the real one goes: it has also let packets to 127.0.0.1
		// in from the wire, and that chain is what stops them. A kubelet has it, too.
		if mode == "iptables" && (!strings.HasPrefix(line, "-A KUBE-") && !strings.Contains(line, "-j KUBE-") || strings.Contains(line, "KUBE-FIREWALL")) {
			continue
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
