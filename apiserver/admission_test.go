package apiserver_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tinykube/client"
	"tinykube/internal/testenv"
)

const ns = "/api/v1/namespaces/default/"

// withAccount makes the account that every pod needs.
func withAccount(t *testing.T) (*testenv.Env, api) {
	env := testenv.New(t)
	admin := newAPI(t, env.Config)
	admin.ok("POST", ns+"serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	return env, admin
}

// setQuota makes a quota whose controller has counted nothing yet.
func (a api) setQuota(name, spec, used string) {
	a.Helper()
	made := a.ok("POST", ns+"resourcequotas", asJSON, `{"metadata":{"name":"`+name+`"},"spec":`+spec+`}`)
	hard, _ := made["spec"].(map[string]any)["hard"].(map[string]any)
	var parts []string
	for key, value := range hard {
		parts = append(parts, fmt.Sprintf("%q:%q", key, value))
	}
	a.ok("PATCH", ns+"resourcequotas/"+name+"/status", asMerge, `{"status":{"hard":{`+strings.Join(parts, ",")+`},"used":`+used+`}}`)
}

func (a api) used(name, key string) string {
	a.Helper()
	status := a.ok("GET", ns+"resourcequotas/"+name, "", "")["status"].(map[string]any)
	value, _ := status["used"].(map[string]any)[key].(string)
	return value
}

// However many ask at once, a quota is used up to the last bit and never more.
func TestQuotaIsExact(t *testing.T) {
	t.Parallel()
	env, admin := withAccount(t)
	admin.setQuota("team", `{"hard":{"count/configmaps":"25","requests.cpu":"1","pods":"7"}}`, `{"count/configmaps":"0","requests.cpu":"0","pods":"0"}`)
	eventually(t, "the quota counts", func() bool { return admin.used("team", "pods") == "0" })
	c, err := client.New(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	var made, refused, wrong atomic.Int64
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			body := fmt.Sprintf(`{"metadata":{"name":"m%d"}}`, i)
			response, err := c.Do(context.Background(), client.Request{Method: "POST", Path: ns + "configmaps", Body: []byte(body)})
			switch {
			case err == nil:
				response.Body.Close()
				made.Add(1)
			case strings.Contains(err.Error(), "exceeded quota: team, requested: count/configmaps=1, used: count/configmaps=25, limited: count/configmaps=25"):
				refused.Add(1)
			default:
				t.Log(err)
				wrong.Add(1)
			}
		})
	}
	all.Wait()
	if made.Load() != 25 || refused.Load() != 35 || wrong.Load() != 0 || admin.used("team", "count/configmaps") != "25" {
		t.Errorf("%d made, %d refused, %d failed otherwise; used %s", made.Load(), refused.Load(), wrong.Load(), admin.used("team", "count/configmaps"))
	}
	// What a failed or pretended create would have used is not used.
	pod := func(name, cpu string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"` + cpu + `"}}}]}}`
	}
	admin.ok("POST", ns+"pods", asJSON, pod("a", "600m"))
	admin.ok("POST", ns+"pods?dryRun=All", asJSON, pod("b", "400m"))
	if code, _, _ := admin.send("POST", ns+"pods", asJSON, pod("a", "100m")); code != 409 {
		t.Errorf("a second pod of that name: %d", code)
	}
	if cpu := admin.used("team", "requests.cpu"); cpu != "600m" {
		t.Errorf("used %s", cpu)
	}
	admin.refused("POST", ns+"pods", asJSON, pod("b", "500m"), `pods "b" is forbidden: exceeded quota: team, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1`)
	admin.refused("POST", ns+"pods", asJSON, `{"metadata":{"name":"b"},"spec":{"containers":[{"name":"c","image":"i"},{"name":"d","image":"i"}]}}`, `failed quota: team: must specify requests.cpu for: c,d`)
}

func TestQuotaScopesAndKinds(t *testing.T) {
	t.Parallel()
	_, admin := withAccount(t)
	pod := func(name, more string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"containers":[{"name":"c","image":"i"}]` + more + `}}`
	}
	admin.ok("POST", ns+"resourcequotas", asJSON, `{"metadata":{"name":"unseen"},"spec":{"hard":{"count/secrets":"1"}}}`)
	eventually(t, "the quota is seen", func() bool {
		code, text, _ := admin.send("POST", ns+"secrets?dryRun=All", asJSON, `{"metadata":{"name":"s"}}`)
		return code == 403 && strings.Contains(text, "status unknown for quota: unseen, resources: count/secrets")
	})
	admin.setQuota("best", `{"hard":{"pods":"0"},"scopes":["BestEffort","Terminating"]}`, `{"pods":"0"}`)
	admin.setQuota("class", `{"hard":{"pods":"0"},"scopeSelector":{"matchExpressions":[{"scopeName":"PriorityClass","operator":"In","values":["system-node-critical"]}]}}`, `{"pods":"0"}`)
	admin.setQuota("services", `{"hard":{"services.nodeports":"2","services.loadbalancers":"0"}}`, `{"services.nodeports":"0","services.loadbalancers":"0"}`)
	admin.setQuota("disks", `{"hard":{"requests.storage":"5Gi","gold.storageclass.storage.k8s.io/requests.storage":"2Gi"}}`, `{"requests.storage":"0","gold.storageclass.storage.k8s.io/requests.storage":"0"}`)
	eventually(t, "the quotas count", func() bool { return admin.used("disks", "requests.storage") == "0" })

	admin.ok("POST", ns+"pods", asJSON, pod("a", ""))
	admin.refused("POST", ns+"pods", asJSON, pod("b", `,"activeDeadlineSeconds":60`), "exceeded quota: best, requested: pods=1, used: pods=0, limited: pods=0")
	admin.refused("POST", ns+"pods", asJSON, pod("b", `,"priorityClassName":"system-node-critical"`), "exceeded quota: class")

	service := func(name, sort, ports string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"type":"` + sort + `","ports":[` + ports + `]}}`
	}
	two := `{"name":"a","port":80},{"name":"b","port":81}`
	admin.ok("POST", ns+"services", asJSON, service("s", "ClusterIP", two))
	admin.ok("PATCH", ns+"services/s", asMerge, `{"spec":{"type":"NodePort"}}`)
	if got := admin.used("services", "services.nodeports"); got != "2" {
		t.Errorf("used %s node ports", got)
	}
	admin.refused("POST", ns+"services", asJSON, service("t", "NodePort", `{"port":80}`), "exceeded quota: services, requested: services.nodeports=1, used: services.nodeports=2, limited: services.nodeports=2")
	admin.refused("POST", ns+"services", asJSON, service("t", "LoadBalancer", `{"port":80}`), "services.loadbalancers=1")

	claim := func(name, class, size string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"storageClassName":"` + class + `","accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"` + size + `"}}}}`
	}
	admin.ok("POST", ns+"persistentvolumeclaims", asJSON, claim("a", "gold", "2Gi"))
	admin.refused("POST", ns+"persistentvolumeclaims", asJSON, claim("b", "gold", "1Gi"), "gold.storageclass.storage.k8s.io/requests.storage=1Gi")
	admin.refused("POST", ns+"persistentvolumeclaims", asJSON, claim("b", "tin", "4Gi"), "requested: requests.storage=4Gi, used: requests.storage=2Gi, limited: requests.storage=5Gi")
	admin.ok("POST", ns+"persistentvolumeclaims", asJSON, claim("b", "tin", "3Gi"))
}

