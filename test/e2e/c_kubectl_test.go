package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What a user does with kubectl, verb by verb. The program is the one that is
// installed on this machine, unmodified, or $KUBECTL; what matters most is done
// with ours, the embedded one, as well. Verbs that stream are in c_streams_test.go.

const (
	podinfo = "tinykube.local/podinfo:6.9.2"
	tools   = "tinykube.local/tools:v1"
)

// user is somebody with a kubectl and a namespace of her own.
type user struct {
	*testing.T
	program   []string
	namespace string
	env       []string // beyond what every kubectl gets
}

var (
	embedded  = func() []string { return []string{program, "kubectl"} }
	installed = func() []string {
		if path := os.Getenv("KUBECTL"); path != "" {
			return []string{path}
		}
		if path, err := exec.LookPath("kubectl"); err == nil {
			return []string{path}
		}
		return embedded()
	}
)

func newUser(t *testing.T, program []string) *user {
	t.Helper()
	name := strings.ToLower(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-"))
	u := &user{T: t, program: program, namespace: fmt.Sprintf("%s-%04x", name[len(name)-min(len(name), 50):], rand.IntN(1<<16))}
	u.namespace = strings.TrimLeft(u.namespace, "-")
	u.ok(`created`, "create", "namespace", u.namespace)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := u.try("", "get", "pods,events")
			t.Logf("in namespace %s:\n%s", u.namespace, lastLines(out, 40))
		}
		_, _ = u.try("", "delete", "namespace", u.namespace, "--wait=false")
	})
	return u
}

// command is kubectl with these arguments, in the user's namespace.
func (u *user) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(append(append([]string{}, u.program[1:]...), "--namespace", u.namespace), args...)
	c := exec.CommandContext(ctx, u.program[0], args...)
	c.Env = append(os.Environ(), "TINYKUBE_DIR="+dir, "KUBECONFIG="+filepath.Join(dir, "admin.conf"), "KUBECACHEDIR="+filepath.Join(dir, "kubectl-cache"))
	c.Env = append(c.Env, u.env...)
	c.WaitDelay = time.Second
	return c
}

func (u *user) try(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := u.command(ctx, args...)
	c.Stdin = strings.NewReader(stdin)
	out, err := c.CombinedOutput()
	return strings.TrimPrefix(string(out), "WARNING: version difference between client (1.32) and server (1.36) exceeds the supported minor version skew of +/-1\n"), err
}

// ok runs kubectl, which must succeed and print what the pattern says.
func (u *user) ok(pattern string, args ...string) string {
	u.Helper()
	return u.input("", pattern, args...)
}

