package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/client"
	"tinykube/controllers/certificates"
	"tinykube/controllers/nodeipam"
	"tinykube/controllers/serviceaccounttoken"
	"tinykube/internal/testenv"
)

// These tests run the manager against the real API server and etcd, with the
// rights that upstream gives it: its own identity, and a service account per
// controller.

// managerIdentity issues the certificate of system:kube-controller-manager.
func managerIdentity(t *testing.T, env *testenv.Env) *client.Config {
	t.Helper()
	pki := filepath.Join(env.Dir, "pki")
	ca := must(tls.LoadX509KeyPair(filepath.Join(pki, "ca.crt"), filepath.Join(pki, "ca.key")))
	issuer := must(x509.ParseCertificate(ca.Certificate[0]))
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: "system:kube-controller-manager"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), ca.PrivateKey))
	cfg := *env.Config
	cfg.CertFile, cfg.KeyFile = "", ""
	cfg.CertData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	cfg.KeyData = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))})
	return &cfg
}

// realCluster starts a server, nodes and a manager.
func realCluster(t *testing.T) (*cluster, *testenv.Env) {
	env := testenv.New(t)
	cfg := quick
	cfg.Controllers, cfg.GarbageCollector, cfg.OwnIdentities = []string{"*", "bootstrapsigner", "tokencleaner"}, true, true
	cfg.API = managerIdentity(t, env)
	cfg.RootCA, cfg.AllocateNodeCIDRs = "a certificate", true
	cfg.NodeIPAM = nodeipam.Config{Ranges: []nodeipam.Range{{Cluster: netip.MustParsePrefix("10.244.0.0/16"), NodeBits: 24}}}
	pki := filepath.Join(env.Dir, "pki")
	cfg.TokenSigner = must(serviceaccounttoken.NewSigner(must(os.ReadFile(filepath.Join(pki, "sa.key")))))
	cfg.Signing = certificates.SigningConfig{Duration: time.Hour, CAs: map[string]certificates.CA{
		certificatesv1.KubeAPIServerClientKubeletSignerName: {CertFile: filepath.Join(pki, "ca.crt"), KeyFile: filepath.Join(pki, "ca.key")}}}
	c := &cluster{t: t, cfg: cfg, tick: 50 * time.Millisecond, client: must(client.New(env.Config))}
	c.addNodes("node-0", "node-1", "node-2")
	c.start()
	return c, env
}

var sample = regexp.MustCompile(`(?m)^controller_writes_total\{.*\} (\d+)$`)

// writes is how many writes the manager has made so far.
func (c *cluster) writesSoFar() (total int) {
	w := httptest.NewRecorder()
	c.manager.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, match := range sample.FindAllStringSubmatch(w.Body.String(), -1) {
		var n int
		_, _ = fmt.Sscan(match[1], &n)
		total += n
	}
	return total
}

// atRest waits until the manager writes nothing for a while.
func (c *cluster) atRest() {
	c.t.Helper()
	for range 100 {
		before := c.writesSoFar()
		time.Sleep(400 * time.Millisecond)
		if c.writesSoFar() == before {
			return
		}
	}
	c.t.Fatal("the manager never stops writing")
}

func (c *cluster) namespace(name string) {
	must(client.For(c.client, client.Namespaces).Create(c.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	c.until("default service account", time.Minute, func() bool {
		_, err := client.For(c.client, client.ServiceAccounts).Get(c.t.Context(), name, "default")
		return err == nil
	})
}

func list[T client.Object](c *cluster, kind client.Kind[T], namespace string) []T {
	return must(client.For(c.client, kind).List(c.t.Context(), namespace, metav1.ListOptions{})).Items
}

// change edits an object until nobody was faster.
func change[T client.Object](c *cluster, kind client.Kind[T], namespace, name string, edit func(T)) {
	c.t.Helper()
	for {
		obj := must(client.For(c.client, kind).Get(c.t.Context(), namespace, name))
		edit(obj)
		_, err := client.For(c.client, kind).Update(c.t.Context(), obj)
		if !apierrors.IsConflict(err) {
			must(obj, err)
			return
		}
	}
}

func webDeployment(namespace, image string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "c", Image: image, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
					LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("http")}}},
				}}},
			},
		},
	}
}

func complete(d *appsv1.Deployment) bool {
	want := *d.Spec.Replicas
	return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == want && d.Status.AvailableReplicas == want && d.Status.Replicas == want
}