func TestLimitRanger(t *testing.T) {
	t.Parallel()
	_, admin := withAccount(t)
	admin.ok("POST", ns+"limitranges", asJSON, `{"metadata":{"name":"l"},"spec":{"limits":[
		{"type":"Container","default":{"cpu":"500m","memory":"64Mi"},"defaultRequest":{"cpu":"100m","memory":"32Mi"},"max":{"cpu":"1"},"min":{"cpu":"50m"},"maxLimitRequestRatio":{"memory":"3"}},
		{"type":"Pod","max":{"cpu":"1500m"}},
		{"type":"PersistentVolumeClaim","min":{"storage":"1Gi"},"max":{"storage":"2Gi"}}]}}`)
	pod := func(name string, resources ...string) string {
		var list []string
		for i, r := range resources {
			list = append(list, fmt.Sprintf(`{"name":"c%d","image":"i","resources":%s}`, i, r))
		}
		return `{"metadata":{"name":"` + name + `"},"spec":{"containers":[` + strings.Join(list, ",") + `]}}`
	}
	eventually(t, "the range is seen", func() bool {
		code, _, _ := admin.send("POST", ns+"pods?dryRun=All", asJSON, pod("x", `{"requests":{"cpu":"2"},"limits":{"cpu":"2"}}`))
		return code == 403
	})
	made := admin.ok("POST", ns+"pods", asJSON, pod("a", `{}`))
	if got := fmt.Sprint(made["metadata"].(map[string]any)["annotations"]); !strings.Contains(got, "LimitRanger plugin set: cpu, memory request for container c0; cpu, memory limit for container c0") {
		t.Error(got)
	}
	if got := fmt.Sprint(made["spec"].(map[string]any)["containers"]); !strings.Contains(got, "limits:map[cpu:500m memory:64Mi] requests:map[cpu:100m memory:32Mi]") {
		t.Error(got)
	}
	for body, text := range map[string]string{
		pod("b", `{"limits":{"cpu":"2"}}`):                                 "maximum cpu usage per Container is 1, but limit is 2",
		pod("b", `{"requests":{"cpu":"10m"}}`):                             "minimum cpu usage per Container is 50m, but request is 10m",
		pod("b", `{"requests":{"memory":"10Mi"}}`):                         "memory max limit to request ratio per Container is 3, but provided ratio is 6.400000",
		pod("b", `{"limits":{"cpu":"800m"}}`, `{"limits":{"cpu":"800m"}}`): "maximum cpu usage per Pod is 1500m, but limit is 1600m",
		pod("b", `{"requests":{"cpu":"10m","memory":"10Mi"}}`):             "[minimum cpu usage per Container is 50m, but request is 10m, memory max limit",
	} {
		admin.refused("POST", ns+"pods", asJSON, body, text)
	}
	for size, text := range map[string]string{"500Mi": "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi", "3Gi": "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"} {
		admin.refused("POST", ns+"persistentvolumeclaims", asJSON, `{"metadata":{"name":"c"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"`+size+`"}}}}`, text)
	}
}

