package resourcequota

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/api/quota"
	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	// settle is waited for before counting: when a thousand pods go, the count
	// is made a few times, not a thousand.
	settle = 200 * time.Millisecond
	// recount is how often kinds are counted that no cache of ours holds.
	//
	// Simplified: upstream watches all kinds that quotas name.
	recount = 10 * time.Second
)

type controller struct {
	*harness.Scope
	quotas   *harness.Store[*corev1.ResourceQuota]
	pods     *harness.Store[*corev1.Pod]
	services *harness.Store[*corev1.Service]
	claims   *harness.Store[*corev1.PersistentVolumeClaim]

	mu    sync.Mutex                                // guards kinds
	kinds map[schema.GroupResource]harness.Resource // what the server has, as last asked
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "resourcequota-controller", Account: "resourcequota-controller", Source: "resourcequota-controller"})
	c := &controller{
		Scope:    s,
		quotas:   harness.StoreOf(s, client.ResourceQuotas),
		pods:     harness.StoreOf(s, client.Pods),
		services: harness.StoreOf(s, client.Services),
		claims:   harness.StoreOf(s, client.PersistentVolumeClaims),
	}
	loop := harness.NewLoop(s, 2, c.reconcile)
	harness.Watch(loop, c.quotas, func(old, new *corev1.ResourceQuota) []string {
		switch {
		case new == nil:
			return nil
		case old != nil && old.Generation == new.Generation: // the API server has charged something
			loop.AddAfter(client.Key(new), settle)
			return nil
		}
		return []string{client.Key(new)}
	})
	watch(c, loop, c.pods)
	watch(c, loop, c.services)
	watch(c, loop, c.claims)
}

// watch recounts a namespace's quotas soon after one of its objects changed.
func watch[T client.Object](c *controller, loop *harness.Loop[string], store *harness.Store[T]) {
	harness.Watch(loop, store, func(old, new T) []string {
		var none T
		changed := new
		if any(changed) == any(none) {
			changed = old
		}
		for _, q := range c.quotas.ByIndex(harness.ByNamespace, changed.GetNamespace()) {
			loop.AddAfter(client.Key(q), settle)
		}
		return nil
	})
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	q, ok := c.quotas.Get(client.SplitKey(key))
	if !ok || q.DeletionTimestamp != nil {
		return 0, nil
	}
	used, again, err := c.count(ctx, q)
	if err != nil {
		return 0, err
	}
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard, Used: used}
	if equality.Semantic.DeepEqual(q.Status, status) {
		return again, nil
	}
	updated := q.DeepCopy()
	updated.Status = status
	_, err = c.quotas.UpdateStatus(ctx, updated)
	return again, err
}

// count sums up what the namespace's objects use of what the quota names.
//
// Simplified: our caches may be older than the quota that we write back, and a
// pod let in a moment ago be missing from the sum until its event arrives and
// we count again. Upstream has the same gap.
func (c *controller) count(ctx context.Context, q *corev1.ResourceQuota) (used corev1.ResourceList, again time.Duration, err error) {
	used = corev1.ResourceList{}
	for name := range q.Spec.Hard {
		used[name] = resource.MustParse("0")
	}
	add(used, q, corev1.Resource("pods"), c.pods)
	add(used, q, corev1.Resource("services"), c.services)
	add(used, q, corev1.Resource("persistentvolumeclaims"), c.claims)
	for name := range q.Spec.Hard {
		gr, counted := otherKind(name)
		if !counted {
			continue
		}
		n, err := c.countOther(ctx, q, gr)
		if err != nil {
			return nil, 0, fmt.Errorf("count %s: %w", gr, err)
		}
		used[name], again = *resource.NewQuantity(int64(n), resource.DecimalSI), recount
	}
	return used, again, nil
}

func add[T client.Object](used corev1.ResourceList, q *corev1.ResourceQuota, gr schema.GroupResource, store *harness.Store[T]) {
	names := quota.Counted(gr, q.Spec.Hard)
	if len(names) == 0 {
		return
	}
	now := time.Now()
	for _, obj := range store.ByIndex(harness.ByNamespace, q.Namespace) {
		if quota.Applies(q, gr, obj) {
			maps.Copy(used, quota.Add(quota.Only(used, names), quota.Only(quota.Usage(gr, obj, now), names)))
		}
	}
}

// otherKind is the kind that a name of a quota counts, if it is one that we
// have no cache of.
func otherKind(name corev1.ResourceName) (schema.GroupResource, bool) {
	switch name {
	case corev1.ResourceConfigMaps, corev1.ResourceSecrets, corev1.ResourceQuotas, corev1.ResourceReplicationControllers:
		return corev1.Resource(string(name)), true
	}
	counted, ok := strings.CutPrefix(string(name), "count/")
	if !ok {
		return schema.GroupResource{}, false
	}
	gr := schema.ParseGroupResource(counted)
	return gr, gr != corev1.Resource("pods") && gr != corev1.Resource("services") && gr != corev1.Resource("persistentvolumeclaims")
}

// countOther asks the server how many objects of a kind there are.
func (c *controller) countOther(ctx context.Context, q *corev1.ResourceQuota, gr schema.GroupResource) (int, error) {
	if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
		return 0, nil // scopes are about pods and claims
	}
	r, ok, err := c.kind(ctx, gr)
	if err != nil || !ok || !r.Namespaced || !r.Can("list") {
		return 0, err
	}
	list, err := client.For(c.Client, r.Metadata()).List(ctx, q.Namespace, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	return len(list.Items), nil
}

// kind finds a resource by discovery, which is asked again for what it did
// not know.
func (c *controller) kind(ctx context.Context, gr schema.GroupResource) (harness.Resource, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok := c.kinds[gr]; ok {
		return r, true, nil
	}
	resources, _, err := harness.Discover(ctx, c.Client)
	if err != nil {
		return harness.Resource{}, false, err
	}
	c.kinds = map[schema.GroupResource]harness.Resource{}
	for _, r := range resources {
		c.kinds[r.GroupResource()] = r
	}
	r, ok := c.kinds[gr]
	return r, ok, nil
}
