package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What a whole cluster does with bad pods, with namespaces and owners that go,
// and with what a user's own DaemonSets and Services ask of it.

func TestCluster(t *testing.T) {
	for name, test := range map[string]func(*user){
		"missing image": missingImage, "unschedulable": unschedulable, "bad pods": badPods, "host port": hostPort, "daemon set": daemonSet,
		"no endpoints": noEndpoints, "namespace": deleteNamespace, "owners": owners, "hostile": hostile,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newUser(t, installed()))
		})
	}
}

// becomes waits until kubectl prints something like the pattern.
func (u *user) becomes(within time.Duration, pattern string, args ...string) {
	u.Helper()
	re := regexp.MustCompile(`(?s)` + pattern)
	eventually(u.T, within, "kubectl "+strings.Join(args, " "), func() error {
		if out, err := u.try("", args...); err != nil || !re.MatchString(out) {
			return fmt.Errorf("%v, no %q in\n%s", err, pattern, out)
		}
		return nil
	})
}

func missingImage(u *user) {
	u.ok(`created`, "run", "p", "--image=tinykube.local/nothing:1")
	u.becomes(30*time.Second, `ErrImagePull`, "describe", "pod", "p")
	u.becomes(30*time.Second, `p +0/1 +ImagePullBackOff`, "get", "pod", "p")
	u.becomes(30*time.Second, `Reason: +ImagePullBackOff.*Normal +Pulling .*Pulling image "tinykube.local/nothing:1".*Warning +Failed .*Failed to pull image "tinykube.local/nothing:1": .*`+
		`Warning +Failed .*Error: ErrImagePull.*Normal +BackOff .*Back-off pulling image "tinykube.local/nothing:1"`, "describe", "pod", "p")
	u.fails(1, `container "p" in pod "p" is waiting to start: (trying and failing to pull image|image can't be pulled)`, "logs", "p")
	node := u.ok(`node-`, "get", "pod", "p", "-o", "jsonpath={.spec.nodeName}")
	u.ok(node+` +Ready`, "get", "node", node)
	// Once it has an image it runs.
	u.ok(`image updated`, "set", "image", "pod/p", "p="+podinfo)
	u.becomes(60*time.Second, `p +1/1 +Running`, "get", "pod", "p")
}

func unschedulable(u *user) {
	run := func(name, spec string) {
		u.Helper()
		u.ok(`created`, "run", name, "--image="+podinfo, "--overrides", `{"spec":`+spec+`}`)
	}
	run("big", `{"containers":[{"name":"big","image":"`+podinfo+`","resources":{"requests":{"cpu":"1000"}}}]}`)
	run("picky", `{"nodeSelector":{"`+u.namespace+`":"yes"}}`)
	u.becomes(30*time.Second, `Warning +FailedScheduling .*default-scheduler +0/3 nodes are available: 1 node\(s\) had untolerated taint.*, 2 Insufficient cpu`, "describe", "pod", "big")
	u.becomes(30*time.Second, `0/3 nodes are available: .*2 node\(s\) didn't match Pod's node affinity/selector`, "describe", "pod", "picky")
	u.ok(`big +0/1 +Pending`, "get", "pod", "big")
	u.ok(`^False Unschedulable$`, "get", "pod", "big", "-o", `jsonpath={.status.conditions[?(@.type=="PodScheduled")].status} {.status.conditions[?(@.type=="PodScheduled")].reason}`)
	// What it waits for comes.
	u.ok(`labeled`, "label", "node", "node-2", u.namespace+"=yes")
	defer u.ok(`unlabeled`, "label", "node", "node-2", u.namespace+"-")
	u.becomes(30*time.Second, `1/1 +Running .*node-2`, "get", "pod", "picky", "-o", "wide")
}

