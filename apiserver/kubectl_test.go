package apiserver_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tinykube/internal/testenv"
)

// An unmodified kubectl is the judge. Each step is a command and what it must
// print (a regular expression); there are no controllers and no nodes here, so
// nothing ever runs.
var kubectlSteps = []struct{ command, stdin, want string }{
	{"version", "", `Server Version: v1\.36\.\d+\+tinykube`},
	{"cluster-info", "", `control plane.* is running at .*https://127\.0\.0\.1`},
	{"api-resources --namespaced=true", "", `(?s)configmaps +cm +v1 +true +ConfigMap.*deployments +deploy +apps/v1 +true +Deployment`},
	{"api-versions", "", `(?s)apps/v1.*storage.k8s.io/v1`},
	{"create namespace demo", "", `namespace/demo created`},
	{"create serviceaccount default -n demo", "", `created`},
	{"create configmap settings -n demo --from-literal=colour=blue", "", `configmap/settings created`},
	{"create secret generic token -n demo --from-literal=k=v", "", `secret/token created`},
	{"create deployment web -n demo --image=nginx --replicas=2", "", `deployment.apps/web created`},
	{"get deploy -n demo", "", `NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nweb +0/2 +0 +0 +\d+s`},
	{"get deploy -n demo -o wide", "", `CONTAINERS +IMAGES +SELECTOR\n.*nginx +nginx +app=web`},
	{"get deploy web -n demo -o yaml", "", `(?s)apiVersion: apps/v1\nkind: Deployment.*replicas: 2`},
	{"get deploy web -n demo -o json", "", `"kind": "Deployment"`},
	{"get deploy web -n demo -o jsonpath={.spec.template.spec.containers[0].image}", "", `^nginx$`},
	{"get all -A", "", `demo +deployment.apps/web`},
	{"get configmaps -A -l a=b", "", `No resources found`},
	{"get cm -n demo --sort-by=.metadata.name", "", `settings`},
	{"describe deploy web -n demo", "", `(?s)Name: +web.*Replicas: +2 desired`},
	{"scale deploy web -n demo --replicas=3", "", `scaled`},
	{"get deploy web -n demo -o jsonpath={.spec.replicas}:{.metadata.generation}", "", `^3:2$`},
	{"set image deploy/web -n demo nginx=nginx:2", "", `image updated`},
	{"set env deploy/web -n demo A=B", "", `env updated`},
	{"label deploy web -n demo tier=front", "", `labeled`},
	{"label deploy web -n demo tier-", "", `unlabeled`},
	{"annotate deploy web -n demo note=x", "", `annotated`},
	{`patch deploy web -n demo -p {"spec":{"minReadySeconds":3}}`, "", `patched`},
	{`patch deploy web -n demo --type=merge -p {"spec":{"minReadySeconds":4}}`, "", `patched`},
	{`patch deploy web -n demo --type=json -p [{"op":"replace","path":"/spec/minReadySeconds","value":5}]`, "", `patched`},
	{"wait deploy/web -n demo --for=jsonpath={.spec.minReadySeconds}=5 --timeout=20s", "", `condition met`},
	{"expose deploy web -n demo --port=80 --type=NodePort", "", `service/web exposed`},
	{"get svc web -n demo", "", `web +NodePort +10\.\d+\.\d+\.\d+ +<none> +80:3\d{4}/TCP`},
	{"rollout restart deploy/web -n demo", "", `restarted`},
	{"rollout history deploy/web -n demo", "", `deployment.apps/web|No rollout history found`},
	{"rollout status deploy/web -n demo --watch=false", "", `Waiting for deployment`},
	{"run once -n demo --image=busybox --restart=Never", "", `pod/once created`},
	{"get pod once -n demo", "", `once +0/1 +Pending +0`},
	{"describe pod once -n demo", "", `(?s)Node: +<none>.*kube-api-access`},
	{"logs once -n demo", "", `^$`},
	{"exec once -n demo -- true", "", `pod once does not have a host assigned`},
	{"delete pod once -n demo", "", `pod "once" deleted`},
	{"create token default -n demo", "", `^eyJ[^.]+\.eyJ[^.]+\.[\w-]+\s*$`},
	{"auth can-i delete pods -n demo", "", `^yes`},
	{"auth can-i delete pods -n demo --as=system:serviceaccount:demo:default", "", `^no`},
	{"create role reader -n demo --verb=get,list --resource=pods", "", `created`},
	{"create rolebinding reader -n demo --role=reader --serviceaccount=demo:default", "", `created`},
	{"auth can-i list pods -n demo --as=system:serviceaccount:demo:default", "", `^yes`},
	{"get secrets -n demo --as=system:serviceaccount:demo:default", "",
		`secrets is forbidden: User "system:serviceaccount:demo:default" cannot list resource "secrets" in API group "" in the namespace "demo"`},
	{"auth whoami", "", `kubernetes-admin`},
	{"explain deployment.spec.strategy", "", `(?s)KIND: +Deployment.*rollingUpdate`},
	{"explain pod.spec.containers.livenessProbe.httpGet.port", "", `FIELD: port <IntOrString>`},
	{"apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: demo}\ndata: {x: '1'}\n", `configmap/a created`},
	{"apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: demo}\ndata: {x: '1'}\n", `configmap/a unchanged`},
	{"diff -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: demo}\ndata: {x: '2'}\n", `(?s)-  x: "1".*\+  x: "2"`},
	{"apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: demo}\ndata: {w: '2'}\n", `configmap/a configured`},
	{"get cm a -n demo -o jsonpath={.data}", "", `^\{"w":"2"\}$`},
	{"apply -f - --server-side --field-manager=other", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: demo}\ndata: {w: '3'}\n", `Apply failed with 1 conflict: conflict with "kubectl-client-side-apply" using v1: .data.w`},
	{"apply -f - --server-side --field-manager=other --force-conflicts", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: demo}\ndata: {w: '3'}\n", `configmap/a serverside-applied`},
	{"apply -f - --dry-run=server", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: dry, namespace: demo}\n", `configmap/dry created \(server dry run\)`},
	{"get cm dry -n demo", "", `configmaps "dry" not found`},
	{"apply -f -", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {replicas: x}\n", `(?s)invalid|cannot be handled`},
	{"apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\nfoo: 1\n", `unknown field "foo"`},
	{"replace -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: demo}\ndata: {z: '1'}\n", `configmap/a replaced`},
	{"edit cm a -n demo", "", `configmap/a edited|Edit cancelled`},
	{"delete cm a -n demo", "", `configmap "a" deleted`},
	{"delete deploy,svc --all -n demo", "", `(?s)deployment.apps "web" deleted.*service "web" deleted`},
	{"get events -n demo", "", `No resources found`},
	{"get nodes", "", `No resources found`},
	{"get --raw /readyz?verbose", "", `(?s)\[\+\]etcd ok.*readyz check passed`},
	{"get --raw /metrics", "", `apiserver_request_total\{code="201",component="apiserver",dry_run="",group="apps",resource="deployments"`},
	{"get hpa,cronjobs,pdb,ingress,netpol,sts,jobs,pvc,sc -A", "", `No resources found`},
	{"get storageclasses,priorityclasses", "", `system-node-critical +2000001000`},
	{"get clusterroles", "", `system:kube-scheduler`},
}

func TestKubectl(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("kubectl")
	if err != nil {
		t.Fatal(err)
	}
	env := testenv.New(t)
	kubectl := func(stdin string, args ...string) string {
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+env.Kubeconfig, "HOME="+env.Dir, "EDITOR=sed -i s/z:/zz:/")
		cmd.Stdin = strings.NewReader(stdin)
		out, _ := cmd.CombinedOutput() // its words are checked, not its code
		return string(out)
	}
	for _, step := range kubectlSteps {
		out := kubectl(step.stdin, strings.Fields(step.command)...)
		if !regexp.MustCompile(step.want).MatchString(out) {
			t.Errorf("kubectl %s\n%s\nwant %s", step.command, out, step.want)
		}
	}
	t.Run("kustomize", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "kustomization.yaml"), "namespace: demo\nnamePrefix: my-\nresources: [cm.yaml]\n")
		write(t, filepath.Join(dir, "cm.yaml"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: k}\n")
		if out := kubectl("", "apply", "-k", dir); out != "configmap/my-k created\n" {
			t.Error(out)
		}
	})
	t.Run("watch", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), binary, "get", "cm", "-n", "demo", "-w", "--output-watch-events")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+env.Kubeconfig, "HOME="+env.Dir)
		var out safeBuffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
		out.await(t, `ADDED +settings`)
		kubectl("", "create", "cm", "late", "-n", "demo")
		kubectl("", "label", "cm", "late", "-n", "demo", "a=b")
		kubectl("", "delete", "cm", "late", "-n", "demo")
		out.await(t, `(?s)ADDED +late.*MODIFIED +late.*DELETED +late`)
	})
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually tries until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 30 s", what)
		}
	}
}
