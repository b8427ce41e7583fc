package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"tinykube/apiserver"
	"tinykube/internal/testenv"
)

// people starts a server that knows these users by token; each token is the
// user's name.
func people(t *testing.T, names ...string) (*testenv.Env, api, func(name string) api) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tokens")
	var lines strings.Builder
	for i, name := range names {
		group := ""
		if strings.HasPrefix(name, "system:node:") {
			group = ",system:nodes"
		}
		fmt.Fprintf(&lines, "%s,%s,%d%s\n", name, name, i, group)
	}
	write(t, file, lines.String())
	env := testenv.New(t, func(c *apiserver.Config) { c.TokenAuthFile = file })
	return env, newAPI(t, env.Config), func(name string) api { return as(t, env.Config, name) }
}

// refused expects a 403 whose message contains text.
func (a api) refused(method, path, contentType, body, text string) {
	a.Helper()
	code, got, _ := a.send(method, path, contentType, body)
	if code != 403 || !strings.Contains(got, text) {
		a.Errorf("%s %s: %d %s\nwant 403 with %s", method, path, code, got, text)
	}
}

const (
	rbacV1 = "/apis/rbac.authorization.k8s.io/v1"
)

// grant gives somebody a ClusterRole everywhere, or in a namespace.
func (a api) grant(user, role, namespace string) {
	a.Helper()
	path, name := rbacV1+"/clusterrolebindings", strings.ReplaceAll(user+"-"+role, ":", ".")
	if namespace != "" {
		path = rbacV1 + "/namespaces/" + namespace + "/rolebindings"
	}
	a.ok("POST", path, asJSON, fmt.Sprintf(`{"metadata":{"name":%q},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":%q},
		"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":%q}]}`, name, role, user))
	// Rights are read from the cache, which may be a moment behind.
	for path, name := range map[string]string{path: name, rbacV1 + "/clusterroles": role} {
		eventually(a.T, name+" is in the cache", func() bool {
			return strings.Contains(fmt.Sprint(a.ok("GET", path+"?resourceVersion=0", "", "")["items"]), "name:"+name+" ")
		})
	}
}

// may asks the server about one's own rights.
func (a api) may(verb, group, resource, namespace string) bool {
	a.Helper()
	resource, subresource, _ := strings.Cut(resource, "/")
	out := a.ok("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", asJSON, fmt.Sprintf(
		`{"spec":{"resourceAttributes":{"verb":%q,"group":%q,"resource":%q,"subresource":%q,"namespace":%q}}}`, verb, group, resource, subresource, namespace))
	return out["status"].(map[string]any)["allowed"].(bool)
}