// badPods are pods whose containers cannot be, each for a reason that it says.
func badPods(u *user) {
	for name, row := range map[string]struct{ container, status, message string }{
		"command":    {`"command":["/no/such/program"]`, `RunContainerError|CrashLoopBackOff|StartError`, `/no/such/program.*no such file or directory`},
		"configmap":  {`"env":[{"name":"A","valueFrom":{"configMapKeyRef":{"name":"none","key":"k"}}}]`, `CreateContainerConfigError`, `configmap "none" not found`},
		"key":        {`"env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"there","key":"k"}}}]`, `CreateContainerConfigError`, `couldn't find key k in Secret \S+/there`},
		"image-name": {`"image":"case/UPPER"`, `InvalidImageName`, `couldn't parse image name`},
		"never":      {`"image":"tinykube.local/nothing:2","imagePullPolicy":"Never"`, `ErrImageNeverPull`, `is not present with pull policy of Never`},
		"root":       {`"securityContext":{"runAsNonRoot":true,"runAsUser":0}`, `CreateContainerConfigError`, `Error: container's runAsUser breaks non-root policy`},
		"liveness":   {`"livenessProbe":{"exec":{"command":["false"]},"periodSeconds":1,"failureThreshold":1}`, `Running|Error|CrashLoopBackOff`, `Liveness probe failed.*Container p failed liveness probe, will be restarted`},
		"post-start": {`"lifecycle":{"postStart":{"exec":{"command":["false"]}}}`, `PostStartHookError|CrashLoopBackOff|Running`, `FailedPostStartHook`},
	} {
		u.Run(name, func(t *testing.T) {
			t.Parallel()
			u := &user{T: t, program: u.program, namespace: u.namespace}
			if name == "key" {
				u.ok(`created`, "create", "secret", "generic", "there", "--from-literal=a=b")
			}
			container := `"name":"p","image":"` + tools + `","command":["sleep","3600"],` + row.container
			if strings.Contains(row.container, `"image"`) || strings.Contains(row.container, `"command":["/`) {
				container = strings.Replace(container, `"image":"`+tools+`","command":["sleep","3600"],`, "", 1)
				if !strings.Contains(container, `"image"`) {
					container += `,"image":"` + tools + `"`
				}
			}
			u.input(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"`+name+`"},"spec":{"terminationGracePeriodSeconds":0,"containers":[{`+container+`}]}}`, `created`, "create", "-f", "-")
			u.becomes(40*time.Second, `(`+row.status+`)`, "get", "pod", name)
			u.becomes(40*time.Second, row.message, "describe", "pod", name)
		})
	}
}

// hostile containers take what they can get. Each is held or ended for its own
// reason, and the node stays Ready. (A fork bomb needs a small pids limit: see
// TestCgroups of test/critest.)
func hostile(u *user) {
	const node = "node-2"
	for name, script := range map[string]string{
		"line":     "dd if=/dev/zero bs=1048576 count=64 2>/dev/null; echo; while sleep 0.5; do echo that was one line; done",
		"stubborn": "trap '' TERM; while true; do sleep 1; done",
		"filler":   "dd if=/dev/zero of=/full bs=1048576 count=16; sleep 3600",
	} {
		u.input(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"`+name+`"},"spec":{"terminationGracePeriodSeconds":1,"nodeSelector":{"kubernetes.io/hostname":"`+node+`"},`+
			`"containers":[{"name":"c","image":"`+tools+`","command":["sh","-c","`+script+`"],"resources":{"limits":{"ephemeral-storage":"`+
			map[bool]string{true: "4Mi", false: "1Gi"}[name == "filler"]+`"}}}]}}`, `created`, "create", "-f", "-")
	}
	u.becomes(60*time.Second, `stubborn +1/1 +Running`, "get", "pod", "stubborn")
	u.ok(`deleted`, "delete", "pod", "stubborn", "--timeout=45s")
	u.becomes(60*time.Second, `^that was one line\n$`, "logs", "line", "--tail=1")
	u.becomes(30*time.Second, `^.{1,1000}$`, "logs", "line", "--limit-bytes=1000") // none is in a log just rotated
	u.becomes(60*time.Second, `^Failed Evicted Pod ephemeral local storage usage exceeds the total limit of containers 4Mi`, "get", "pod", "filler", "-o", "jsonpath={.status.phase} {.status.reason} {.status.message}")
	u.ok(node+` +Ready`, "get", "node", node)
	if used := residentMiB(u.T, node, "tinykube kubelet"); used > 200 {
		u.Errorf("the kubelet uses %d MiB", used)
	}
}

func hostPort(u *user) {
	manifest := func(name string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"` + name + `"},"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"` + podinfo + `","ports":[{"containerPort":9898,"hostPort":31998}]}]}}`
	}
	for _, name := range []string{"one", "two", "three"} {
		u.input(manifest(name), `created`, "create", "-f", "-")
	}
	// Each node has the port once, so there is no place for a third.
	u.becomes(30*time.Second, `FailedScheduling .*2 node\(s\) didn't have free ports for the requested pod ports`, "events")
	pending := strings.Fields(u.ok(`^\w+ ?$`, "get", "pods", "--field-selector=status.phase=Pending,spec.nodeName=", "-o", `jsonpath={.items[*].metadata.name}`))
	u.becomes(60*time.Second, `Running .*Running `, "get", "pods")
	// It answers at both nodes' addresses, from a third.
	for _, address := range []string{"172.30.9.2", "172.30.9.3"} {
		eventually(u.T, 20*time.Second, "host port of "+address, func() error {
			out, err := tinykube("node", "shell", "node-0", "--", "curl", "-s", "-m", "3", "http://"+address+":31998/version")
			if err != nil || !strings.Contains(out, "6.9.2") {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		})
	}
	// The place of one that goes is the next one's.
	free := "one"
	if pending[0] == "one" {
		free = "two"
	}
	u.ok(`deleted`, "delete", "pod", free)
	u.becomes(30*time.Second, pending[0]+` +1/1 +Running`, "get", "pods")
}

