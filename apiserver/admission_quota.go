package apiserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/api/quota"
	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// ResourceQuota: a namespace may not use more than its quotas allow, however
// many ask at the same time. So an object and the new "used" of each quota that
// it counts in are written in one transaction:
//
//	If   pod web-7 does not exist, quota team is at revision 812
//	Then put pod web-7, put quota team with used+1
//
// Nobody can use what somebody else has used meanwhile, and a crash leaves
// neither a pod that was not counted nor a count without a pod. Those who write
// to the same namespace wait for each other here, which is cheaper than to lose
// the race in etcd over and over.
//
// It is a plugin by its name only: what it decides must be part of the write
// itself (storeNew and planUpdate ask for charges).
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/admission/plugin/resourcequota
// counts first and then creates; its controller finds what a crash left behind.

const quotaPlugin = "ResourceQuota"

// charge returns the writes to the quotas that go with a write. The namespace's
// quotas are then ours until q.settle is called.
func (s *Server) charge(q *request, obj, old resources.Object) ([]storage.Also, error) {
	gr := q.row.GVR().GroupResource()
	if obj == nil || q.namespace == "" || !q.row.Namespaced || !charges(q, gr, obj, old) || !s.plugins.enabled(quotaPlugin) {
		return nil, nil
	}
	table := s.tableOf("", "resourcequotas")
	if len(table.All(q.namespace)) == 0 {
		return nil, nil
	}
	if q.unlock == nil && !q.options.dryRun {
		var err error
		if q.unlock, err = s.quotas.lock(q.Context(), q.namespace); err != nil {
			return nil, err
		}
	}
	// Whoever held the lock has written; our cache may not show it yet.
	if err := table.CatchUp(q.Context()); err != nil {
		return nil, err
	}
	a := &admission{server: s, request: q, obj: obj, old: old}
	var also []storage.Also
	for _, item := range table.All(q.namespace) {
		one, ok := decoded[*corev1.ResourceQuota](item)
		if !ok {
			continue
		}
		used, err := a.chargeTo(one, gr)
		if err != nil {
			return nil, err
		}
		if used == nil {
			continue
		}
		charged := one.DeepCopy()
		charged.Status.Used = used
		also = append(also, storage.Also{Table: table, Key: item.Key, Object: charged, IfRevision: item.Revision})
	}
	return also, nil
}

// settle lets others write to the namespace again.
func (q *request) settle() {
	if q.unlock != nil {
		q.unlock()
		q.unlock = nil
	}
}

// charges reports whether a write can use up more of anything.
func charges(q *request, gr schema.GroupResource, obj, old resources.Object) bool {
	if gr == corev1.Resource("events") {
		return false
	}
	if old == nil {
		return q.subresource == ""
	}
	switch obj := obj.(type) {
	case *corev1.Pod:
		was := old.(*corev1.Pod)
		return q.subresource == "resize" || q.subresource == "" && (obj.Spec.ActiveDeadlineSeconds == nil) != (was.Spec.ActiveDeadlineSeconds == nil)
	case *corev1.Service, *corev1.PersistentVolumeClaim:
		return q.subresource == ""
	}
	return false
}

// chargeTo is a quota's new usage, nil if it does not change.
func (a *admission) chargeTo(one *corev1.ResourceQuota, gr schema.GroupResource) (corev1.ResourceList, error) {
	if !quota.Applies(one, gr, a.obj) {
		return nil, nil
	}
	hard := one.Status.Hard
	if hard == nil { // its controller has not seen it yet
		hard = one.Spec.Hard
	}
	counted := quota.Counted(gr, hard)
	if pod, ok := a.obj.(*corev1.Pod); ok {
		if err := quota.Missing(pod, counted); err != nil {
			return nil, a.refuse(fmt.Errorf("failed quota: %s: %w", one.Name, err))
		}
	}
	for _, name := range counted {
		if _, ok := one.Status.Used[name]; !ok {
			return nil, a.refuse(fmt.Errorf("status unknown for quota: %s, resources: %s", one.Name, quota.Names(counted)))
		}
	}
	now := time.Now()
	usage := quota.Usage(gr, a.obj, now)
	if negative := quota.Negative(usage); len(negative) > 0 {
		return nil, a.refuse(fmt.Errorf("quota usage is negative for resource(s): %s", quota.Names(negative)))
	}
	var before corev1.ResourceList
	if a.old != nil && quota.Applies(one, gr, a.old) {
		before = quota.Usage(gr, a.old, now)
	}
	requested := quota.Only(quota.More(before, usage), counted)
	if len(requested) == 0 {
		return nil, nil
	}
	used := quota.Add(one.Status.Used, requested)
	var names []corev1.ResourceName
	for name := range requested {
		names = append(names, name)
	}
	if over := quota.Exceeded(quota.Only(used, names), hard); len(over) > 0 {
		return nil, a.refuse(fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s", one.Name,
			quota.Text(quota.Only(requested, over)), quota.Text(quota.Only(one.Status.Used, over)), quota.Text(quota.Only(hard, over))))
	}
	return used, nil
}

// keyedLock is a lock per name, for as long as somebody wants it.
type keyedLock struct {
	mu   sync.Mutex // guards held and the counts in it
	held map[string]*countedLock
}

type countedLock struct {
	token chan struct{} // capacity 1: who has put something in holds the lock
	users int
}

// lock waits for a name's turn.
func (l *keyedLock) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*countedLock{}
	}
	one := l.held[name]
	if one == nil {
		one = &countedLock{token: make(chan struct{}, 1)}
		l.held[name] = one
	}
	one.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(l.held, name)
		}
	}
	select {
	case one.token <- struct{}{}:
		return func() { <-one.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
