package controllers

// What fakeAPI has beside storing: faults to order, and the few things that
// the real server does by itself.

import (
	"net/http"
	"slices"
	"strings"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// faults are what a test can order. Set them before use.
type faults struct {
	// LagOf delays each event by itself; order is kept within a watch, as the
	// real server does, and lost between two.
	LagOf func(plural string, revision int) time.Duration
	// Twice delivers each event two times.
	Twice bool
	// Meddle says before which of the manager's writes somebody else changes the
	// object, so that the write meets a conflict.
	Meddle func(t target) bool
	// FromManager is Fault for the manager's own writes, events and leases
	// aside.
	FromManager func(method, path string) (before, after error)
	// Unlisted is a resource whose objects can be read one by one only.
	Unlisted string
	// Collects makes foreground deletion wait for a garbage collector.
	Collects bool
}

func (s *fakeAPI) lag(t target, e event) time.Duration {
	if s.LagOf != nil {
		return s.LagOf(t.plural, e.revision)
	}
	return s.Lag
}

// fault asks whoever ordered faults about a write.
func (s *fakeAPI) fault(r *http.Request) (before, after error) {
	switch path := r.URL.Path; {
	case r.Method == http.MethodGet || strings.Contains(path, "accessreviews"):
		return nil, nil
	case s.Fault != nil:
		return s.Fault(r.Method, path)
	case s.FromManager != nil && byManager(r) && !strings.Contains(path, "/events") && !strings.Contains(path, "/leases"):
		return s.FromManager(r.Method, path)
	}
	return nil, nil
}

// managerAgent tells the manager's requests from those of users and nodes.
const managerAgent = "manager"

// managerWrites returns every write of the manager so far.
func (s *fakeAPI) managerWrites() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.history)
}

func (s *fakeAPI) times() int {
	if s.Twice {
		return 2
	}
	return 1
}

func (s *fakeAPI) meddles(r *http.Request, t target) bool {
	return r.Method == http.MethodPut && byManager(r) && s.Meddle != nil && s.Meddle(t)
}

func byManager(r *http.Request) bool { return strings.HasPrefix(r.UserAgent(), managerAgent) }

// selects knows the two field selectors that controllers use.
func selects(selector string, obj object) bool {
	field, want, _ := strings.Cut(selector, "=")
	switch field {
	case "metadata.name":
		return meta(obj)["name"] == want
	case "type":
		return obj["type"] == want
	}
	return true
}

// held are objects that stay though they are marked and have no finalizers:
// pods until their kubelet is done, namespaces until they are empty.
func held(t target, obj object) bool {
	if t.plural == "namespaces" {
		spec, _ := obj["spec"].(object)
		return !empty(spec["finalizers"])
	}
	spec, _ := obj["spec"].(object)
	return t.plural == "pods" && spec["nodeName"] != nil && spec["nodeName"] != ""
}

func (s *fakeAPI) deleteAll(c *collection, t target, body []byte) (any, error) {
	for key, obj := range c.objects {
		namespace, name, _ := strings.Cut(key, "/")
		if namespace == t.namespace {
			one := t
			one.name = name
			if _, err := s.delete(c, one, obj, body); err != nil {
				return nil, err
			}
		}
	}
	return object{}, nil
}

// selectByUID gives a Job the selector that the real server makes.
func selectByUID(job object) {
	spec := job["spec"].(object)
	label := object{"batch.kubernetes.io/controller-uid": meta(job)["uid"]}
	spec["selector"] = object{"matchLabels": label}
	template := spec["template"].(object)
	meta(template)["labels"] = with(meta(template)["labels"], "batch.kubernetes.io/controller-uid", meta(job)["uid"].(string))
}

func with(labels any, key, value string) object {
	out := object{}
	if have, ok := labels.(object); ok {
		for k, v := range have {
			out[k] = v
		}
	}
	out[key] = value
	return out
}

// builtIn answers what is no stored object: discovery and access reviews.
func builtIn(r *http.Request, body []byte) any {
	switch r.URL.Path {
	case "/api":
		return discovery(true)
	case "/apis":
		return discovery(false)
	case "/apis/authorization.k8s.io/v1/subjectaccessreviews":
		review := decode(body)
		user, _ := review["spec"].(object)["user"].(string)
		review["status"] = object{"allowed": strings.HasPrefix(user, "system:bootstrap:")}
		return review
	}
	return nil
}

// discovery tells of the kinds that the tests of collectors have objects of.
func discovery(core bool) *apidiscoveryv2.APIGroupDiscoveryList {
	list := &apidiscoveryv2.APIGroupDiscoveryList{}
	kind := func(group, kind, plural string) {
		if (group == "") != core {
			return
		}
		i := slices.IndexFunc(list.Items, func(g apidiscoveryv2.APIGroupDiscovery) bool { return g.Name == group })
		if i < 0 {
			i = len(list.Items)
			list.Items = append(list.Items, apidiscoveryv2.APIGroupDiscovery{
				ObjectMeta: metav1.ObjectMeta{Name: group}, Versions: []apidiscoveryv2.APIVersionDiscovery{{Version: "v1", Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}},
			})
		}
		scope := apidiscoveryv2.ScopeNamespace
		if plural == "nodes" || plural == "namespaces" {
			scope = apidiscoveryv2.ScopeCluster
		}
		versions := list.Items[i].Versions
		versions[0].Resources = append(versions[0].Resources, apidiscoveryv2.APIResourceDiscovery{
			Resource: plural, Scope: scope, ResponseKind: &metav1.GroupVersionKind{Group: group, Version: "v1", Kind: kind},
			Verbs: []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"},
		})
	}
	kind("", "Pod", "pods")
	kind("", "ConfigMap", "configmaps")
	kind("", "Namespace", "namespaces")
	kind("", "Node", "nodes")
	kind("", "PersistentVolumeClaim", "persistentvolumeclaims")
	kind("apps", "ReplicaSet", "replicasets")
	kind("apps", "Deployment", "deployments")
	return list
}

// exit says how the nodes end a pod of an image: "exit-3" with code 3.
func exit(pod *corev1.Pod) (code int32, ends bool) {
	text, ends := strings.CutPrefix(pod.Spec.Containers[0].Image, "exit-")
	for _, digit := range text {
		code = 10*code + digit - '0'
	}
	return code, ends
}

// end makes a running pod one that has ended.
func end(pod *corev1.Pod, code int32) {
	pod.Status.Phase = corev1.PodSucceeded
	if code != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.Now()}},
	}}
}

// get reads an object that must be there.
func get[T client.Object](c *cluster, kind client.Kind[T], namespace, name string) T {
	c.t.Helper()
	return must(client.For(c.client, kind).Get(c.t.Context(), namespace, name))
}

func create[T client.Object](c *cluster, kind client.Kind[T], obj T) T {
	c.t.Helper()
	return must(client.For(c.client, kind).Create(c.t.Context(), obj))
}