func daemonSet(u *user) {
	manifest := `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: c, image: ` + tools + `, command: [sleep, "3600"]}]
`
	u.input(manifest, `daemonset.apps/everywhere created`, "apply", "-f", "-")
	u.ok(`daemon set "everywhere" successfully rolled out`, "rollout", "status", "daemonset/everywhere", "--timeout=60s")
	u.ok(`^node-1 node-2 $`, "get", "pods", "--sort-by=.spec.nodeName", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {end}`)
	// The control plane, too, for who tolerates it.
	tolerant := strings.Replace(manifest, "      containers:", "      tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists}]\n      containers:", 1)
	u.input(tolerant, `daemonset.apps/everywhere configured`, "apply", "-f", "-")
	u.ok(`successfully rolled out`, "rollout", "status", "daemonset/everywhere", "--timeout=60s")
	u.ok(`everywhere +3 +3 +3 +3 +3 +<none>`, "get", "daemonset", "everywhere")
	u.ok(`REVISION +CHANGE-CAUSE\n1 .*\n2 `, "rollout", "history", "daemonset/everywhere")
	u.ok(`daemonset.apps/everywhere rolled back`, "rollout", "undo", "daemonset/everywhere")
	u.ok(`successfully rolled out`, "rollout", "status", "daemonset/everywhere", "--timeout=60s")
	u.becomes(30*time.Second, `everywhere +2 +2 +2 +2 +2`, "get", "daemonset", "everywhere")
	// One that is deleted comes back on the same node.
	first := u.ok(`everywhere-`, "get", "pods", "--field-selector=spec.nodeName=node-1", "-o", "jsonpath={.items[0].metadata.name}")
	u.ok(`deleted`, "delete", "pod", first)
	u.becomes(30*time.Second, `everywhere-\w+ +1/1 +Running`, "get", "pods", "--field-selector=spec.nodeName=node-1")
	// Only where the selector is.
	u.ok(`patched`, "patch", "daemonset", "everywhere", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"node-2"}}}}}`)
	u.becomes(30*time.Second, `everywhere +1 +1 +1 +1 +1 +kubernetes.io/hostname=node-2`, "get", "daemonset", "everywhere")
	u.ok(`deleted`, "delete", "daemonset", "everywhere")
	u.becomes(30*time.Second, `No resources found`, "get", "pods")
}

// noEndpoints asks Services that have nobody: they refuse, and do not hang.
func noEndpoints(u *user) {
	u.ok(`created`, "create", "service", "nodeport", "empty", "--tcp=80:80", "--node-port=31997")
	u.becomes(10*time.Second, `empty-\w+ +IPv4 +<unset> +<unset>`, "get", "endpointslices")
	u.tool("p", "sleep 3600")
	refused := func(what string, ask func() (string, error)) {
		u.Helper()
		eventually(u.T, 20*time.Second, what, func() error {
			started := time.Now()
			out, err := ask()
			if taken := time.Since(started); err == nil || !strings.Contains(out, "refused") || taken > 4*time.Second {
				return fmt.Errorf("not refused at once, but after %s: %v, %s", taken, err, out)
			}
			return nil
		})
	}
	refused("the Service", func() (string, error) {
		return u.try("", "exec", "p", "--", "wget", "-T", "5", "-q", "-O", "-", "http://empty/")
	})
	refused("its NodePort", func() (string, error) {
		return u.try("", "exec", "p", "--", "wget", "-T", "5", "-q", "-O", "-", "http://172.30.9.3:31997/")
	})
	// With somebody behind it, it answers; without, it refuses again.
	u.ok(`created`, "run", "web", "--image="+podinfo, "--port=9898", "--labels=app=empty")
	u.ok(`patched`, "patch", "service", "empty", "--type=json", "-p", `[{"op":"replace","path":"/spec/ports/0/targetPort","value":9898}]`)
	u.becomes(40*time.Second, `"version": "6.9.2"`, "exec", "p", "--", "wget", "-T", "3", "-q", "-O", "-", "http://empty/version")
	u.ok(`deleted`, "delete", "pod", "web", "--grace-period=0", "--force")
	refused("the Service again", func() (string, error) {
		return u.try("", "exec", "p", "--", "wget", "-T", "5", "-q", "-O", "-", "http://empty/version")
	})
}