func (u *user) input(stdin, pattern string, args ...string) string {
	u.Helper()
	out, err := u.try(stdin, args...)
	if err != nil {
		u.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	u.matches(out, pattern, args)
	return out
}

// fails runs kubectl, which must fail with a status and a message like these.
func (u *user) fails(status int, pattern string, args ...string) string {
	u.Helper()
	return u.inputFails("", status, pattern, args...)
}

func (u *user) inputFails(stdin string, status int, pattern string, args ...string) string {
	u.Helper()
	out, err := u.try(stdin, args...)
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != status {
		u.Errorf("kubectl %s: %v, should exit with %d\n%s", strings.Join(args, " "), err, status, out)
	}
	u.matches(out, pattern, args)
	return out
}

func (u *user) matches(out, pattern string, args []string) {
	u.Helper()
	if !regexp.MustCompile(`(?s)` + pattern).MatchString(out) {
		u.Errorf("kubectl %s printed, without %q:\n%s", strings.Join(args, " "), pattern, out)
	}
}

// shop is a Deployment, its Service and its ConfigMap.
const shop = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: "#112233"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop, labels: {app: shop}}
spec:
  replicas: 2
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: podinfo
        image: ` + podinfo + `
        env: [{name: PODINFO_UI_COLOR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}]
        ports: [{name: http, containerPort: 9898}]
        readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 1}
        resources: {requests: {cpu: 10m, memory: 16Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  selector: {app: shop}
  ports: [{name: http, port: 80, targetPort: http}]
`

func TestKubectl(t *testing.T) {
	for name, program := range map[string][]string{"installed": installed(), "embedded": embedded()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := newUser(t, program)
			// Programs that were built without their version fail here, and nowhere else.
			out, _ := u.try("", "version")
			u.matches(out, `Server Version: v1\.36`, []string{"version"})
			t.Logf("%s: %s", program[0], out)
			mainTranscript(u)
		})
	}
	for name, test := range map[string]func(*user){
		"create": createEverything, "describe": describe, "patch": patch, "rollout": rollout, "watch": watch, "about": about,
		"server side apply": serverSideApply, "wait": wait, "edit": edit, "kustomize": kustomize,
		"logs": logs, "exec": execute, "terminal": terminal, "copy": copyFiles, "port-forward": portForward, "attach": attach, "run": runPods,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newUser(t, installed()))
		})
	}
}

// mainTranscript is the life of an application.
func mainTranscript(u *user) {
	// Nothing there, and said so.
	u.ok(`No resources found in \S+ namespace`, "get", "pods")
	u.fails(1, `Error from server \(NotFound\): deployments.apps "shop" not found`, "get", "deployment", "shop")
	// Twice the same is once.
	u.input(shop, `configmap/settings created\ndeployment.apps/shop created\nservice/shop created`, "apply", "-f", "-")
	u.input(shop, `configmap/settings unchanged\ndeployment.apps/shop unchanged\nservice/shop unchanged`, "apply", "-f", "-")
	u.input(shop, `^$`, "diff", "-f", "-")
	changed := strings.Replace(shop, "replicas: 2", "replicas: 3", 1)
	u.inputFails(changed, 1, `-  replicas: 2\n\+  replicas: 3`, "diff", "-f", "-")
	u.ok(`deployment "shop" successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	// Every way to look at it.
	u.ok(`NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nshop +2/2 +2 +2 +\d+s`, "get", "deployments")
	u.ok(`NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES\n(shop-\w+-\w+ +1/1 +Running +0 +\d+s +10\.244\.\d+\.\d+ +node-\d +<none> +<none>\n){2}$`, "get", "pods", "-o", "wide")
	u.ok(`^shop shop $`, "get", "pods", "-l", "app=shop", "-o", `jsonpath={range .items[*]}{.metadata.labels.app} {end}`)
	u.ok(`No resources found`, "get", "pods", "-l", "app notin (shop)")
	u.ok(`\napiVersion: v1\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n|^apiVersion: v1\nitems:\n- apiVersion: apps/v1\n  kind: Deployment\n`, "get", "deployments", "-o", "yaml")
	u.ok(`"readyReplicas": 2`, "get", "deployment/shop", "-o", "json")
	u.ok(`^configmap/kube-root-ca.crt\nconfigmap/settings\ndeployment.apps/shop\nservice/shop\n$`, "get", "configmaps,deployments,services", "-o", "name")
	u.ok(`NAME +IMAGE\nshop +`+podinfo, "get", "deployments", "-o", "custom-columns=NAME:.metadata.name,IMAGE:.spec.template.spec.containers[0].image")
	u.ok(`NAMESPACE +NAME .*\nkube-system +coredns .*\n`+u.namespace+` +shop `, "get", "deployments", "-A")
	u.ok(`pod/shop-.*service/shop .*deployment.apps/shop .*replicaset.apps/shop-`, "get", "all")
	u.ok(`shop +ClusterIP +10\.\d+\.\d+\.\d+ +<none> +80/TCP +\d+s +app=shop`, "get", "service", "shop", "-o", "wide")
	// It answers, from another pod, by name.
	u.ok(`"color": "#112233"`, "run", "caller", "--image="+tools, "--restart=Never", "--rm", "-i", "--quiet", "--", "wget", "-q", "-O", "-", "http://shop/")
	u.ok(`Starting HTTP Server`, "logs", "deployment/shop")
	u.ok(`^6\.9\.2\n$`, "exec", "deployment/shop", "--", "podcli", "version")
	u.fails(7, `command terminated with exit code 7`, "exec", "deployment/shop", "--", "sh", "-c", "exit 7")
	// Change it.
	u.ok(`deployment.apps/shop labeled`, "label", "deployment", "shop", "tier=front")
	u.fails(1, `'tier' already has a value \(front\), and --overwrite is false`, "label", "deployment", "shop", "tier=back")
	u.ok(`shop .* front`, "get", "deployments", "-L", "tier")
	u.ok(`deployment.apps/shop unlabeled`, "label", "deployment", "shop", "tier-")
	u.ok(`deployment.apps/shop annotated`, "annotate", "deployment/shop", "note=hello")
	u.ok(`deployment.apps/shop scaled`, "scale", "deployment/shop", "--replicas=3", "--current-replicas=2")
	u.fails(1, `Expected replicas to be 2, was 3`, "scale", "deployment/shop", "--replicas=1", "--current-replicas=2")
	u.ok(`condition met`, "wait", "deployment/shop", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=60s")
	u.input(shop, `deployment.apps/shop configured`, "apply", "-f", "-")
	u.ok(`deployment.apps/shop image updated`, "set", "image", "deployment/shop", "podinfo="+podinfo+"-none")
	u.ok(`deployment.apps/shop rolled back`, "rollout", "undo", "deployment/shop")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	u.ok(`service/again exposed`, "expose", "deployment", "shop", "--name=again", "--port=8080", "--target-port=http", "--type=NodePort")
	u.ok(`^3\d{4} http shop$`, "get", "service", "again", "-o", `jsonpath={.spec.ports[0].nodePort} {.spec.ports[0].targetPort} {.spec.selector.app}`)
	u.ok(`deployment.apps/shop patched`, "patch", "deployment", "shop", "-p", `{"spec":{"replicas":1}}`)
	u.ok(`pod/one created`, "run", "one", "--image="+tools, "--", "sleep", "3600")
	u.ok(`condition met`, "wait", "pod/one", "--for=condition=Ready", "--timeout=60s")
	// And away.
	u.ok(`pod "one" (force )?deleted`, "delete", "pod", "one", "--grace-period=1")
	u.fails(1, `pods "one" not found`, "get", "pod", "one")
	u.input(shop, `configmap "settings" deleted.*deployment.apps "shop" deleted.*service "shop" deleted`, "delete", "-f", "-")
	u.ok(``, "wait", "--for=delete", "pod", "-l", "app=shop", "--timeout=60s")
	u.ok(`No resources found`, "get", "deployments,replicasets,pods")
}

// createEverything makes one of each that `kubectl create` knows; most of it
// travels as protobuf.
func createEverything(u *user) {
	file := filepath.Join(u.TempDir(), "file.txt")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o600); err != nil {
		u.Fatal(err)
	}
	u.ok(`configmap/c created`, "create", "configmap", "c", "--from-literal=a=1", "--from-file="+file)
	u.ok(`^1 from a file\n$`, "get", "configmap", "c", "-o", `jsonpath={.data.a} {.data.file\.txt}`)
	u.fails(1, `error: failed to create configmap: configmaps "c" already exists`, "create", "configmap", "c")
	u.ok(`secret/s created`, "create", "secret", "generic", "s", "--from-literal=password=geheim")
	u.ok(`^Z2VoZWlt Opaque$`, "get", "secret", "s", "-o", "jsonpath={.data.password} {.type}")
	u.ok(`secret/pull created`, "create", "secret", "docker-registry", "pull", "--docker-server=r.example", "--docker-username=me", "--docker-password=x")
	u.ok(`deployment.apps/d created`, "create", "deployment", "d", "--image="+podinfo, "--replicas=0", "--port=9898")
	u.ok(`service/d created`, "create", "service", "clusterip", "d", "--tcp=80:9898")
	u.ok(`service/n created`, "create", "service", "nodeport", "n", "--tcp=80")
	u.ok(`service/x created`, "create", "service", "externalname", "x", "--external-name=example.com")
	u.ok(`x +ExternalName +<none> +example.com +<none>`, "get", "service", "x")
	u.ok(`serviceaccount/robot created`, "create", "serviceaccount", "robot")
	u.ok(`^ey[\w-]+\.[\w-]+\.[\w-]+\s*$`, "create", "token", "robot", "--duration=20m")
	u.fails(1, `serviceaccounts "nobody" not found`, "create", "token", "nobody")
	u.ok(`role.rbac.authorization.k8s.io/reader created`, "create", "role", "reader", "--verb=get,list", "--resource=pods")
	u.ok(`rolebinding.rbac.authorization.k8s.io/robot created`, "create", "rolebinding", "robot", "--role=reader", "--serviceaccount="+u.namespace+":robot")
	u.ok(`resourcequota/q created`, "create", "quota", "q", "--hard=pods=10")
	u.ok(`poddisruptionbudget.policy/p created`, "create", "poddisruptionbudget", "p", "--selector=app=d", "--min-available=1")
	u.ok(`ingress.networking.k8s.io/i created`, "create", "ingress", "i", "--rule=example.com/=d:80")
	u.ok(`job.batch/j created`, "create", "job", "j", "--image="+tools, "--", "true")
	u.ok(`cronjob.batch/cj created`, "create", "cronjob", "cj", "--image="+tools, "--schedule=0 0 1 1 *", "--", "true")
	u.ok(`horizontalpodautoscaler.autoscaling/d autoscaled`, "autoscale", "deployment", "d", "--min=1", "--max=3", "--cpu-percent=80")
	u.ok(`cronjob.batch/cj .*job.batch/j .*ingress.*/i .*poddisruptionbudget.*/p`, "get", "cronjobs,jobs,ingresses,poddisruptionbudgets")
	// Asked for without being made.
	u.ok(`configmap/dry created \(server dry run\)`, "create", "configmap", "dry", "--dry-run=server")
	u.ok(`kind: ConfigMap`, "create", "configmap", "dry", "--dry-run=client", "-o", "yaml")
	u.fails(1, `configmaps "dry" not found`, "get", "configmap", "dry")
	// Replaced, and only what exists can be.
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {a: \"2\"}\n"
	u.input(fmt.Sprintf(manifest, "c"), `configmap/c replaced`, "replace", "-f", "-")
	u.ok(`^map\[a:2\]|^{"a":"2"}`, "get", "configmap", "c", "-o", "jsonpath={.data}")
	u.inputFails(fmt.Sprintf(manifest, "other"), 1, `configmaps "other" not found`, "replace", "-f", "-")
	// All of a kind at once.
	u.ok(`secret "pull" deleted.*secret "s" deleted`, "delete", "secrets", "--all")
	u.ok(`No resources found`, "get", "secrets")
}

// describe looks at what only describe puts together: several objects and
// their events.
func describe(u *user) {
	u.input(shop, `created`, "apply", "-f", "-")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	u.ok(`Name: +shop-.*Node: +node-\d/172\.30\.9\.\d.*Status: +Running.*IP: +10\.244\..*Controlled By: +ReplicaSet/shop-.*`+
		`Image: +`+podinfo+`.*State: +Running.*Ready: +True.*Restart Count: +0.*cpu: +10m.*Readiness: +http-get http://:http/readyz delay=0s timeout=1s period=1s #success=1 #failure=3.*`+
		`PODINFO_UI_COLOR: +<set to the key 'colour' of config map 'settings'>.*kube-api-access-\w+ \(ro\).*ContainersReady +True.*`+
		`QoS Class: +Burstable.*node.kubernetes.io/not-ready:NoExecute op=Exists for 300s.*`+
		`Normal +Scheduled .* default-scheduler +Successfully assigned `+u.namespace+`/shop-\S+ to node-\d.*Normal +Pulled .*already present on machine.*Normal +Created .*Normal +Started `,
		"describe", u.ok(`^pod/`, "get", "pods", "-o", "jsonpath=pod/{.items[0].metadata.name}"))
	u.ok(`Name: +shop-.*Name: +shop-`, "describe", "pod", "-l", "app=shop")
	u.ok(`Replicas: +2 desired \| 2 updated \| 2 total \| 2 available \| 0 unavailable.*RollingUpdateStrategy: +25% max unavailable, 25% max surge.*`+
		`Available +True +MinimumReplicasAvailable.*Progressing +True +NewReplicaSetAvailable.*NewReplicaSet: +shop-\w+ \(2/2 replicas created\).*`+
		`ScalingReplicaSet .* deployment-controller +Scaled up replica set shop-\w+ from 0 to 2`, "describe", "deployment", "shop")
	u.ok(`Controlled By: +Deployment/shop.*Replicas: +2 current / 2 desired.*Pods Status: +2 Running / 0 Waiting / 0 Succeeded / 0 Failed.*SuccessfulCreate .* replicaset-controller +Created pod: shop-`, "describe", u.ok(`^replicaset`, "get", "replicasets", "-o", "jsonpath=replicaset/{.items[0].metadata.name}"))
	u.ok(`Selector: +app=shop.*Type: +ClusterIP.*Port: +http +80/TCP.*TargetPort: +http/TCP.*Endpoints: +10\.244\.\d+\.\d+:9898,10\.244\.\d+\.\d+:9898`, "describe", "service", "shop")
	u.ok(`Name: +node-1\n.*kubernetes.io/hostname=node-1.*flannel.alpha.coreos.com/backend-type: vxlan.*Lease:\n +HolderIdentity: +node-1.*NetworkUnavailable +False .*FlannelIsUp.*`+
		`Ready +True .*KubeletReady +kubelet is posting ready status.*InternalIP: +172\.30\.9\.2.*memory: +\d+Ki.*pods: +110.*Kubelet Version: +v1\.36.*PodCIDR: +10\.244\.\d\.0/24.*`+
		`Non-terminated Pods: .*kube-system +kube-proxy-\w+ .*Allocated resources:.*Events:`, "describe", "node", "node-1")
	u.ok(`node-role.kubernetes.io/control-plane.*Taints: +node-role.kubernetes.io/control-plane:NoSchedule`, "describe", "node", "node-0")
	u.ok(`Desired Number of Nodes Scheduled: 3\nCurrent Number of Nodes Scheduled: 3\nNumber of Nodes Scheduled with Up-to-date Pods: 3\nNumber of Nodes Scheduled with Available Pods: 3\nNumber of Nodes Misscheduled: 0\nPods Status: +3 Running / 0 Waiting`,
		"describe", "daemonset", "kube-proxy", "-n", "kube-system")
	u.ok(`Annotations: +kubernetes.io/config.hash: .*kubernetes.io/config.source: file.*Controlled By: +Node/node-0.*--leader-elect=true`, "describe", "pod", "kube-scheduler-node-0", "-n", "kube-system")
	u.ok(`Data\n====\ncolour:\n----\n#112233`, "describe", "configmap", "settings")
	u.ok(`Status: +Active`, "describe", "namespace", u.namespace)
	u.ok(`Name: +default\n`, "describe", "serviceaccount", "default")
	u.ok(`AddressType: +IPv4.*Addresses: +10\.244\..*Ready: +true.*TargetRef: +Pod/shop-.*NodeName: +node-`, "describe", "endpointslices", "-l", "kubernetes.io/service-name=shop")
	u.ok(`HolderIdentity: +node-1|Holder Identity: +node-1`, "describe", "lease", "node-1", "-n", "kube-node-lease")
	u.ok(`LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n.*Normal +ScalingReplicaSet +Deployment/shop +Scaled up replica set`, "events", "--for=deployment/shop")
	u.ok(`Normal +Started +pod/shop-`, "get", "events", "--field-selector=reason=Started")
	u.fails(1, `pods "nope" not found`, "describe", "pod", "nope")
}

func patch(u *user) {
	u.ok(`created`, "create", "deployment", "d", "--image="+podinfo, "--replicas=0")
	// Strategic: a list of containers merges by name.
	u.ok(`deployment.apps/d patched`, "patch", "deployment", "d", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"`+tools+`"}]}}}}`)
	u.ok(`^side podinfo$|^podinfo side$`, "get", "deployment", "d", "-o", "jsonpath={.spec.template.spec.containers[*].name}")
	// Merge: a list replaces a list.
	u.ok(`deployment.apps/d patched`, "patch", "deployment", "d", "--type=merge", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"only","image":"`+tools+`"}]}}}}`)
	u.ok(`^only$`, "get", "deployment", "d", "-o", "jsonpath={.spec.template.spec.containers[*].name}")
	// JSON: by position, and with a condition.
	u.ok(`deployment.apps/d patched`, "patch", "deployment", "d", "--type=json", "-p", `[{"op":"test","path":"/spec/template/spec/containers/0/name","value":"only"},{"op":"replace","path":"/spec/template/spec/containers/0/name","value":"renamed"}]`)
	u.ok(`^renamed$`, "get", "deployment", "d", "-o", "jsonpath={.spec.template.spec.containers[*].name}")
	u.fails(1, `the server rejected our request due to an error in our request|testing value /spec/replicas failed`, "patch", "deployment", "d", "--type=json", "-p", `[{"op":"test","path":"/spec/replicas","value":9}]`)
	u.ok(`patched \(no change\)`, "patch", "deployment", "d", "-p", `{"spec":{"replicas":0}}`)
	// A null takes a field away.
	u.ok(`patched`, "patch", "deployment", "d", "-p", `{"metadata":{"annotations":{"a":"1"}}}`)
	u.ok(`patched`, "patch", "deployment", "d", "-p", `{"metadata":{"annotations":{"a":null}}}`)
	u.ok(`^$`, "get", "deployment", "d", "-o", "jsonpath={.metadata.annotations.a}")
	// Subresources: scale changes the number, status only the status.
	u.ok(`deployment.apps/d patched|scale.autoscaling/d patched`, "patch", "deployment", "d", "--subresource=scale", "--type=merge", "-p", `{"spec":{"replicas":2}}`)
	u.ok(`^2$`, "get", "deployment", "d", "-o", "jsonpath={.spec.replicas}")
	u.ok(`^2$`, "get", "deployment", "d", "--subresource=scale", "-o", "jsonpath={.spec.replicas}")
	u.ok(`pod/p created`, "run", "p", "--image="+tools, "--overrides", `{"spec":{"nodeSelector":{"no":"where"}}}`)
	u.ok(`pod/p patched`, "patch", "pod", "p", "--subresource=status", "--type=merge", "-p", `{"metadata":{"labels":{"also":"this"}},"spec":{"nodeSelector":{"x":"y"}},"status":{"message":"hello"}}`)
	u.ok(`^hello {"no":"where"}$`, "get", "pod", "p", "-o", "jsonpath={.status.message} {.spec.nodeSelector}")
	u.fails(1, `spec: Forbidden: pod updates may not change fields other than`, "patch", "pod", "p", "-p", `{"spec":{"nodeName":"node-1","hostNetwork":true}}`)
	u.fails(1, `spec.selector: Invalid value: .*field is immutable`, "patch", "deployment", "d", "-p", `{"spec":{"selector":{"matchLabels":{"app":"other"}},"template":{"metadata":{"labels":{"app":"other"}}}}}`)
}