// The levels count as the namespace's labels say; warnings come in headers.
func TestPodSecurity(t *testing.T) {
	t.Parallel()
	env, admin := withAccount(t)
	const pods = ns + "pods"
	bad := `{"metadata":{"name":"bad"},"spec":{"hostNetwork":true,"containers":[{"name":"c","image":"i"}]}}`
	if _, text, _ := admin.send("PATCH", "/api/v1/namespaces/default", asMerge, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"strict"}}}`); !strings.Contains(text,
		`metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted`) {
		t.Error(text)
	}
	admin.ok("POST", pods, asJSON, strings.Replace(bad, `"bad"`, `"old"`, 1))
	eventually(t, "the pod is in the cache", func() bool { return len(admin.ok("GET", pods+"?resourceVersion=0", "", "")["items"].([]any)) == 1 })
	c, err := client.New(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	warnings := func(method, path, contentType, body string) string {
		t.Helper()
		response, err := c.Do(t.Context(), client.Request{Method: method, Path: path, ContentType: contentType, Body: []byte(body)})
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return strings.Join(response.Header.Values("Warning"), "\n")
	}
	got := warnings("PATCH", "/api/v1/namespaces/default", asMerge, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"baseline","pod-security.kubernetes.io/warn":"restricted","pod-security.kubernetes.io/warn-version":"v1.30"}}}`)
	if !strings.Contains(got, `existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"`) || !strings.Contains(got, "old: host namespaces") {
		t.Error(got)
	}
	eventually(t, "the level counts", func() bool { code, _, _ := admin.send("POST", pods+"?dryRun=All", asJSON, bad); return code == 403 })
	admin.refused("POST", pods, asJSON, bad, `pods "bad" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`)
	const wants = `would violate PodSecurity \"restricted:v1.30\": allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")`
	if got := warnings("POST", pods, asJSON, `{"metadata":{"name":"fine"},"spec":{"containers":[{"name":"c","image":"i"}]}}`); !strings.Contains(got, wants) {
		t.Error(got)
	}
	// A Deployment is let in and warned of.
	if got := warnings("POST", "/apis/apps/v1/namespaces/default/deployments", asJSON, `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},
		"template":{"metadata":{"labels":{"a":"b"}},"spec":{"hostNetwork":true,"containers":[{"name":"c","image":"i"}]}}}}`); !strings.Contains(got, `host namespaces (hostNetwork=true)`) {
		t.Error(got)
	}
	admin.ok("PATCH", pods+"/old", asMerge, `{"metadata":{"labels":{"x":"y"}}}`) // nothing of what counts has changed
	admin.refused("PATCH", pods+"/old", "application/strategic-merge-patch+json", `{"spec":{"containers":[{"name":"c","image":"other"}]}}`, "violates PodSecurity")
}