func deleteNamespace(u *user) {
	u.input(shop, `created`, "apply", "-f", "-")
	u.ok(`created`, "create", "serviceaccount", "robot")
	u.ok(`created`, "create", "role", "reader", "--verb=get", "--resource=pods")
	u.ok(`created`, "create", "job", "j", "--image="+tools, "--", "true")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	u.input(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"held","finalizers":["example.com/hold"]}}`, `created`, "create", "-f", "-")
	u.ok(`namespace "`+u.namespace+`" deleted`, "delete", "namespace", u.namespace, "--wait=false")
	// Nothing new begins in what ends.
	u.fails(1, `is forbidden: unable to create new content in namespace \S+ because it is being terminated`, "create", "configmap", "late")
	u.becomes(60*time.Second, `NamespaceFinalizersRemaining .*Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances`, "describe", "namespace", u.namespace)
	u.becomes(60*time.Second, `^configmap/held\n$`, "get", "pods,deployments,replicasets,services,endpointslices,serviceaccounts,roles,secrets,configmaps,jobs,events", "-o", "name")
	u.ok(`Terminating`, "get", "namespace", u.namespace)
	u.ok(`patched`, "patch", "configmap", "held", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	u.ok(``, "wait", "--for=delete", "namespace/"+u.namespace, "--timeout=30s")
	u.fails(1, `namespaces "`+u.namespace+`" not found`, "get", "namespace", u.namespace)
	// A namespace of the same name starts with nothing of the old one.
	u.ok(`created`, "create", "namespace", u.namespace)
	u.ok(`No resources found`, "get", "pods,deployments,services,roles")
	u.becomes(10*time.Second, `default`, "get", "serviceaccounts")
	u.fails(1, `namespaces "default" is forbidden: this namespace may not be deleted`, "delete", "namespace", "default")
}

// owners go, and what they own goes with them, before them, or stays.
func owners(u *user) {
	up := func() {
		u.Helper()
		u.input(shop, `deployment.apps/shop created`, "apply", "-f", "-")
		u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	}
	up()
	u.ok(`deployment.apps "shop" deleted`, "delete", "deployment", "shop", "--cascade=background")
	u.becomes(30*time.Second, `No resources found`, "get", "deployments,replicasets,pods")
	up()
	u.ok(`deployment.apps "shop" deleted`, "delete", "deployment", "shop", "--cascade=foreground") // waits for all
	u.ok(`No resources found`, "get", "deployments,replicasets,pods")
	up()
	u.ok(`deployment.apps "shop" deleted`, "delete", "deployment", "shop", "--cascade=orphan")
	u.ok(`^$`, "get", "replicasets", "-l", "app=shop", "-o", "jsonpath={.items[*].metadata.ownerReferences}")
	u.ok(`2/2|shop-\w+ +2 +2 +2`, "get", "replicasets")
	// Made again, it adopts what it left.
	uid := u.ok(`-`, "get", "replicasets", "-o", "jsonpath={.items[0].metadata.uid}")
	u.input(shop, `deployment.apps/shop created`, "apply", "-f", "-")
	u.becomes(30*time.Second, `Deployment shop `+uid, "get", "replicasets", "-o", "jsonpath={.items[*].metadata.ownerReferences[0].kind} {.items[*].metadata.ownerReferences[0].name} {.items[*].metadata.uid}")
	u.ok(`deleted`, "delete", "deployment", "shop", "--wait=false")
	// Whose owner never was goes too.
	u.input(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"orphan","ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"ghost","uid":"00000000-0000-0000-0000-000000000001"}]}}`, `created`, "create", "-f", "-")
	u.ok(``, "wait", "--for=delete", "configmap/orphan", "--timeout=30s")
}

