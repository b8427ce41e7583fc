package swap

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tinykube/internal/testenv"
	"tinykube/test/clusters"
)

// step is one command line and what it must print (a regular expression over
// standard output and error together).
type step struct {
	args  string
	stdin string
	want  string
	fails bool
}

const webManifest = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "app:1", ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

// The verbs that need nothing but an API server: no controller answers here,
// and no node. Each step builds on those before it.
var steps = []step{
	{args: "get --raw /version", want: `"gitVersion": ?"v1\.36`},
	{args: "cluster-info", want: `Kubernetes control plane.* is running at https://`},
	{args: "api-versions", want: `(?m)^apps/v1$`},
	{args: "api-resources", want: `(?m)^deployments +deploy +apps/v1 +true +Deployment$`},
	{args: "explain deployment.spec.strategy", want: `(?s)KIND: +Deployment.*rollingUpdate`},
	{args: "explain pod.spec.containers --recursive", want: `livenessProbe`},
	{args: "get namespaces", want: `(?m)^kube-system +Active`},
	{args: "create namespace shop", want: `namespace/shop created`},
	{args: "create configmap colours --from-literal=a=red -n shop", want: `configmap/colours created`},
	{args: "create secret generic keys --from-literal=k=v -n shop", want: `secret/keys created`},
	{args: "create serviceaccount default -n shop", want: `serviceaccount/default created`},
	{args: "create serviceaccount robot -n shop", want: `serviceaccount/robot created`},
	{args: "create deployment made --image=app:1 --replicas=3 -n shop", want: `deployment.apps/made created`},
	{args: "get configmap colours -n shop -o jsonpath={.data.a}", want: `^red$`},
	{args: "get configmap colours -n shop -o yaml", want: `(?m)^  a: red$`},
	{args: "get configmap colours -n shop -o json", want: `"a": "red"`},
	{args: "get configmap nope -n shop", want: `Error from server \(NotFound\): configmaps "nope" not found`, fails: true},
	{args: "apply -n shop -f -", stdin: webManifest, want: `deployment.apps/web created\nservice/web created`},
	{args: "apply -n shop -f -", stdin: webManifest, want: `deployment.apps/web unchanged\nservice/web unchanged`},
	{args: "apply -n shop -f -", stdin: strings.Replace(webManifest, "replicas: 2", "replicas: 4", 1), want: `deployment.apps/web configured`},
	{args: "diff -n shop -f -", stdin: strings.Replace(webManifest, "app:1", "app:2", 1), want: `(?m)^\+.*image: app:2`, fails: true},
	{args: "apply -n shop -f -", stdin: strings.Replace(webManifest, "replicas", "repilcas", 1), want: `unknown field "spec.repilcas"`, fails: true},
	{args: "get deploy,svc -n shop", want: `(?m)^deployment.apps/web +0/\d`},
	{args: "get deploy web -n shop -o wide", want: `(?m)^NAME.*CONTAINERS +IMAGES +SELECTOR\nweb .* app:1 +app=web`},
	{args: "get deploy -A -l app=web", want: `(?m)^shop +web`},
	{args: "get deploy -n shop --sort-by=.metadata.name", want: `(?s)made.*web`},
	{args: "get deploy web -n shop -w --request-timeout=2s", want: `(?m)^web `},
	{args: "describe deploy web -n shop", want: `(?s)Selector: +app=web.*StrategyType: +RollingUpdate`},
	{args: "describe svc web -n shop", want: `Port: +<unset> +80/TCP`},
	{args: "patch deploy web -n shop -p {\"spec\":{\"replicas\":5}}", want: `deployment.apps/web patched`},
	{args: "patch deploy web -n shop --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":6}]", want: `patched`},
	{args: "patch deploy web -n shop --type=merge -p {\"spec\":{\"paused\":false}}", want: `patched`},
	{args: "label deploy web -n shop tier=front", want: `deployment.apps/web labeled`},
	{args: "label deploy web -n shop tier-", want: `deployment.apps/web unlabeled`},
	{args: "annotate deploy web -n shop note=hello", want: `deployment.apps/web annotated`},
	{args: "scale deploy web -n shop --replicas=1", want: `deployment.apps/web scaled`},
	{args: "get deploy web -n shop -o jsonpath={.spec.replicas}", want: `^1$`},
	{args: "set image deploy/web web=app:3 -n shop", want: `deployment.apps/web image updated`},
	{args: "rollout restart deploy/web -n shop", want: `deployment.apps/web restarted`},
	{args: "rollout pause deploy/web -n shop", want: `deployment.apps/web paused`},
	{args: "rollout resume deploy/web -n shop", want: `deployment.apps/web resumed`},
	{args: "expose deploy web --name=other --port=81 -n shop", want: `service/other exposed`},
	{args: "run single --image=app:1 -n shop", want: `pod/single created`},
	{args: "get pod single -n shop", want: `(?m)^single +0/1 +Pending +0`},
	{args: "describe pod single -n shop", want: `(?s)Status: +Pending.*QoS Class: +BestEffort`},
	{args: "wait --for=jsonpath={.status.phase}=Pending pod/single -n shop --timeout=5s", want: `pod/single condition met`},
	{args: "create token robot -n shop", want: `^ey[\w-]+\.[\w-]+\.[\w-]+\s*$`},
	{args: "auth can-i create pods -n shop", want: `yes`},
	{args: "delete pod single -n shop", want: `pod "single" deleted`},
	{args: "wait --for=delete pod/single -n shop --timeout=5s", want: ``},
	{args: "get pods -n shop", want: `No resources found in shop namespace`},
	{args: "replace -n shop -f -", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: colours}\ndata: {a: blue}\n", want: `configmap/colours replaced`},
	{args: "delete deploy,svc --all -n shop", want: `(?s)deployment.apps "made" deleted.*service "web" deleted`},
	{args: "create -f - -n missing", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", want: `namespaces "missing" not found`, fails: true},
	{args: "create -f - -n shop", stdin: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n", want: `(?s)Invalid value: "Bad_Name".*RFC 1123`, fails: true},
	{args: "delete namespace shop --wait=false", want: `namespace "shop" deleted`},
}

func TestRealKubectl(t *testing.T) {
	path := clusters.Program(t, "KUBECTL")
	server := testenv.Start(t)
	env := append(os.Environ(), "KUBECONFIG="+kubeconfig(t, server), "HOME="+t.TempDir())
	run := func(ctx context.Context, s step, dir string) (string, error) {
		cmd := exec.CommandContext(ctx, path, strings.Split(s.args, " ")...)
		cmd.Env, cmd.Dir = env, dir
		cmd.Stdin = strings.NewReader(s.stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	check := func(t *testing.T, s step, dir string) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		out, err := run(ctx, s, dir)
		if (err != nil) != s.fails {
			t.Errorf("kubectl %s: %v\n%s", s.args, err, out)
		} else if !regexp.MustCompile(s.want).MatchString(out) {
			t.Errorf("kubectl %s printed, without %q:\n%s", s.args, s.want, out)
		}
	}
	for _, s := range steps {
		t.Run(strings.Join(strings.Fields(s.args)[:1], ""), func(t *testing.T) { check(t, s, t.TempDir()) })
	}
	t.Run("apply -k", func(t *testing.T) {
		dir := t.TempDir()
		for name, content := range map[string]string{
			"kustomization.yaml": "namespace: default\nnamePrefix: my-\nresources: [web.yaml]\n", "web.yaml": webManifest} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		check(t, step{args: "apply -k .", want: `deployment.apps/my-web created`}, dir)
	})
}
