package controllers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/api/quota"
	"tinykube/client"
	"tinykube/controllers/certificates"
	"tinykube/controllers/nodeipam"
	"tinykube/controllers/serviceaccounttoken"
)

// keyFiles makes a CA and its key.
func keyFiles(t *testing.T) (cert, key string, keyPEM []byte) {
	private := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 24 * 3650), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, ca, ca, private.Public(), private))
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))})
	for file, content := range map[string][]byte{cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key: keyPEM} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key, keyPEM
}

// kubeletRequest is what a joining kubelet sends.
func kubeletRequest(name, user string) *certificatesv1.CertificateSigningRequest {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:" + name, Organization: []string{"system:nodes"}},
	}, key))
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), Username: user,
		SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
	}}
}

func service() *corev1.Service {
	return &corev1.Service{ObjectMeta: meta1("web"), Spec: corev1.ServiceSpec{
		Selector: web, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}},
	}}
}

func bootstrapSecret(id string, expires time.Time) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id}, Type: "bootstrap.kubernetes.io/token",
		Data: map[string][]byte{"token-id": []byte(id), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-signing": []byte("true"),
			"expiration": []byte(expires.UTC().Format(time.RFC3339))},
	}
}

var clusterScenarios = []scenario{
	{
		name: "disruption", controllers: []string{"replicaset", "disruption"}, nodes: 2,
		start: func(c *cluster) {
			create(c, client.PodDisruptionBudgets, &policyv1.PodDisruptionBudget{ObjectMeta: meta1("web"), Spec: policyv1.PodDisruptionBudgetSpec{
				MaxUnavailable: ptr(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: web},
			}})
			create(c, client.ReplicaSets, replicaSet(2))
		},
		change: func(c *cluster) {
			change(c, client.ReplicaSets, ns, "web", func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr(int32(3)) })
		},
		wrong: func(c *cluster) string {
			if s := get(c, client.PodDisruptionBudgets, ns, "web").Status; s.ExpectedPods != 3 || s.CurrentHealthy != 3 || s.DesiredHealthy != 2 || s.DisruptionsAllowed != 1 {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		},
		creates: map[string]int{"pods": 3},
	},
	{
		name: "resourcequota", controllers: []string{"replicaset", "resourcequota"},
		start: func(c *cluster) {
			quantity := resource.MustParse
			create(c, client.ResourceQuotas, &corev1.ResourceQuota{ObjectMeta: meta1("team"), Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
				"pods": quantity("10"), "requests.cpu": quantity("1"), "configmaps": quantity("5"), "count/replicasets.apps": quantity("3"),
			}}})
			create(c, client.ConfigMaps, &corev1.ConfigMap{ObjectMeta: meta1("one")})
			rs := replicaSet(3)
			rs.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": quantity("100m")}
			create(c, client.ReplicaSets, rs)
		},
		change: func(c *cluster) {
			change(c, client.ReplicaSets, ns, "web", func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr(int32(2)) })
		},
		wrong: func(c *cluster) string {
			used := get(c, client.ResourceQuotas, ns, "team").Status.Used
			if got := quota.Text(used); got != "configmaps=1,count/replicasets.apps=1,pods=2,requests.cpu=200m" {
				return got
			}
			return ""
		},
	},
	{
		name: "endpointslice and endpoints", controllers: []string{"replicaset", "endpointslice", "endpoint"}, nodes: 2,
		start: func(c *cluster) {
			create(c, client.Services, service())
			create(c, client.ReplicaSets, replicaSet(2))
		},
		change: func(c *cluster) {
			change(c, client.ReplicaSets, ns, "web", func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr(int32(3)) })
		},
		wrong: func(c *cluster) string {
			slices := list(c, client.EndpointSlices, ns)
			if len(slices) != 1 || len(slices[0].Endpoints) != 3 {
				return fmt.Sprintf("%d slices", len(slices))
			}
			if old := list(c, client.Endpoints, ns); len(old) != 1 || len(old[0].Subsets) != 1 || len(old[0].Subsets[0].Addresses) != 3 {
				return "Endpoints"
			}
			return ""
		},
		// The first slice is of a Service without pods: it knows no ports.
		creates: map[string]int{"pods": 3, "endpointslices": 2, "endpoints": 1},
	},
	{
		name: "nodelifecycle and taint-eviction", controllers: []string{"nodelifecycle", "taint-eviction-controller", "replicaset"}, nodes: 3,
		start: func(c *cluster) { create(c, client.ReplicaSets, replicaSet(4)) },
		change: func(c *cluster) {
			c.dead["node-2"].Store(true)
		},
		wrong: func(c *cluster) string {
			node := c.node("node-2")
			if ready(node) != corev1.ConditionUnknown || len(node.Spec.Taints) != 2 {
				return fmt.Sprintf("node-2 is %s with %d taints", ready(node), len(node.Spec.Taints))
			}
			n := 0
			for _, pod := range c.pods() {
				if pod.Spec.NodeName != "node-2" && pod.DeletionTimestamp == nil {
					n++
				}
			}
			if n != 4 {
				return fmt.Sprintf("%d pods on nodes that live", n)
			}
			return ""
		},
		creates: map[string]int{"pods": 8},
	},
	{
		name: "podgc", controllers: []string{"replicaset", "podgc"}, nodes: 2,
		start: func(c *cluster) { create(c, client.ReplicaSets, replicaSet(4)) },
		change: func(c *cluster) {
			c.dead["node-1"].Store(true)
			_ = client.For(c.client, client.Nodes).Delete(c.t.Context(), "", "node-1", metav1.DeleteOptions{})
		},
		wrong: func(c *cluster) string {
			for _, pod := range c.pods() {
				if pod.Spec.NodeName == "node-1" {
					return pod.Name + " is on a node that is gone"
				}
			}
			return c.podsAre("v1", 4)
		},
		creates: map[string]int{"pods": 8},
	},
	{
		name: "node-ipam", controllers: []string{"nodeipam"}, nodes: 5,
		config: func(_ *testing.T, cfg *Config) {
			cfg.AllocateNodeCIDRs = true
			cfg.NodeIPAM = nodeipam.Config{Ranges: []nodeipam.Range{{Cluster: netip.MustParsePrefix("10.244.0.0/16"), NodeBits: 24}}}
		},
		start: func(*cluster) {},
		wrong: func(c *cluster) string {
			seen := map[string]bool{"": true}
			for _, node := range list(c, client.Nodes, "") {
				if seen[node.Spec.PodCIDR] {
					return fmt.Sprintf("%s has %q", node.Name, node.Spec.PodCIDR)
				}
				seen[node.Spec.PodCIDR] = true
			}
			return ""
		},
	},
	{
		name: "ttl", controllers: []string{"ttl"}, nodes: 3,
		start: func(*cluster) {},
		wrong: func(c *cluster) string {
			for _, node := range list(c, client.Nodes, "") {
				if node.Annotations[corev1.ObjectTTLAnnotationKey] != "0" {
					return node.Name
				}
			}
			return ""
		},
	},
	{
		name: "serviceaccount and root-ca-cert-publisher", controllers: []string{"serviceaccount", "root-ca-cert-publisher"},
		config: func(_ *testing.T, cfg *Config) { cfg.RootCA = "PEM" },
		start: func(c *cluster) {
			create(c, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
		},
		change: func(c *cluster) {
			_ = client.For(c.client, client.ServiceAccounts).Delete(c.t.Context(), "shop", "default", metav1.DeleteOptions{})
		},
		wrong: func(c *cluster) string {
			accounts, configs := list(c, client.ServiceAccounts, "shop"), list(c, client.ConfigMaps, "shop")
			if len(accounts) != 1 || len(configs) != 1 || configs[0].Data["ca.crt"] != "PEM" {
				return fmt.Sprintf("%d accounts, %d ConfigMaps", len(accounts), len(configs))
			}
			return ""
		},
		creates: map[string]int{"serviceaccounts": 2, "configmaps": 1},
	},
	{
		name: "serviceaccount-token", controllers: []string{"serviceaccount-token"},
		config: func(t *testing.T, cfg *Config) {
			_, _, key := keyFiles(t)
			cfg.RootCA, cfg.TokenSigner = "PEM", must(serviceaccounttoken.NewSigner(key))
		},
		start: func(c *cluster) {
			for _, name := range []string{"robot", "ghost"} {
				create(c, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: meta1(name)})
				create(c, client.Secrets, &corev1.Secret{Type: corev1.SecretTypeServiceAccountToken, ObjectMeta: metav1.ObjectMeta{
					Namespace: ns, Name: name + "-token", Annotations: map[string]string{corev1.ServiceAccountNameKey: name}}})
			}
		},
		change: func(c *cluster) {
			_ = client.For(c.client, client.ServiceAccounts).Delete(c.t.Context(), ns, "ghost", metav1.DeleteOptions{})
		},
		wrong: func(c *cluster) string {
			secrets := list(c, client.Secrets, ns)
			if len(secrets) != 1 {
				return fmt.Sprint(names(secrets))
			}
			uid := string(get(c, client.ServiceAccounts, ns, "robot").UID)
			if s := secrets[0]; len(s.Data["token"]) == 0 || string(s.Data["ca.crt"]) != "PEM" || string(s.Data["namespace"]) != ns || s.Annotations[corev1.ServiceAccountUIDKey] != uid {
				return fmt.Sprintf("%v %v", s.Annotations, s.Data)
			}
			return ""
		},
	},
	{
		name: "csr approving, signing and cleaning", controllers: []string{"csrapproving", "csrsigning", "csrcleaner"},
		config: func(t *testing.T, cfg *Config) {
			cert, key, _ := keyFiles(t)
			cfg.Signing = certificates.SigningConfig{Duration: 24 * time.Hour, CAs: map[string]certificates.CA{
				certificatesv1.KubeAPIServerClientKubeletSignerName: {CertFile: cert, KeyFile: key}}}
		},
		start: func(c *cluster) {
			create(c, client.CertificateSigningRequests, kubeletRequest("worker", "system:bootstrap:abcdef"))
			create(c, client.CertificateSigningRequests, kubeletRequest("stranger", "mallory"))
		},
		wrong: func(c *cluster) string {
			requests := list(c, client.CertificateSigningRequests, "")
			for _, csr := range requests {
				if signed := len(csr.Status.Certificate) > 0; signed != (csr.Name == "worker") {
					return fmt.Sprintf("%s: signed %v", csr.Name, signed)
				}
			}
			if len(requests) != 2 {
				return fmt.Sprint(names(requests))
			}
			return ""
		},
	},
	{
		name: "bootstrap-signer and token-cleaner", controllers: []string{"bootstrapsigner", "tokencleaner"},
		start: func(c *cluster) {
			create(c, client.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "K"}})
			create(c, client.Secrets, bootstrapSecret("aaaaaa", time.Now().Add(1000*time.Hour)))
			create(c, client.Secrets, bootstrapSecret("bbbbbb", time.Now().Add(time.Minute)))
		},
		wrong: func(c *cluster) string {
			secrets, data := list(c, client.Secrets, "kube-system"), get(c, client.ConfigMaps, "kube-public", "cluster-info").Data
			if len(secrets) != 1 || len(data) != 2 || !strings.HasPrefix(data["jws-kubeconfig-aaaaaa"], "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFhYWFhYSJ9..") {
				return fmt.Sprintf("%d tokens, %v", len(secrets), data)
			}
			return ""
		},
	},
	{
		name: "clusterrole-aggregation", controllers: []string{"clusterrole-aggregation"},
		start: func(c *cluster) {
			create(c, client.ClusterRoles, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "view"}, AggregationRule: &rbacv1.AggregationRule{
				ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "view"}}}}})
			create(c, client.ClusterRoles, part("a"))
		},
		change: func(c *cluster) { create(c, client.ClusterRoles, part("b")) },
		wrong: func(c *cluster) string {
			if rules := get(c, client.ClusterRoles, "", "view").Rules; len(rules) != 2 || rules[0].Resources[0] != "a" || rules[1].Resources[0] != "b" {
				return fmt.Sprint(rules)
			}
			return ""
		},
	},
	{
		name: "service-lb", controllers: []string{"service"},
		start: func(c *cluster) {
			s := service()
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			create(c, client.Services, s)
		},
		wrong: func(c *cluster) string {
			said := func(e *corev1.Event) bool {
				return e.Reason == "SyncLoadBalancerFailed" && e.InvolvedObject.Name == "web"
			}
			if events := list(c, client.Events, ns); !slices.ContainsFunc(events, said) {
				return fmt.Sprintf("%d events", len(events))
			}
			return ""
		},
	},
	{
		name: "garbage-collector", controllers: []string{"garbagecollector"},
		config: func(_ *testing.T, cfg *Config) { cfg.GarbageCollector = true },
		start: func(c *cluster) {
			owner := create(c, client.ConfigMaps, &corev1.ConfigMap{ObjectMeta: meta1("owner")})
			for i := range 3 {
				dependent := &corev1.ConfigMap{ObjectMeta: meta1(fmt.Sprintf("dependent-%d", i))}
				dependent.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}}
				create(c, client.ConfigMaps, dependent)
			}
			create(c, client.ConfigMaps, &corev1.ConfigMap{ObjectMeta: meta1("other")})
		},
		change: func(c *cluster) {
			_ = client.For(c.client, client.ConfigMaps).Delete(c.t.Context(), ns, "owner", metav1.DeleteOptions{})
		},
		wrong: func(c *cluster) string {
			if left := strings.Join(names(list(c, client.ConfigMaps, ns)), " "); left != "other" {
				return left
			}
			return ""
		},
	},
	{
		name: "namespace", controllers: []string{"namespace"},
		start: func(c *cluster) {
			create(c, client.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}}})
			for i := range 3 {
				create(c, client.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("c", i)}})
			}
		},
		change: func(c *cluster) {
			_ = client.For(c.client, client.Namespaces).Delete(c.t.Context(), "", "shop", metav1.DeleteOptions{})
		},
		wrong: func(c *cluster) string {
			if n := len(list(c, client.ConfigMaps, "shop")) + len(list(c, client.Namespaces, "")); n != 0 {
				return fmt.Sprintf("%d objects left", n)
			}
			return ""
		},
	},
}

func part(name string) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": "view"}},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{name}}},
	}
}