// Files that a kubelet finds in its manifests' folder and that are no manifests
// must not keep it from what is.
func TestBadStaticPods(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(dir, "nodes/node-0/etc/kubernetes/manifests")
	u := newUser(t, embedded())
	good := "apiVersion: v1\nkind: Pod\nmetadata: {name: good, namespace: " + u.namespace + "}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 0\n  containers: [{name: c, image: " + tools + ", command: [sleep, \"%s\"]}]\n"
	ids := func() string {
		return kubectl(t, "get", "pods", "-n", "kube-system", "-l", "tier=control-plane", "--sort-by=.metadata.name", "-o", "jsonpath={.items[*].status.containerStatuses[0].containerID}")
	}
	before := ids()
	name := func(n string) string { return filepath.Join(folder, n) }
	defer func() {
		for _, n := range []string{"a-broken.yaml", "b-folder", "c-fifo.yaml", "d-cycle.yaml", "e-cycle.yaml", "f-empty.yaml", "g-service.yaml", "h-invalid.yaml", "i-huge.yaml", "z-good.yaml", ".hidden.yaml"} {
			if err := os.RemoveAll(name(n)); err != nil {
				t.Error(err)
			}
		}
	}()
	write := func(n, content string) {
		t.Helper()
		if err := os.WriteFile(name(n), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a-broken.yaml", "apiVersion: v1\nkind: [Pod\n")
	write("f-empty.yaml", "")
	write("g-service.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 1}]}\n")
	write("h-invalid.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: Not Valid}\nspec: {containers: []}\n")
	write("i-huge.yaml", strings.Repeat("# nothing\n", 2<<20))
	write(".hidden.yaml", fmt.Sprintf(strings.Replace(good, "name: good", "name: hidden", 1), "3600"))
	if err := errors.Join(os.MkdirAll(name("b-folder/deep.yaml"), 0o755), mkfifo(name("c-fifo.yaml")),
		os.Symlink("e-cycle.yaml", name("d-cycle.yaml")), os.Symlink("d-cycle.yaml", name("e-cycle.yaml"))); err != nil {
		t.Fatal(err)
	}
	write("z-good.yaml", fmt.Sprintf(good, "3600"))
	u.becomes(60*time.Second, `good-node-0 +1/1 +Running`, "get", "pods")
	write("z-good.yaml", fmt.Sprintf(good, "7200"))
	u.becomes(60*time.Second, `7200.* 1/1|sleep 7200|\["sleep","7200"\] true`, "get", "pod", "good-node-0", "-o", "jsonpath={.spec.containers[0].command} {.status.containerStatuses[0].ready}")
	u.ok(`good-node-0`, "get", "pods")
	if out := u.ok(``, "get", "pods"); strings.Contains(out, "hidden") || strings.Contains(out, "valid") {
		t.Errorf("pods of files that are no manifests:\n%s", out)
	}
	// Deleted through the API it comes back; deleted as a file it goes.
	u.ok(`deleted`, "delete", "pod", "good-node-0", "--wait=false")
	u.becomes(30*time.Second, `good-node-0 +1/1 +Running`, "get", "pods")
	if err := os.Remove(name("z-good.yaml")); err != nil {
		t.Fatal(err)
	}
	u.becomes(60*time.Second, `No resources found`, "get", "pods")
	if after := ids(); after != before {
		t.Errorf("other static pods were restarted:\n%s\n%s", before, after)
	}
	u.ok(`node-0 +Ready`, "get", "node", "node-0")
}

// Rules that somebody flushed come back by themselves.
func TestFlushedRulesComeBack(t *testing.T) {
	t.Parallel()
	u := newUser(t, embedded())
	u.input(shop, `created`, "apply", "-f", "-")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	address := strings.TrimSpace(u.ok(`^10\.`, "get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}"))
	works := func() error {
		out, err := tinykube("node", "shell", "node-1", "--", "curl", "-s", "-m", "2", "http://"+address+"/version")
		if err != nil || !strings.Contains(out, "6.9.2") {
			return fmt.Errorf("%v: %s", err, out)
		}
		return nil
	}
	eventually(t, 20*time.Second, "the Service from node-1", works)
	for _, flush := range [][]string{{"-t", "nat", "-F"}, {"-t", "filter", "-F"}} {
		if out, err := tinykube(append([]string{"node", "shell", "node-1", "--", "iptables"}, flush...)...); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if works() == nil {
		t.Log("the Service works at once")
	}
	started := time.Now()
	eventually(t, 60*time.Second, "the Service, flushed", works)
	eventually(t, 60*time.Second, "rules of kube-proxy and flannel", func() error {
		out, err := tinykube("node", "shell", "node-1", "--", "iptables-save")
		for _, rule := range []string{"-A PREROUTING .*-j KUBE-SERVICES", "-A POSTROUTING .*-j KUBE-POSTROUTING", "-A POSTROUTING .*-j FLANNEL-POSTRTG", "-A FORWARD .*-j KUBE-FORWARD"} {
			if err == nil && !regexp.MustCompile(rule).MatchString(out) {
				err = fmt.Errorf("no rule %q in\n%s", rule, out)
			}
		}
		return err
	})
	t.Logf("healed after %.1f s", time.Since(started).Seconds())
}