// A node reads what its own pods use, and nothing that others use.
func TestNodeAuthorizer(t *testing.T) {
	t.Parallel()
	_, admin, who := people(t, "system:node:n1", "system:node:n2")
	n1, n2 := who("system:node:n1"), who("system:node:n2")
	const core = "/api/v1/namespaces/default/"
	for _, name := range []string{"env", "mounted", "pull", "of-volume", "stranger"} {
		admin.ok("POST", core+"secrets", asJSON, `{"metadata":{"name":"`+name+`"}}`)
	}
	admin.ok("POST", core+"configmaps", asJSON, `{"metadata":{"name":"settings"}}`)
	admin.ok("POST", core+"serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	admin.ok("POST", core+"serviceaccounts", asJSON, `{"metadata":{"name":"other"}}`)
	admin.ok("POST", core+"persistentvolumeclaims", asJSON, `{"metadata":{"name":"data"},"spec":{"volumeName":"disk","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`)
	admin.ok("POST", "/api/v1/persistentvolumes", asJSON, `{"metadata":{"name":"disk"},"spec":{"capacity":{"storage":"1Gi"},"accessModes":["ReadWriteOnce"],
		"claimRef":{"namespace":"default","name":"data"},"csi":{"driver":"d","volumeHandle":"h","nodePublishSecretRef":{"namespace":"default","name":"of-volume"},
		"controllerPublishSecretRef":{"namespace":"default","name":"stranger"}}}}`)
	admin.ok("POST", core+"pods", asJSON, `{"metadata":{"name":"p"},"spec":{"nodeName":"n1","imagePullSecrets":[{"name":"pull"}],
		"containers":[{"name":"c","image":"i","env":[{"name":"E","valueFrom":{"secretKeyRef":{"name":"env","key":"k"}}}]}],
		"volumes":[{"name":"a","secret":{"secretName":"mounted"}},{"name":"b","configMap":{"name":"settings"}},{"name":"c","persistentVolumeClaim":{"claimName":"data"}}]}}`)
	admin.ok("POST", core+"pods", asJSON, `{"metadata":{"name":"q"},"spec":{"nodeName":"n2","containers":[{"name":"c","image":"i"}]}}`)

	for _, path := range []string{"secrets/env", "secrets/mounted", "secrets/pull", "secrets/of-volume", "configmaps/settings", "persistentvolumeclaims/data", "pods/p", "serviceaccounts/default"} {
		n1.ok("GET", core+path, "", "")
		if path != "serviceaccounts/default" { // each of them has a pod with that
			n2.refused("GET", core+path, "", "", "no relationship found between node 'n2' and this object")
		}
	}
	n1.ok("GET", "/api/v1/persistentvolumes/disk", "", "")
	n2.refused("GET", "/api/v1/persistentvolumes/disk", "", "", "no relationship found")
	n1.refused("GET", core+"secrets/stranger", "", "", "no relationship found")
	n1.refused("GET", core+"secrets", "", "", "No Object name found")
	n1.refused("GET", "/api/v1/secrets", "", "", "can only read namespaced object of this type")
	n1.ok("GET", core+"secrets?fieldSelector=metadata.name%3Denv", "", "")
	n1.refused("DELETE", core+"secrets/env", "", "", "can only read resources of this type")
	n1.refused("GET", "/api/v1/pods", "", "", "can only list/watch pods with spec.nodeName field selector")
	n1.refused("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2", "", "", "can only list/watch pods")
	n1.ok("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "", "")
	n1.refused("GET", "/api/v1/nodes/n2", "", "", "node 'n1' cannot read 'n2', only its own Node object")
	n1.refused("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n2", "", "", "can only access node lease with the same name")

	// The way is gone with the pod.
	admin.ok("DELETE", core+"pods/p?gracePeriodSeconds=0", "", "")
	eventually(t, "the way is gone", func() bool { code, _, _ := n1.send("GET", core+"secrets/env", "", ""); return code == 403 })
	n1.refused("GET", core+"secrets/env", "", "", "no relationship found")

	t.Run("tokens", func(t *testing.T) {
		q := admin.ok("GET", core+"pods/q", "", "")["metadata"].(map[string]any)["uid"].(string)
		ask := func(ref, audiences string) string {
			return `{"spec":{"boundObjectRef":` + ref + `,"audiences":` + audiences + `}}`
		}
		mine := `{"apiVersion":"v1","kind":"Pod","name":"q","uid":"` + q + `"}`
		path := core + "serviceaccounts/default/token"
		n2.ok("POST", path, asJSON, ask(mine, "[]"))
		n2.refused("POST", path, asJSON, ask("null", "[]"), "node requested token not bound to a pod")
		n2.refused("POST", path, asJSON, ask(mine, `["vault"]`), `audience "vault" not found in pod spec volume, system:node:n2 is not authorized to request tokens for this audience`)
		n1.refused("POST", path, asJSON, ask(mine, "[]"), "no relationship found")
		n2.refused("POST", core+"serviceaccounts/other/token", asJSON, ask(mine, "[]"), "no relationship found")
	})
}

// What a node writes is about itself.
func TestNodeRestriction(t *testing.T) {
	t.Parallel()
	_, admin, who := people(t, "system:node:n1")
	n1 := who("system:node:n1")
	const pods = "/api/v1/namespaces/default/pods"
	admin.ok("POST", "/api/v1/namespaces/default/serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	n1.refused("POST", "/api/v1/nodes", asJSON, `{"metadata":{"name":"n2"}}`, `node "n1" is not allowed to modify node "n2"`)
	n1.refused("POST", "/api/v1/nodes", asJSON, `{"metadata":{"name":"n1","labels":{"node-role.kubernetes.io/control-plane":"","a":"b"}}}`,
		`node "n1" is not allowed to set the following labels: node-role.kubernetes.io/control-plane`)
	node := n1.ok("POST", "/api/v1/nodes", asJSON, `{"metadata":{"name":"n1","labels":{"a":"b","kubernetes.io/hostname":"n1","node.kubernetes.io/x":"y"}}}`)
	uid := node["metadata"].(map[string]any)["uid"].(string)
	for patch, text := range map[string]string{
		`{"spec":{"taints":null}}`: `node "n1" is not allowed to modify taints`,
		`{"metadata":{"labels":{"x.node-restriction.kubernetes.io/secure":"yes"}}}`:                   "is not allowed to modify labels: x.node-restriction.kubernetes.io/secure",
		`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"1"}]}}`:    `node "n1" is not allowed to modify ownerReferences`,
		`{"spec":{"configSource":{"configMap":{"namespace":"n","name":"m","kubeletConfigKey":"k"}}}}`: "configSource",
	} {
		n1.refused("PATCH", "/api/v1/nodes/n1", asMerge, patch, text)
	}
	n1.ok("PATCH", "/api/v1/nodes/n1/status", asMerge, `{"status":{"phase":"Running"},"metadata":{"annotations":{"flannel":"x"}}}`)

	owner := `[{"apiVersion":"v1","kind":"Node","name":"n1","uid":"` + uid + `","controller":true}]`
	mirror := func(annotations, node, owners, more string) string {
		return `{"metadata":{"name":"m-n1","annotations":` + annotations + `,"ownerReferences":` + owners + `},"spec":{"nodeName":"` + node + `","containers":[{"name":"c","image":"i"}]` + more + `}}`
	}
	const isMirror = `{"kubernetes.io/config.mirror":"1"}`
	n1.refused("POST", pods, asJSON, mirror(`{}`, "n1", owner, ""), "can only create mirror pods")
	n1.refused("POST", pods, asJSON, mirror(isMirror, "n2", owner, ""), "can only create pods with spec.nodeName set to itself")
	n1.refused("POST", pods, asJSON, mirror(isMirror, "n1", `[]`, ""), "can only create pods with an owner reference set to itself")
	n1.refused("POST", pods, asJSON, mirror(isMirror, "n1", strings.Replace(owner, uid, "other", 1), ""), "UID mismatch")
	n1.refused("POST", pods, asJSON, mirror(isMirror, "n1", strings.Replace(owner, `,"controller":true`, "", 1), ""), "with a controller owner reference")
	n1.refused("POST", pods, asJSON, mirror(isMirror, "n1", owner, `,"volumes":[{"name":"v","configMap":{"name":"s"}}]`), `node "n1" can not create pods that reference configmaps`)
	n1.refused("POST", pods, asJSON, mirror(isMirror, "n1", owner, `,"volumes":[{"name":"v","secret":{"secretName":"s"}}]`), "a mirror pod may not reference secrets")
	n1.refused("POST", pods, asJSON, mirror(isMirror, "n1", owner, `,"volumes":[{"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"t"}}]}}]`), "a mirror pod may not use ServiceAccountToken volume projections")
	n1.ok("POST", pods, asJSON, mirror(isMirror, "n1", owner, ""))

	admin.ok("POST", pods, asJSON, `{"metadata":{"name":"p"},"spec":{"nodeName":"n2","containers":[{"name":"c","image":"i"}]}}`)
	n1.refused("DELETE", pods+"/p", "", "", `node "n1" can only delete pods with spec.nodeName set to itself`)
	n1.refused("PATCH", pods+"/p/status", asMerge, `{"status":{"phase":"Failed"}}`, "can only update pod status for pods with spec.nodeName set to itself")
	n1.refused("POST", pods+"/p/eviction", asJSON, `{"metadata":{"name":"p"}}`, "can only evict pods with spec.nodeName set to itself")
	n1.refused("PATCH", pods+"/m-n1/status", asMerge, `{"metadata":{"labels":{"app":"db"}}}`, "cannot update labels through pod status")
	n1.ok("PATCH", pods+"/m-n1/status", asMerge, `{"status":{"phase":"Running"}}`)
	n1.ok("DELETE", pods+"/m-n1?gracePeriodSeconds=0", "", "")
	const csinodes = "/apis/storage.k8s.io/v1/csinodes"
	n1.refused("POST", csinodes, asJSON, `{"metadata":{"name":"n2"},"spec":{"drivers":[]}}`, "can only access CSINode with the same name")
}

// Who gives rights must have them, or be allowed to give them.
func TestEscalation(t *testing.T) {
	t.Parallel()
	_, admin, who := people(t, "ada", "eve")
	ada, eve := who("ada"), who("eve")
	// ada may write roles and bindings, and read pods in default: no more.
	admin.ok("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"writer"},"rules":[{"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles","rolebindings","clusterroles","clusterrolebindings"],"verbs":["get","list","create","update","patch","delete"]},
		{"apiGroups":[""],"resources":["pods"],"verbs":["get","list"]}]}`)
	admin.grant("ada", "writer", "default")
	eventually(t, "ada has her role", func() bool { return ada.may("create", "rbac.authorization.k8s.io", "roles", "default") })
	const here = rbacV1 + "/namespaces/default/"
	role := func(name, verbs, resources string) string {
		return `{"metadata":{"name":"` + name + `"},"rules":[{"apiGroups":[""],"resources":[` + resources + `],"verbs":[` + verbs + `]}]}`
	}
	ada.ok("POST", here+"roles", asJSON, role("fine", `"get"`, `"pods"`))
	ada.refused("POST", here+"roles", asJSON, role("more", `"get","delete","create"`, `"pods"`), `roles.rbac.authorization.k8s.io "more" is forbidden: user "ada" (groups=["system:authenticated"]) is attempting to grant RBAC permissions not currently held:
{APIGroups:[""], Resources:["pods"], Verbs:["delete" "create"]}`)
	ada.refused("PATCH", here+"roles/fine", asMerge, `{"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`, "not currently held")
	ada.ok("PATCH", here+"roles/fine", asMerge, `{"metadata":{"finalizers":["example.com/wait"]}}`)
	ada.ok("PATCH", here+"roles/fine", asMerge, `{"metadata":{"finalizers":null}}`)
	binding := func(name, kind, role string) string {
		return `{"metadata":{"name":"` + name + `"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"` + kind + `","name":"` + role + `"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"eve"}]}`
	}
	ada.ok("POST", here+"rolebindings", asJSON, binding("fine", "Role", "fine"))
	ada.refused("POST", here+"rolebindings", asJSON, binding("all", "ClusterRole", "cluster-admin"), `rolebindings.rbac.authorization.k8s.io "all" is forbidden`)
	ada.refused("POST", rbacV1+"/clusterrolebindings", asJSON, binding("all", "ClusterRole", "writer"), `User "ada" cannot create resource "clusterrolebindings"`)
	if code, text, _ := ada.send("POST", here+"rolebindings", asJSON, binding("none", "ClusterRole", "nobodys")); code != 404 || !strings.Contains(text, `clusterrole.rbac.authorization.k8s.io "nobodys" not found`) {
		t.Errorf("%d %s", code, text)
	}
	eventually(t, "eve reads pods", func() bool { return eve.may("get", "", "pods", "default") })
	eve.refused("GET", "/api/v1/namespaces/default/pods", "", "", `User "eve" cannot list resource "pods"`)

	// bind and escalate are the way around.
	admin.ok("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"giver"},"rules":[{"apiGroups":["rbac.authorization.k8s.io"],"resources":["clusterroles"],"resourceNames":["view"],"verbs":["bind"]},
		{"apiGroups":["rbac.authorization.k8s.io"],"resources":["roles"],"verbs":["escalate"]}]}`)
	admin.grant("ada", "giver", "default")
	eventually(t, "ada may escalate", func() bool { return ada.may("escalate", "rbac.authorization.k8s.io", "roles", "default") })
	ada.ok("POST", here+"roles", asJSON, role("more", `"get","delete","create"`, `"pods"`))
	ada.ok("POST", here+"rolebindings", asJSON, binding("view", "ClusterRole", "view"))
	ada.refused("POST", here+"rolebindings", asJSON, binding("edit", "ClusterRole", "edit"), "not currently held")

	// Whoever gathers roles may gather anything.
	admin.grant("eve", "writer", "")
	eventually(t, "eve writes roles", func() bool { return eve.may("create", "rbac.authorization.k8s.io", "clusterroles", "") })
	eve.refused("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"g"},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"x":"y"}}]},"rules":[]}`,
		"must have cluster-admin privileges to use the aggregationRule")
}

// view ⊂ edit ⊂ admin, by the labels of the roles they gather; a role with such
// a label counts at once.
func TestAggregation(t *testing.T) {
	t.Parallel()
	_, admin, who := people(t, "vera", "ed", "ann")
	vera, ed, ann := who("vera"), who("ed"), who("ann")
	admin.grant("vera", "view", "default")
	admin.grant("ed", "edit", "default")
	admin.grant("ann", "admin", "default")
	eventually(t, "ann is an admin", func() bool { return ann.may("create", "rbac.authorization.k8s.io", "roles", "default") })
	for _, test := range []struct {
		verb, group, resource string
		vera, ed, ann         bool
	}{
		{"get", "", "pods", true, true, true},
		{"get", "", "pods/log", true, true, true},
		{"get", "", "secrets", false, true, true},
		{"create", "", "pods/exec", false, true, true},
		{"get", "", "pods/exec", false, true, true},
		{"delete", "apps", "deployments", false, true, true},
		{"create", "rbac.authorization.k8s.io", "rolebindings", false, false, true},
		{"get", "", "nodes", false, false, false},
		{"list", "example.com", "lamps", false, false, false},
	} {
		for _, one := range []struct {
			a    api
			name string
			want bool
		}{{vera, "vera", test.vera}, {ed, "ed", test.ed}, {ann, "ann", test.ann}} {
			if got := one.a.may(test.verb, test.group, test.resource, "default"); got != one.want {
				t.Errorf("%s may %s %s: %v", one.name, test.verb, test.resource, got)
			}
		}
	}
	admin.ok("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"lamps","labels":{"rbac.authorization.k8s.io/aggregate-to-view":"true"}},"rules":[{"apiGroups":["example.com"],"resources":["lamps"],"verbs":["list"]}]}`)
	eventually(t, "all see lamps", func() bool {
		return vera.may("list", "example.com", "lamps", "default") && ed.may("list", "example.com", "lamps", "default") && ann.may("list", "example.com", "lamps", "default")
	})
	if vera.may("list", "", "pods", "kube-system") {
		t.Error("a binding counts in another namespace")
	}
}

// exec takes create, also by WebSocket, whose method is GET.
func TestExecNeedsCreate(t *testing.T) {
	t.Parallel()
	env, admin, who := people(t, "gil")
	admin.ok("POST", rbacV1+"/clusterroles", asJSON, `{"metadata":{"name":"getter"},"rules":[{"apiGroups":[""],"resources":["pods","pods/exec"],"verbs":["get"]}]}`)
	admin.grant("gil", "getter", "default")
	gil := who("gil")
	eventually(t, "gil may get", func() bool { return gil.may("get", "", "pods/exec", "default") })
	gil.refused("POST", "/api/v1/namespaces/default/pods/p/exec?command=sh", "", "", `cannot create resource "pods/exec"`)
	request, err := http.NewRequestWithContext(t.Context(), "GET", env.Config.Host+"/api/v1/namespaces/default/pods/p/exec?command=sh", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{"Authorization": {"Bearer gil"}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {base64.StdEncoding.EncodeToString(make([]byte, 16))}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io"}}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(env.Config.CAData)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, _ := io.ReadAll(response.Body); response.StatusCode != 403 || !strings.Contains(string(body), `cannot create resource \"pods/exec\"`) {
		t.Errorf("%d %s", response.StatusCode, body)
	}
}

// The reviews say what would happen, and why.
func TestReviews(t *testing.T) {
	t.Parallel()
	_, admin, who := people(t, "ada", "system:node:n1")
	admin.grant("ada", "view", "default")
	ada := who("ada")
	eventually(t, "ada may look", func() bool { return ada.may("get", "", "pods", "default") })
	review := func(a api, kind, namespace, spec string) string {
		path := "/apis/authorization.k8s.io/v1/"
		if namespace != "" {
			path += "namespaces/" + namespace + "/"
		}
		out, _ := json.Marshal(a.ok("POST", path+kind, asJSON, `{"spec":`+spec+`}`)["status"])
		return string(out)
	}
	const pods = `"resourceAttributes":{"verb":"list","resource":"pods","namespace":"default"}`
	if got, want := review(admin, "subjectaccessreviews", "", `{"user":"ada",`+pods+`}`), `{"allowed":true,"reason":"RBAC: allowed by RoleBinding \"ada-view/default\" of ClusterRole \"view\" to User \"ada\""}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := review(admin, "localsubjectaccessreviews", "default", `{"groups":["nobodies"],`+pods+`}`); got != `{"allowed":false}` {
		t.Error(got)
	}
	// A node's question about its pods, with a selector, as delegated servers ask.
	node := func(name string) string {
		return review(admin, "subjectaccessreviews", "", `{"user":"system:node:n1","groups":["system:nodes"],"resourceAttributes":{"verb":"list","version":"v1","resource":"pods",
			"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["`+name+`"]}]}}}`)
	}
	if got := node("n1"); !strings.Contains(got, `"allowed":true`) {
		t.Error(got)
	}
	if got := node("n2"); !strings.Contains(got, `"allowed":false,"reason":"can only list/watch pods with spec.nodeName field selector"`) {
		t.Error(got)
	}
	if got := review(ada, "selfsubjectrulesreviews", "", `{"namespace":"default"}`); !strings.Contains(got, `"selfsubjectaccessreviews"`) || !strings.Contains(got, `"pods"`) || !strings.Contains(got, `"/healthz"`) || !strings.Contains(got, `"incomplete":false`) {
		t.Error(got)
	}
	if got := review(who("system:node:n1"), "selfsubjectrulesreviews", "", `{"namespace":"default"}`); !strings.Contains(got, `"incomplete":true`) || !strings.Contains(got, "node authorizer does not support user rule resolution") {
		t.Error(got)
	}
	for path, body := range map[string]string{
		"subjectaccessreviews":                         `{"spec":{` + pods + `}}`,
		"selfsubjectaccessreviews":                     `{"spec":{}}`,
		"namespaces/default/localsubjectaccessreviews": `{"spec":{"user":"x","resourceAttributes":{"namespace":"other"}}}`,
		"selfsubjectrulesreviews":                      `{"spec":{}}`,
	} {
		if code, text, _ := admin.send("POST", "/apis/authorization.k8s.io/v1/"+path, asJSON, body); code != 422 && code != 400 {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
}