func rollout(u *user) {
	u.input(shop, `created`, "apply", "-f", "-")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	first := u.ok(`shop-`, "get", "replicasets", "-o", "jsonpath={.items[0].metadata.name}")
	u.ok(`annotated`, "annotate", "deployment/shop", "kubernetes.io/change-cause=the first")
	u.ok(`env updated`, "set", "env", "deployment/shop", "PODINFO_UI_MESSAGE=second")
	u.ok(`annotated`, "annotate", "deployment/shop", "kubernetes.io/change-cause=the second", "--overwrite")
	u.ok(`Waiting for deployment "shop" rollout to finish: .*deployment "shop" successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	u.ok(`REVISION +CHANGE-CAUSE\n1 +the first\n2 +the second\n`, "rollout", "history", "deployment/shop")
	u.ok(`Pod Template:.*PODINFO_UI_MESSAGE:\s+second`, "rollout", "history", "deployment/shop", "--revision=2")
	// Back to what it was, with the ReplicaSet that it was.
	u.ok(`deployment.apps/shop rolled back`, "rollout", "undo", "deployment/shop", "--to-revision=1")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	u.ok(`REVISION +CHANGE-CAUSE\n2 +the second\n3 +the first\n`, "rollout", "history", "deployment/shop")
	u.ok(`^2$`, "get", "replicaset", first, "-o", "jsonpath={.status.readyReplicas}")
	u.fails(1, `unable to find specified revision 17`, "rollout", "undo", "deployment/shop", "--to-revision=17")
	// Paused, nothing rolls; resumed, all changes roll at once.
	u.ok(`deployment.apps/shop paused`, "rollout", "pause", "deployment/shop")
	u.ok(`image updated`, "set", "image", "deployment/shop", "podinfo="+tools)
	u.ok(`resource requirements updated`, "set", "resources", "deployment/shop", "--limits=memory=64Mi")
	u.fails(1, `can't restart paused deployment`, "rollout", "restart", "deployment/shop")
	u.ok(`image updated`, "set", "image", "deployment/shop", "podinfo="+podinfo)
	u.ok(`^2$`, "get", "replicaset", first, "-o", "jsonpath={.status.readyReplicas}")
	u.ok(`deployment.apps/shop resumed`, "rollout", "resume", "deployment/shop")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	u.ok(`deployment.apps/shop restarted`, "rollout", "restart", "deployment/shop")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	u.ok(`kubectl.kubernetes.io/restartedAt`, "get", "deployment", "shop", "-o", "jsonpath={.spec.template.metadata.annotations}")
	// An image that does not exist stops half way, and says so.
	u.ok(`image updated`, "set", "image", "deployment/shop", "podinfo=tinykube.local/none:1")
	u.fails(1, `Waiting for deployment "shop" rollout to finish.*timed out waiting for the condition`, "rollout", "status", "deployment/shop", "--timeout=2s")
	u.ok(`shop +2/2 +1 +2 `, "get", "deployment", "shop")
}

// watch reads what `get -w` prints while things happen.
func watch(u *user) {
	ctx, cancel := context.WithTimeout(u.Context(), time.Minute)
	defer cancel()
	u.ok(`created`, "run", "first", "--image="+tools, "--labels=run=p", "--", "sleep", "3600")
	var rows, events lockedBuffer
	for out, args := range map[*lockedBuffer][]string{
		&rows: {"get", "pods", "-w", "-o", "wide"}, &events: {"get", "pods", "-w", "--output-watch-events", "--no-headers", "-l", "run=p"}} {
		c := u.command(ctx, args...)
		c.Stdout, c.Stderr = out, out
		if err := c.Start(); err != nil {
			u.Fatal(err)
		}
		defer func() { cancel(); _ = c.Wait() }()
		eventually(u.T, 20*time.Second, "the first row", func() error { return out.has(`first `) })
	}
	u.ok(`created`, "run", "p", "--image="+tools, "--labels=run=p", "--", "sleep", "3600")
	u.ok(`created`, "run", "other", "--image="+tools, "--labels=run=other", "--", "sleep", "3600")
	u.ok(`condition met`, "wait", "pod/p", "--for=condition=Ready", "--timeout=60s")
	u.ok(`labeled`, "label", "pod", "p", "run=elsewhere", "--overwrite") // leaves the selection
	u.ok(`deleted`, "delete", "pod", "p", "--grace-period=1")
	eventually(u.T, 20*time.Second, "rows", func() error {
		return rows.has(`(?s)NAME +READY .*p +0/1 +Pending .*<none> .*p +0/1 +ContainerCreating .*p +1/1 +Running +0 +\d+s +10\.244\..*p +1/1 +Terminating `)
	})
	eventually(u.T, 20*time.Second, "events", func() error {
		return events.has(`(?s)ADDED +p +0/1 +Pending .*MODIFIED +p +1/1 +Running .*DELETED +p +1/1 +(Running|Terminating) `)
	})
	if events.has(`other`) == nil {
		u.Errorf("the selection has more than was selected:\n%s", events.String())
	}
}

// about asks what the cluster is.
func about(u *user) {
	u.ok(`Kubernetes control plane.* is running at .*https://127\.0\.0\.1:\d+`, "cluster-info")
	u.ok(`pods +po +v1 +true +Pod\n`, "api-resources")
	u.ok(`NAME +SHORTNAMES +APIVERSION +NAMESPACED +KIND +VERBS +CATEGORIES\n.*deployments +deploy +apps/v1 +true +Deployment +create,delete,deletecollection,get,list,patch,update,watch +all`, "api-resources", "--api-group=apps", "-o", "wide")
	u.ok(`^nodes\n$|^namespaces\nnodes\npersistentvolumes\n$`, "api-resources", "--namespaced=false", "--api-group=", "-o", "name")
	u.ok(`apps/v1\n.*coordination.k8s.io/v1\n.*v1\n`, "api-versions")
	u.ok(`KIND: +Pod\nVERSION: +v1\n\nFIELD: livenessProbe <Probe>\n.*DESCRIPTION:\n.*FIELDS:\n.*initialDelaySeconds\s+<integer>`, "explain", "pod.spec.containers.livenessProbe")
	u.ok(`GROUP: +apps\nKIND: +Deployment\nVERSION: +v1\n.*strategy\s+<DeploymentStrategy>.*rollingUpdate\s+<RollingUpdateDeployment>\n.*maxSurge\s+<IntOrString>`, "explain", "deployment", "--recursive")
	u.fails(1, `field "nope" does not exist`, "explain", "pod.spec.nope")
	u.fails(1, `the server doesn't have a resource type "nopes"|couldn't find resource for "/, Resource=nopes"`, "explain", "nopes")
	u.fails(1, `error: the server doesn't have a resource type "nopes"`, "get", "nopes")
	u.ok(`^yes\n$`, "auth", "can-i", "create", "pods")
	u.ok(`^yes\n$`, "auth", "can-i", "*", "*", "--all-namespaces")
	u.fails(1, `^no\n$`, "auth", "can-i", "list", "secrets", "--as=system:serviceaccount:"+u.namespace+":default")
	u.ok(`selfsubjectreviews.authentication.k8s.io +\[\] +\[\] +\[create\]`, "auth", "can-i", "--list", "--as=jane")
	u.ok(`Username +kubernetes-admin\nGroups +\[kubeadm:cluster-admins system:authenticated\]`, "auth", "whoami")
	u.ok(`Username +jane\nGroups +\[friends system:authenticated\]`, "auth", "whoami", "--as=jane", "--as-group=friends")
	u.fails(1, `error: Metrics API not available`, "top", "nodes")
	u.fails(1, `error: Metrics API not available`, "top", "pods")
	u.ok(`ok`, "get", "--raw", "/readyz")
	u.ok(`\[\+\]etcd ok`, "get", "--raw", "/readyz?verbose")
	u.ok(`"major": ?"1",.*"minor": ?"36"`, "get", "--raw", "/version")
	u.fails(1, `Error from server \(NotFound\): the server could not find the requested resource`, "get", "--raw", "/nothing")
	u.ok(`apiserver_request_total|go_goroutines`, "get", "--raw", "/metrics")
}

func serverSideApply(u *user) {
	apply := func(manager, data string, more ...string) []string {
		return append([]string{"apply", "--server-side", "--field-manager=" + manager, "-f", "-"}, more...)
	}
	config := func(data string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {" + data + "}\n"
	}
	u.input(config("a: x, b: x"), `configmap/c serverside-applied`, apply("jane", "")...)
	u.input(config("a: x, b: x"), `configmap/c serverside-applied`, apply("jane", "")...)
	// Fields of different owners live side by side.
	u.input(config("c: w"), `configmap/c serverside-applied`, apply("joe", "")...)
	u.ok(`^{"a":"x","b":"x","c":"w"}$`, "get", "configmap", "c", "-o", "jsonpath={.data}")
	// The same field is a conflict that names its owner, unless forced.
	u.inputFails(config("a: z"), 1, `Apply failed with 1 conflict: conflict with "jane": \.data\.a`, apply("joe", "")...)
	u.input(config("a: z, c: w"), `configmap/c serverside-applied`, apply("joe", "", "--force-conflicts")...)
	u.ok(`^{"a":"z","b":"x","c":"w"}$`, "get", "configmap", "c", "-o", "jsonpath={.data}")
	// What its only owner no longer names goes away.
	u.input(config("a: z"), `configmap/c serverside-applied`, apply("joe", "")...)
	u.ok(`^{"a":"z","b":"x"}$`, "get", "configmap", "c", "-o", "jsonpath={.data}")
	u.ok(`^jane Apply joe Apply $|^joe Apply jane Apply $`, "get", "configmap", "c", "--show-managed-fields", "-o", "jsonpath={range .metadata.managedFields[*]}{.manager} {.operation} {end}")
	// From client-side to server-side apply and on: the same manager goes on owning.
	u.input(shop, `created`, "apply", "-f", "-")
	u.input(strings.Replace(shop, "replicas: 2", "replicas: 1", 1), `deployment.apps/shop serverside-applied`, "apply", "--server-side", "-f", "-")
	u.ok(`^1$`, "get", "deployment", "shop", "-o", "jsonpath={.spec.replicas}")
	u.input(config("a: z"), `^$`, "diff", "--server-side", "--field-manager=joe", "-f", "-")
	u.inputFails(config("a: q"), 1, `-  a: z\n\+  a: q`, "diff", "--server-side", "--field-manager=joe", "-f", "-")
	u.inputFails(strings.Replace(shop, "replicas: 2", "repilcas: 1", 1), 1, `\.spec\.repilcas: field not declared in schema|unknown field "spec\.repilcas"`, "apply", "--server-side", "-f", "-")
}

func wait(u *user) {
	u.ok(`created`, "run", "p", "--image="+tools, "--restart=Never", "--", "sh", "-c", "sleep 1; exit 0")
	u.ok(`pod/p condition met`, "wait", "pod/p", "--for=condition=PodScheduled", "--timeout=30s")
	u.ok(`pod/p condition met`, "wait", "pod", "-l", "run=p", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=30s")
	u.fails(1, `error: timed out waiting for the condition on pods/p`, "wait", "pod/p", "--for=condition=Ready", "--timeout=1s")
	u.ok(`pod/p condition met`, "wait", "pod/p", "--for=condition=Ready=False", "--timeout=1s")
	u.fails(1, `pods "none" not found`, "wait", "pod/none", "--for=condition=Ready", "--timeout=1s")
	u.ok(`^$`, "wait", "pod/none", "--for=delete", "--timeout=1s")
	u.ok(`p +0/1 +Completed +0`, "get", "pod", "p")
	done := make(chan string)
	go func() {
		out, err := u.try("", "wait", "pod/p", "--for=delete", "--timeout=30s")
		done <- fmt.Sprintf("%s, %v", out, err)
	}()
	u.ok(`pod "p" deleted`, "delete", "pod", "p")
	if got := <-done; got != "pod/p condition met\n, <nil>" && got != ", <nil>" {
		u.Error(got)
	}
	u.ok(`created`, "create", "deployment", "d", "--image="+podinfo)
	u.ok(`deployment.apps/d condition met`, "wait", "deployment/d", "--for=condition=Available", "--timeout=60s")
}

// edit lets an editor that cannot see change an object.
func edit(u *user) {
	u.ok(`created`, "create", "configmap", "c", "--from-literal=a=before")
	editor := filepath.Join(u.TempDir(), "editor")
	if err := os.WriteFile(editor, []byte("#!/bin/sh\nexec sed -i s/before/after/ \"$1\"\n"), 0o700); err != nil {
		u.Fatal(err)
	}
	u.env = []string{"KUBE_EDITOR=" + editor}
	u.ok(`configmap/c edited`, "edit", "configmap", "c")
	u.ok(`^after$`, "get", "configmap", "c", "-o", "jsonpath={.data.a}")
}

// kustomize applies a folder.
func kustomize(u *user) {
	folder := u.TempDir()
	for name, content := range map[string]string{
		"shop.yaml": shop,
		"kustomization.yaml": "namespace: " + u.namespace + "\nnamePrefix: my-\nresources: [shop.yaml]\nreplicas: [{name: shop, count: 0}]\n" +
			"configMapGenerator: [{name: made, literals: [a=b]}]\nlabels: [{pairs: {team: blue}}]\n",
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o600); err != nil {
			u.Fatal(err)
		}
	}
	u.ok(`configmap/my-made-\w+ created.*configmap/my-settings created.*service/my-shop created.*deployment.apps/my-shop created`, "apply", "-k", folder)
	u.ok(`configmap/my-made-\w+ unchanged.*deployment.apps/my-shop unchanged`, "apply", "-k", folder)
	u.ok(`^$`, "diff", "-k", folder)
	u.ok(`my-shop +0/0`, "get", "deployments", "-l", "team=blue")
	u.ok(`deployment.apps "my-shop" deleted`, "delete", "-k", folder)
	// What the folder no longer has is pruned.
	u.ok(`created`, "apply", "-k", folder)
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte("namespace: "+u.namespace+"\nconfigMapGenerator: [{name: made, literals: [a=b]}]\nlabels: [{pairs: {team: blue}}]\n"), 0o600); err != nil {
		u.Fatal(err)
	}
	u.ok(`configmap/made-\w+ created.*(deployment.apps/my-shop|service/my-shop) pruned`, "apply", "-k", folder, "--prune", "-l", "team=blue")
	u.ok(`No resources found`, "get", "deployments")
}

// TestDrain empties a node of one application; alone, because it changes a node.
func TestDrain(t *testing.T) {
	u := newUser(t, installed())
	u.input(shop, `created`, "apply", "-f", "-")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	node := u.ok(`node-`, "get", "pods", "-o", "jsonpath={.items[0].spec.nodeName}")
	defer u.ok(`uncordoned`, "uncordon", node)
	u.ok(`node/`+node+` cordoned.*evicting pod `+u.namespace+`/shop-.*node/`+node+` drained`, "drain", node, "--pod-selector=app=shop", "--timeout=60s")
	u.ok(node+` +Ready,SchedulingDisabled`, "get", "node", node)
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	if nodes := u.ok(`node-`, "get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"); strings.Contains(nodes, node) {
		t.Errorf("pods on %s after it was drained: %s", node, nodes)
	}
}