func (c *cluster) rolledOut(namespace string) {
	c.t.Helper()
	c.until("rolled out", time.Minute, func() bool {
		return complete(must(client.For(c.client, client.Deployments).Get(c.t.Context(), namespace, "web")))
	})
}

// TestOnTheWire shares one server among its parts: starting one is what costs.
func TestOnTheWire(t *testing.T) {
	t.Parallel() // it waits most of the time
	c, env := realCluster(t)
	defer c.stop()
	part := func(name string, f func(t *testing.T, c *cluster)) {
		t.Run(name, func(t *testing.T) {
			sub := *c
			sub.t = t
			f(t, &sub)
			c.manager = sub.manager
		})
	}
	part("nodes get ranges", testRanges)
	part("rollout", testRollout)
	part("daemon set", testDaemonSet)
	part("garbage", testGarbage)
	part("namespace", testNamespace)
	part("furniture", testFurniture)
	part("jobs", testJobs)
	part("stateful set", testStatefulSet)
	part("quota", testQuota)
	part("certificates and tokens", func(t *testing.T, c *cluster) { testTokens(t, c, env) })
	part("manifests", testManifests)
	part("server restarts in a rollout", func(t *testing.T, c *cluster) { testServerRestart(t, c, env) })
	c.atRest()
}

func testRanges(t *testing.T, c *cluster) {
	ranges := func() map[string]string {
		found := map[string]string{}
		c.until("ranges", time.Minute, func() bool {
			clear(found)
			for _, node := range list(c, client.Nodes, "") {
				if node.Spec.PodCIDR != "" {
					found[node.Spec.PodCIDR] = node.Name
				}
			}
			return len(found) == 3
		})
		return found
	}
	before := ranges()
	_ = client.For(c.client, client.Nodes).Delete(t.Context(), "", "node-2", metav1.DeleteOptions{})
	must(client.For(c.client, client.Nodes).Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-2"}}))
	for cidr, name := range ranges() {
		if was, ok := before[cidr]; ok && was != name || name == "node-2" && ok {
			t.Errorf("%s of %s was %s's: a range that came free is used last", cidr, name, was)
		}
	}
}

func testRollout(t *testing.T, c *cluster) {
	const ns = "rollout"
	c.namespace(ns)
	must(client.For(c.client, client.Services).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}}},
	}))
	must(client.For(c.client, client.Deployments).Create(t.Context(), webDeployment(ns, "v1", 5)))
	c.rolledOut(ns)
	endpoints := func() (n int) {
		for _, slice := range list(c, client.EndpointSlices, ns) {
			for _, e := range slice.Endpoints {
				if *e.Conditions.Ready && *slice.Ports[0].Port == 8080 {
					n++
				}
			}
		}
		return n
	}
	c.until("five endpoints", time.Minute, func() bool {
		old := must(client.For(c.client, client.Endpoints).Get(t.Context(), ns, "web"))
		return endpoints() == 5 && len(old.Subsets) == 1 && len(old.Subsets[0].Addresses) == 5
	})
	c.atRest()

	for i, image := range []string{"v2", "v3", "v1"} {
		change(c, client.Deployments, ns, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
		c.rolledOut(ns)
		d := must(client.For(c.client, client.Deployments).Get(t.Context(), ns, "web"))
		if got, want := d.Annotations["deployment.kubernetes.io/revision"], fmt.Sprint(i+2); got != want {
			t.Errorf("revision %s after %s, want %s", got, image, want)
		}
	}
	if n := len(list(c, client.ReplicaSets, ns)); n != 3 {
		t.Errorf("%d ReplicaSets, want one per template", n)
	}
	change(c, client.Deployments, ns, "web", func(d *appsv1.Deployment) { *d.Spec.Replicas = 2 })
	c.rolledOut(ns)
	c.until("two pods", time.Minute, func() bool { return len(list(c, client.Pods, ns)) == 2 && endpoints() == 2 })

	// A pod whose label changes is let go and replaced; when it comes back, it
	// is one too many.
	pod := list(c, client.Pods, ns)[0]
	relabel := func(label string) {
		patch := fmt.Sprintf(`{"metadata":{"labels":{"app":%q}}}`, label)
		must(client.For(c.client, client.Pods).Patch(t.Context(), ns, pod.Name, types.MergePatchType, []byte(patch)))
	}
	relabel("debug")
	c.until("released and replaced", time.Minute, func() bool {
		now := must(client.For(c.client, client.Pods).Get(t.Context(), ns, pod.Name))
		return len(now.OwnerReferences) == 0 && len(list(c, client.Pods, ns)) == 3
	})
	relabel("web")
	c.until("adopted, and one deleted", time.Minute, func() bool {
		pods := list(c, client.Pods, ns)
		return len(pods) == 2 && metav1.GetControllerOf(pods[0]) != nil && metav1.GetControllerOf(pods[1]) != nil
	})
	c.atRest()
	c.events(ns, "Deployment", "ScalingReplicaSet", "Scaled up replica set web-")
	c.events(ns, "ReplicaSet", "SuccessfulCreate", "Created pod: web-")
}