func TestClassesAndClaims(t *testing.T) {
	t.Parallel()
	_, admin := withAccount(t)
	admin.ok("POST", "/apis/node.k8s.io/v1/runtimeclasses", asJSON, `{"metadata":{"name":"vm"},"handler":"vm","overhead":{"podFixed":{"cpu":"250m"}},"scheduling":{"nodeSelector":{"vm":"yes"},"tolerations":[{"key":"vm","operator":"Exists"}]}}`)
	admin.ok("POST", "/apis/networking.k8s.io/v1/ingressclasses", asJSON, `{"metadata":{"name":"web","annotations":{"ingressclass.kubernetes.io/is-default-class":"true"}},"spec":{"controller":"example.com/web"}}`)
	admin.ok("POST", "/apis/storage.k8s.io/v1/storageclasses", asJSON, `{"metadata":{"name":"grows","annotations":{"storageclass.kubernetes.io/is-default-class":"true"}},"provisioner":"p","allowVolumeExpansion":true}`)
	pod := func(more string) string {
		return `{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]` + more + `}}`
	}
	spec := fmt.Sprint(admin.ok("POST", ns+"pods?dryRun=All", asJSON, pod(`,"runtimeClassName":"vm","nodeSelector":{"a":"b"}`))["spec"])
	if !strings.Contains(spec, "overhead:map[cpu:250m]") || !strings.Contains(spec, "nodeSelector:map[a:b vm:yes]") || !strings.Contains(spec, "key:vm") {
		t.Error(spec)
	}
	admin.refused("POST", ns+"pods", asJSON, pod(`,"runtimeClassName":"none"`), `pod rejected: RuntimeClass "none" not found`)
	admin.refused("POST", ns+"pods", asJSON, pod(`,"runtimeClassName":"vm","nodeSelector":{"vm":"no"}`), "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no")
	admin.refused("POST", ns+"pods", asJSON, pod(`,"overhead":{"cpu":"1"}`), "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")

	ingress := `{"metadata":{"name":"i"},"spec":{"defaultBackend":{"service":{"name":"s","port":{"number":80}}}}}`
	eventually(t, "the default ingress class", func() bool {
		made := admin.ok("POST", "/apis/networking.k8s.io/v1/namespaces/default/ingresses?dryRun=All", asJSON, ingress)
		return made["spec"].(map[string]any)["ingressClassName"] == "web"
	})
	claim := `{"metadata":{"name":"c"},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}}}}`
	if made := admin.ok("POST", ns+"persistentvolumeclaims", asJSON, claim); made["spec"].(map[string]any)["storageClassName"] != "grows" {
		t.Error(made["spec"])
	}
	const grow = `{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`
	if code, text, _ := admin.send("PATCH", ns+"persistentvolumeclaims/c", asMerge, grow); code != 403 && code != 422 {
		t.Errorf("an unbound claim grows: %d %s", code, text)
	}
	admin.ok("PATCH", ns+"persistentvolumeclaims/c", asMerge, `{"spec":{"volumeName":"v"}}`)
	admin.ok("PATCH", ns+"persistentvolumeclaims/c/status", asMerge, `{"status":{"phase":"Bound","capacity":{"storage":"1Gi"}}}`)
	admin.ok("PATCH", ns+"persistentvolumeclaims/c", asMerge, grow)
	admin.ok("PATCH", "/apis/storage.k8s.io/v1/storageclasses/grows", asMerge, `{"allowVolumeExpansion":false}`)
	eventually(t, "a class that forbids it", func() bool {
		code, text, _ := admin.send("PATCH", ns+"persistentvolumeclaims/c?dryRun=All", asMerge, `{"spec":{"resources":{"requests":{"storage":"3Gi"}}}}`)
		return code == 403 && strings.Contains(text, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	})
}
