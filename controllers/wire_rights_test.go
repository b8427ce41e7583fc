package controllers

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
)

// More parts of TestOnTheWire: quotas, tokens, certificates and roles, which
// the server and the controllers keep together.

func testQuota(t *testing.T, c *cluster) {
	const ns = "limited"
	c.namespace(ns)
	create(c, client.ResourceQuotas, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "team"}, Spec: corev1.ResourceQuotaSpec{
		Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("3")}}})
	used := func(want int64) func() bool {
		return func() bool {
			q := get(c, client.ResourceQuotas, ns, "team").Status.Used[corev1.ResourcePods]
			return q.Value() == want
		}
	}
	c.until("counted", time.Minute, func() bool { return len(get(c, client.ResourceQuotas, ns, "team").Status.Used) == 1 })
	rs := replicaSet(5)
	rs.Namespace, rs.Spec.Template.Spec.RestartPolicy = ns, ""
	create(c, client.ReplicaSets, rs)
	c.until("used up", time.Minute, used(3))
	c.until("said why not", time.Minute, func() bool {
		conditions := get(c, client.ReplicaSets, ns, "web").Status.Conditions
		return len(conditions) == 1 && conditions[0].Reason == "FailedCreate" && strings.Contains(conditions[0].Message, "exceeded quota: team")
	})
	change(c, client.ReplicaSets, ns, "web", func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr(int32(1)) })
	c.until("given back", time.Minute, used(1))
}

func testTokens(t *testing.T, c *cluster, env *testenv.Env) {
	const ns = "tokens"
	c.namespace(ns)
	create(c, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "robot"}})
	create(c, client.Secrets, &corev1.Secret{Type: corev1.SecretTypeServiceAccountToken, ObjectMeta: metav1.ObjectMeta{
		Namespace: ns, Name: "robot-token", Annotations: map[string]string{corev1.ServiceAccountNameKey: "robot"}}})
	token := ""
	c.until("a token", time.Minute, func() bool {
		token = string(get(c, client.Secrets, ns, "robot-token").Data[corev1.ServiceAccountTokenKey])
		return token != ""
	})
	cfg := *env.Config
	cfg.CertFile, cfg.KeyFile, cfg.CertData, cfg.KeyData, cfg.BearerToken = "", "", nil, nil, token
	robot := must(client.New(&cfg))
	ask := func() error {
		return robot.DoInto(t.Context(), client.Request{Method: http.MethodGet, Path: "/api"}, nil, &metav1.APIVersions{})
	}
	c.until("the token is accepted", time.Minute, func() bool { return ask() == nil })
	if err := client.For(c.client, client.ServiceAccounts).Delete(t.Context(), ns, "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until("Secret gone, token refused", time.Minute, func() bool { return len(list(c, client.Secrets, ns)) == 0 && ask() != nil })

	// The server writes who asks into the request: an administrator may have
	// any node's certificate.
	create(c, client.CertificateSigningRequests, kubeletRequest("worker", ""))
	c.until("a certificate", time.Minute, func() bool {
		block, _ := pem.Decode(get(c, client.CertificateSigningRequests, "", "worker").Status.Certificate)
		return block != nil && must(x509.ParseCertificate(block.Bytes)).Subject.CommonName == "system:node:worker"
	})

	create(c, client.ConfigMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "K"}})
	create(c, client.Secrets, bootstrapSecret("aaaaaa", time.Now().Add(time.Hour)))
	create(c, client.Secrets, bootstrapSecret("bbbbbb", time.Now().Add(time.Second)))
	c.until("signed by one token, the other gone", time.Minute, func() bool {
		_, err := client.For(c.client, client.Secrets).Get(t.Context(), "kube-system", "bootstrap-token-bbbbbb")
		data := get(c, client.ConfigMaps, "kube-public", "cluster-info").Data
		return apierrors.IsNotFound(err) && len(data) == 2 && data["jws-kubeconfig-aaaaaa"] != ""
	})

	create(c, client.ClusterRoles, &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"widgets"}}},
	})
	c.until("view has it", time.Minute, func() bool {
		return slices.ContainsFunc(get(c, client.ClusterRoles, "", "view").Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.Resources, "widgets") })
	})
}