// events expects an event about a kind.
func (c *cluster) events(namespace, kind, reason, message string) {
	c.t.Helper()
	c.until("event "+reason, 10*time.Second, func() bool {
		for _, e := range list(c, client.Events, namespace) {
			if e.InvolvedObject.Kind == kind && e.Reason == reason && strings.HasPrefix(e.Message, message) {
				return true
			}
		}
		return false
	})
}

func testDaemonSet(t *testing.T, c *cluster) {
	const ns = "daemons"
	c.namespace(ns)
	must(client.For(c.client, client.DaemonSets).Create(t.Context(), agent(ns)))
	settled := func(image string) {
		t.Helper()
		c.until("an agent "+image+" on each node", time.Minute, func() bool {
			on := map[string]bool{}
			for _, pod := range list(c, client.Pods, ns) {
				if pod.Spec.Containers[0].Image == image && pod.Status.Phase == corev1.PodRunning {
					on[pod.Spec.NodeName] = true
				}
			}
			s := must(client.For(c.client, client.DaemonSets).Get(t.Context(), ns, "agent")).Status
			return len(on) == 3 && s.NumberAvailable == 3 && s.UpdatedNumberScheduled == 3 && s.DesiredNumberScheduled == 3
		})
	}
	settled("v1")
	change(c, client.DaemonSets, ns, "agent", func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = "v2" })
	settled("v2")
	revisions := list(c, client.ControllerRevisions, ns)
	if len(revisions) != 2 {
		t.Fatalf("%d revisions", len(revisions))
	}
	for _, revision := range revisions {
		if revision.Revision == 1 { // as kubectl rollout undo
			must(client.For(c.client, client.DaemonSets).Patch(t.Context(), ns, "agent", types.StrategicMergePatchType, revision.Data.Raw))
		}
	}
	settled("v1")
	if n := len(list(c, client.ControllerRevisions, ns)); n != 2 {
		t.Errorf("%d revisions after undo, want 2: the old one is current again", n)
	}
	c.atRest()
}

func testGarbage(t *testing.T, c *cluster) {
	const ns = "garbage"
	c.namespace(ns)
	deployments := client.For(c.client, client.Deployments)
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
		must(deployments.Create(t.Context(), webDeployment(ns, "v1", 3)))
		c.rolledOut(ns)
		if err := deployments.Delete(t.Context(), ns, "web", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
			t.Fatal(err)
		}
		if policy == metav1.DeletePropagationForeground {
			if _, err := deployments.Get(t.Context(), ns, "web"); err != nil {
				t.Errorf("in the foreground, it must outlive its pods: %v", err)
			}
		}
		c.until("all gone", time.Minute, func() bool {
			return len(list(c, client.Deployments, ns))+len(list(c, client.ReplicaSets, ns))+len(list(c, client.Pods, ns)) == 0
		})
	}
	orphan := metav1.DeletePropagationOrphan
	must(deployments.Create(t.Context(), webDeployment(ns, "v1", 2)))
	c.rolledOut(ns)
	if err := deployments.Delete(t.Context(), ns, "web", metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil {
		t.Fatal(err)
	}
	c.until("orphaned", time.Minute, func() bool {
		sets := list(c, client.ReplicaSets, ns)
		return len(list(c, client.Deployments, ns)) == 0 && len(sets) == 1 && len(sets[0].OwnerReferences) == 0
	})
	c.atRest()
	if n := len(list(c, client.Pods, ns)); n != 2 {
		t.Errorf("%d pods after orphaning, want 2", n)
	}
	// The same Deployment again takes its ReplicaSet back.
	must(deployments.Create(t.Context(), webDeployment(ns, "v1", 2)))
	c.rolledOut(ns)
	if sets := list(c, client.ReplicaSets, ns); len(sets) != 1 || metav1.GetControllerOf(sets[0]) == nil {
		t.Errorf("%d ReplicaSets", len(sets))
	}

	// What names an owner that never existed goes; what names one whose kind
	// nobody knows stays.
	maps := client.For(c.client, client.ConfigMaps)
	for name, ref := range map[string]metav1.OwnerReference{
		"dangling": {APIVersion: "v1", Kind: "ConfigMap", Name: "nobody", UID: "no-such-uid"},
		"unsure":   {APIVersion: "example.com/v1", Kind: "Widget", Name: "w", UID: "some-uid"},
		"foreign":  {APIVersion: "v1", Kind: "ConfigMap", Name: "kube-root-ca.crt", UID: must(maps.Get(t.Context(), "default", "kube-root-ca.crt")).UID},
	} {
		must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: []metav1.OwnerReference{ref}}}))
	}
	exists := func(name string) bool {
		_, err := maps.Get(t.Context(), ns, name)
		return err == nil
	}
	c.until("dangling ones gone", time.Minute, func() bool { return !exists("dangling") && !exists("foreign") })
	if !exists("unsure") {
		t.Error("deleted what it could not be sure of")
	}
}

