// Package controllers puts the real kube-controller-manager, by path in
// $KUBE_CONTROLLER_MANAGER, in the place of ours.
package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/reference"
	"tinykube/test/clusters"
)

// TestRealControllerManagerTakesOver: the demo and real applications, once made
// true by our controller manager and once by the real one, on hollow nodes. All
// that the two have written must be the same but for names drawn by lot. Each
// then takes over from the other: nothing that runs may be touched, and what
// changes next is done by the new one with what the old one left.
func TestRealControllerManagerTakesOver(t *testing.T) {
	path := clusters.Program(t, "KUBE_CONTROLLER_MANAGER")
	manifests := reference.Path(t, "manifests")
	c := clusters.New(t)
	c.Scheduler()
	c.Hollow(9) // MinIO wants one port of each of four nodes, twice
	c.Provision()

	ours := c.ControllerManager("")
	c.Ready(9)
	deployAll(t, c, manifests, "swap-ours")
	first := written(t, c, "swap-ours")
	before := running(t, c)
	ours.Stop()

	real := c.ControllerManager(path)
	deployAll(t, c, manifests, "swap-real")
	second := written(t, c, "swap-real")
	untouched(t, "the real one took over", before, running(t, c))
	compare(t, first, second)
	change(t, c, "swap-ours", "2")
	before = running(t, c)
	real.Stop()

	c.ControllerManager("")
	change(t, c, "swap-real", "2")
	untouched(t, "ours took over again", before, running(t, c), "swap-real")
	compare(t, written(t, c, "swap-ours"), written(t, c, "swap-real"))
	// The real one protects claims that are used; we have nobody yet who ends that.
	for _, namespace := range []string{"swap-ours", "swap-real"} {
		for _, claim := range strings.Fields(c.MustKubectl("get", "pvc", "-n", namespace, "-o", "name")) {
			c.MustKubectl("patch", "-n", namespace, claim, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
		}
	}
	c.MustKubectl("delete", "namespace", "swap-ours", "swap-real", "--wait=false")
	clusters.Eventually(t, "both namespaces are gone", func(ctx context.Context) (bool, error) {
		list, err := client.For(c.Client, client.Namespaces).List(ctx, "", metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		return !slices.ContainsFunc(list.Items, func(n *corev1.Namespace) bool { return strings.HasPrefix(n.Name, "swap-") }), nil
	})
}

// deployAll brings the demo, StatefulSets and Deployments of others, a budget, a
// Job and a DaemonSet into a namespace, and waits until all of it is true.
func deployAll(t *testing.T, c *clusters.Cluster, manifests, namespace string) {
	t.Helper()
	dir := t.TempDir()
	c.MustKubectl("create", "namespace", namespace)
	// Both have a backend and a frontend: the demo's get another name.
	demo := "namespace: " + namespace + "\nnamePrefix: demo-\nresources:\n"
	for _, file := range []string{"common/service-account", "backend/deployment", "backend/service", "frontend/deployment", "frontend/service"} {
		demo += "- base/" + file + ".yaml\n"
	}
	for name, app := range map[string]struct{ folder, kustomization string }{
		"dev":  {filepath.Join(manifests, "podinfo/deploy"), "namespace: " + namespace + "\nresources: [base/overlays/dev]\n"},
		"demo": {filepath.Join(reference.Checkout(t), "internal/payload/data/manifests/podinfo/webapp"), demo},
	} {
		overlay := filepath.Join(dir, name)
		if err := os.CopyFS(filepath.Join(overlay, "base"), os.DirFS(app.folder)); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(overlay, "kustomization.yaml"), app.kustomization)
		c.MustKubectl("apply", "-k", overlay)
	}
	// No metrics, no autoscaling; and no Jobs that begin in the middle of it.
	c.MustKubectl("delete", "hpa", "--all", "-n", namespace)
	for _, name := range strings.Fields(c.MustKubectl("get", "cronjob", "-n", namespace, "-o", "name")) {
		c.MustKubectl("patch", "-n", namespace, name, "-p", `{"spec":{"suspend":true}}`)
	}
	for _, app := range []string{"cassandra", "cockroachdb", "minio", "guestbook-go"} {
		out, err := c.Kubectl("apply", "-n", namespace, "-f", filepath.Join(manifests, "apps", app))
		if err != nil && !strings.Contains(out, "policy/v1beta1") { // a version that v1.36 has not either
			t.Fatalf("apply %s: %v\n%s", app, err, out)
		}
	}
	extra, quota := filepath.Join(dir, "extra.yaml"), filepath.Join(dir, "quota.yaml")
	write(t, extra, extraObjects)
	c.MustKubectl("apply", "-n", namespace, "-f", extra)
	c.MustKubectl("create", "job", "-n", namespace, "now", "--from=cronjob/backup-daily")
	atRest(t, c, namespace)
	write(t, quota, extraQuota) // last: nothing may be made before it has been counted
	c.MustKubectl("apply", "-n", namespace, "-f", quota)
	atRest(t, c, namespace)
}

const extraQuota = `
apiVersion: v1
kind: ResourceQuota
metadata: {name: team}
spec: {hard: {pods: "100", count/deployments.apps: "20", persistentvolumeclaims: "20", services: "30"}}
`

// extraObjects are kinds that the manifests lack.
const extraObjects = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: c, image: "agent:1"}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: cassandra}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: cassandra}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: parts}
spec:
  completions: 4
  parallelism: 2
  completionMode: Indexed
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "part:1"}]}}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: LoadBalancer, ports: [{port: 80}], selector: {app: agent}}
`

// change rolls one workload of each sort, and resizes another.
func change(t *testing.T, c *clusters.Cluster, namespace, version string) {
	t.Helper()
	c.MustKubectl("set", "image", "-n", namespace, "deployment/redis-master", "redis-master=redis:"+version)
	c.MustKubectl("set", "image", "-n", namespace, "statefulset/minio", "minio=minio:"+version)
	c.MustKubectl("set", "image", "-n", namespace, "daemonset/agent", "c=agent:"+version)
	c.MustKubectl("scale", "-n", namespace, "statefulset/cassandra", "--replicas=2")
	c.MustKubectl("scale", "-n", namespace, "deployment/frontend", "--replicas=3")
	c.MustKubectl("scale", "-n", namespace, "rc/guestbook", "--replicas=4")
	atRest(t, c, namespace)
}

// kinds are what controllers write.
var kinds = []string{
	"/apis/apps/v1/%s/deployments", "/apis/apps/v1/%s/replicasets", "/apis/apps/v1/%s/statefulsets", "/apis/apps/v1/%s/daemonsets",
	"/apis/apps/v1/%s/controllerrevisions", "/apis/batch/v1/%s/jobs", "/apis/batch/v1/%s/cronjobs", "/apis/policy/v1/%s/poddisruptionbudgets",
	"/api/v1/%s/pods", "/api/v1/%s/replicationcontrollers", "/api/v1/%s/endpoints", "/api/v1/%s/persistentvolumeclaims",
	"/api/v1/%s/serviceaccounts", "/api/v1/%s/configmaps", "/api/v1/%s/resourcequotas", "/apis/discovery.k8s.io/v1/%s/endpointslices",
}

func objectsOf(ctx context.Context, c *clusters.Cluster, kind, namespace string) ([]map[string]any, error) {
	list, err := c.Get(ctx, fmt.Sprintf(kind, "namespaces/"+namespace))
	if err != nil {
		return nil, err
	}
	var objects []map[string]any
	items, _ := list["items"].([]any)
	for _, item := range items {
		objects = append(objects, item.(map[string]any))
	}
	return objects, nil
}

// atRest waits until all workloads have what they ask for and nothing has been
// written for a while.
func atRest(t *testing.T, c *clusters.Cluster, namespace string) {
	t.Helper()
	c.MustKubectl("wait", "-n", namespace, "job", "--all", "--for=condition=Complete", "--timeout=110s")
	for _, workload := range []string{"deployment", "statefulset", "daemonset"} {
		for _, name := range strings.Fields(c.MustKubectl("get", workload, "-n", namespace, "-o", "name")) {
			c.MustKubectl("rollout", "status", "-n", namespace, name, "--timeout=110s")
		}
	}
	last, same := "", 0
	clusters.Eventually(t, namespace+" is at rest", func(ctx context.Context) (bool, error) {
		now := ""
		for _, kind := range kinds {
			objects, err := objectsOf(ctx, c, kind, namespace)
			if err != nil {
				return false, err
			}
			for _, o := range objects {
				now += fmt.Sprint(o["metadata"].(map[string]any)["resourceVersion"], " ")
			}
		}
		if same++; now != last {
			last, same = now, 0
		}
		return same == 40, fmt.Errorf("still changing")
	})
}

// running is the UID of every pod, with what made it.
func running(t *testing.T, c *clusters.Cluster) map[string]string {
	t.Helper()
	pods, err := client.For(c.Client, client.Pods).List(t.Context(), "", metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, pod := range pods.Items {
		owners, _ := json.Marshal(pod.OwnerReferences)
		found[pod.Namespace+"/"+pod.Name] = fmt.Sprintf("%s %s %v", pod.UID, owners, pod.Labels)
	}
	return found
}

func untouched(t *testing.T, when string, before, after map[string]string, but ...string) {
	t.Helper()
	for key, was := range before {
		namespace, _, _ := strings.Cut(key, "/")
		if is := after[key]; is != was && !slices.Contains(but, namespace) {
			t.Errorf("%s: pod %s was %s and is %q", when, key, was, is)
		}
	}
	if len(before) < 20 {
		t.Errorf("only %d pods ran", len(before))
	}
}

// written is all that controllers wrote about a namespace, by kind, without
// what differs from one time to the next.
func written(t *testing.T, c *clusters.Cluster, namespace string) map[string][]string {
	t.Helper()
	all, anonymous := map[string][]map[string]any{}, []string{namespace, "NAMESPACE"}
	for _, kind := range kinds {
		objects, err := objectsOf(t.Context(), c, kind, namespace)
		if err != nil {
			t.Fatal(err)
		}
		all[kind] = objects
		for _, o := range objects {
			anonymous = append(anonymous, names(o)...)
		}
	}
	events, err := objectsOf(t.Context(), c, "/api/v1/%s/events", namespace)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{"events": told(events, anonymous)}
	for kind, objects := range all {
		for _, o := range objects {
			delete(o, "apiVersion") // a list says it once, or each time
			m := o["metadata"].(map[string]any)
			if m["name"] == "openshift-service-ca.crt" || m["name"] == "default-dockercfg" {
				continue // a downstream build's
			}
			switch {
			case strings.HasSuffix(kind, "persistentvolumeclaims"):
				// Binding and protecting claims is the work of controllers that we have not.
				delete(m, "finalizers")
				if annotations, ok := m["annotations"].(map[string]any); ok {
					delete(annotations, "pv.kubernetes.io/bind-completed")
					delete(annotations, "pv.kubernetes.io/bound-by-controller")
					delete(annotations, "volume.kubernetes.io/storage-provisioner")
					delete(annotations, "volume.beta.kubernetes.io/storage-provisioner")
				}
			case strings.HasSuffix(kind, "endpointslices"):
				delete(m, "generation") // how often pods became ready at the same time
			}
			out[kind] = append(out[kind], plain(m["name"], anonymous)+" "+plain(scrub(o), anonymous))
		}
		slices.Sort(out[kind])
	}
	return out
}

// names are the parts of an object's names that are drawn by lot or computed
// by a hash of one's own, each with what stands for it.
func names(o map[string]any) (pairs []string) {
	raw, _ := json.Marshal(o)
	var object struct {
		Kind     string
		Metadata metav1.ObjectMeta
	}
	_ = json.Unmarshal(raw, &object)
	m := object.Metadata
	for _, label := range []string{"pod-template-hash", "controller-revision-hash", "controller.kubernetes.io/hash"} {
		if hash := m.Labels[label]; hash != "" {
			hash = hash[strings.LastIndex(hash, "-")+1:]
			pairs = append(pairs, hash, "HASH")
		}
	}
	if suffix, ok := strings.CutPrefix(m.Name, m.GenerateName); ok && m.GenerateName != "" && len(suffix) == 5 {
		pairs = append(pairs, suffix, "RANDOM")
	}
	return pairs
}

var (
	uid    = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	lot    = regexp.MustCompile(`-[bcdfghjklmnpqrstvwxz2456789]{5}\b`)
	access = regexp.MustCompile(`kube-api-access-[0-9a-z]{5}`)
)

func plain(o any, anonymous []string) string {
	raw, _ := json.MarshalIndent(o, "", " ")
	text := strings.NewReplacer(anonymous...).Replace(string(raw))
	return access.ReplaceAllString(uid.ReplaceAllString(text, "UID"), "kube-api-access-RANDOM")
}

// passing are fields that say when or where, or count what does not matter.
var passing = []string{"uid", "resourceVersion", "managedFields", "creationTimestamp", "lastTransitionTime", "lastUpdateTime", "lastProbeTime",
	"startTime", "completionTime", "startedAt", "finishedAt", "podIP", "podIPs", "hostIP", "hostIPs", "nodeName", "containerID",
	"lastSuccessfulTime", "addresses", "ip", "clusterIP", "clusterIPs", "volumeName", "lastHeartbeatTime"}

func scrub(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if annotations, ok := v["annotations"].(map[string]any); ok {
			// When there is one differs: upstream's is gone after a change that no
			// pod's readiness was the reason of.
			delete(annotations, "endpoints.kubernetes.io/last-change-trigger-time")
			if len(annotations) == 0 {
				delete(v, "annotations")
			}
		}
		for key, value := range v {
			if slices.Contains(passing, key) && key != "addresses" {
				delete(v, key)
				continue
			}
			if key == "addresses" {
				v[key] = fmt.Sprint(len(value.([]any)), " addresses")
				continue
			}
			v[key] = scrub(value)
		}
	case []any:
		for i := range v {
			v[i] = scrub(v[i])
		}
		slices.SortFunc(v, func(a, b any) int {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			return strings.Compare(string(x), string(y))
		})
	}
	return v
}

// told are the controllers' events, each once.
func told(events []map[string]any, anonymous []string) (lines []string) {
	for _, e := range events {
		component := fmt.Sprint(e["source"].(map[string]any)["component"], e["reportingComponent"])
		if strings.Contains(component, "kubelet") || strings.Contains(component, "scheduler") || strings.Contains(component, "persistentvolume") ||
			e["reason"] == "SyncLoadBalancerFailed" { // the real one says nothing about a Service that will wait for ever
			continue
		}
		object := e["involvedObject"].(map[string]any)
		if object["kind"] == "HorizontalPodAutoscaler" {
			continue
		}
		line := plain(fmt.Sprint(component, " ", e["type"], " ", e["reason"], " ", object["kind"], "/", object["name"], ": ", e["message"]), anonymous)
		line = lot.ReplaceAllString(line, "-RANDOM") // of pods that are gone
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	slices.Sort(lines)
	return lines
}

func compare(t *testing.T, ours, theirs map[string][]string) {
	t.Helper()
	total := 0
	for kind := range theirs {
		if diff := cmp.Diff(ours[kind], theirs[kind]); diff != "" {
			t.Errorf("%s differ, ours (-) and theirs (+):\n%s", kind, diff)
		}
		total += len(theirs[kind])
	}
	t.Logf("%d objects and events of ours and %d of the real one compared", count(ours), total)
}

func count(all map[string][]string) (n int) {
	for _, list := range all {
		n += len(list)
	}
	return n
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