func testNamespace(t *testing.T, c *cluster) {
	const ns = "doomed"
	c.namespace(ns)
	must(client.For(c.client, client.Deployments).Create(t.Context(), webDeployment(ns, "v1", 4)))
	c.rolledOut(ns)
	held := must(client.For(c.client, client.ConfigMaps).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "held", Finalizers: []string{"example.com/hold"}},
	}))
	for i := range 50 {
		must(client.For(c.client, client.Secrets).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("s", i)}}))
	}
	if err := client.For(c.client, client.Namespaces).Delete(t.Context(), "", ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	message := func(t2 corev1.NamespaceConditionType) string {
		namespace, err := client.For(c.client, client.Namespaces).Get(t.Context(), "", ns)
		if err != nil {
			return err.Error()
		}
		for _, condition := range namespace.Status.Conditions {
			if condition.Type == t2 {
				return condition.Message
			}
		}
		return ""
	}
	c.until("waits for the finalizer, and says so", time.Minute, func() bool {
		return message(corev1.NamespaceFinalizersRemaining) == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances" &&
			message(corev1.NamespaceContentRemaining) == "Some resources are remaining: configmaps. has 1 resource instances"
	})
	must(client.For(c.client, client.ConfigMaps).Patch(t.Context(), ns, held.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
	c.until("gone", time.Minute, func() bool {
		_, err := client.For(c.client, client.Namespaces).Get(t.Context(), "", ns)
		return apierrors.IsNotFound(err)
	})
}

func testFurniture(t *testing.T, c *cluster) {
	const ns = "furnished"
	c.namespace(ns)
	maps, accounts := client.For(c.client, client.ConfigMaps), client.For(c.client, client.ServiceAccounts)
	published := func() bool {
		cm, err := maps.Get(t.Context(), ns, "kube-root-ca.crt")
		return err == nil && cm.Data["ca.crt"] == "a certificate"
	}
	c.until("root CA", time.Minute, published)
	change(c, client.ConfigMaps, ns, "kube-root-ca.crt", func(cm *corev1.ConfigMap) { cm.Data["ca.crt"] = "forged" })
	c.until("root CA put right", time.Minute, published)
	_ = maps.Delete(t.Context(), ns, "kube-root-ca.crt", metav1.DeleteOptions{})
	_ = accounts.Delete(t.Context(), ns, "default", metav1.DeleteOptions{})
	c.until("both back", time.Minute, func() bool {
		_, err := accounts.Get(t.Context(), ns, "default")
		return err == nil && published()
	})
}

func testServerRestart(t *testing.T, c *cluster, env *testenv.Env) {
	const ns = "restart"
	c.namespace(ns)
	must(client.For(c.client, client.Deployments).Create(t.Context(), webDeployment(ns, "v1", 30)))
	env.StopServer() // with requests on the way
	time.Sleep(200 * time.Millisecond)
	env.StartServer(t)
	c.rolledOut(ns)
	if n := len(list(c, client.Pods, ns)); n != 30 {
		t.Errorf("%d pods", n)
	}
	change(c, client.Deployments, ns, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
	time.Sleep(100 * time.Millisecond)
	// A new manager beside nothing but the API takes over.
	c.stopManager()
	c.start()
	c.rolledOut(ns)
	c.until("30 pods", time.Minute, func() bool { return len(list(c, client.Pods, ns)) == 30 })
	c.atRest()
}
