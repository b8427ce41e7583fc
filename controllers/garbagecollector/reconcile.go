package garbagecollector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const (
	// Upstream: kubernetes/kubernetes --concurrent-gc-syncs
	workers = 20
	// notSynced is how soon to look again at what needs a complete graph.
	notSynced = 100 * time.Millisecond
	// unwatched is how soon to ask again for an owner that no watch tells of.
	unwatched = time.Minute
)

type controller struct {
	*harness.Scope
	graph    *graph
	monitors *monitors
	absent   *absent
	loop     *harness.Loop[types.UID]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "garbage-collector-controller", Account: "generic-garbage-collector", Source: "garbage-collector-controller"})
	c := &controller{Scope: s, graph: newGraph(), absent: &absent{owners: map[coordinates]bool{}}}
	c.loop = harness.NewLoop(s, workers, c.reconcile)
	c.monitors = &monitors{scope: s, change: c.changed, first: make(chan struct{}), running: map[schema.GroupResource]*monitor{}}
	c.loop.WaitFor(c.monitors.first) // half a graph would take many owners for absent, and ask about each
	s.WatchStored(c.changed)
	s.Go(c.monitors.run)
}

// changed keeps the graph and enqueues whom the change concerns.
func (c *controller) changed(r harness.Resource, old, new metav1.Object) {
	if ignored[r.GroupResource()] {
		return
	}
	var affected []types.UID
	if new == nil {
		c.absent.add(coordinates{uid: old.GetUID()})
		affected = c.graph.drop(old.GetUID())
	} else {
		affected = c.graph.put(newNode(r, new))
	}
	for _, uid := range affected {
		c.loop.Add(uid)
	}
}

func (c *controller) reconcile(ctx context.Context, uid types.UID) (time.Duration, error) {
	n := c.graph.get(uid)
	switch {
	case n == nil:
		return 0, nil // its dependents were enqueued when it went
	case n.deleting && (n.orphan || n.foreground) && !c.monitors.synced():
		return notSynced, nil // there may be dependents that we do not see yet
	case n.deleting && n.orphan:
		return 0, c.orphanDependents(ctx, n)
	case n.waiting():
		return 0, c.deleteDependents(ctx, n)
	case n.deleting || c.allSolid(n):
		return 0, nil
	}
	return c.collect(ctx, n)
}

// allSolid says whether the graph alone shows that all owners live. It answers
// nearly every question without a request.
func (c *controller) allSolid(n *node) bool {
	return !slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool {
		owner := c.graph.get(ref.UID)
		return owner == nil || !fits(owner, n, ref) || owner.waiting()
	})
}

// fits says whether a node of the graph is what a reference names: a UID alone
// could be anybody's claim.
func fits(owner, dependent *node, ref metav1.OwnerReference) bool {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	return err == nil && owner.name == ref.Name && owner.resource.Kind == ref.Kind && owner.resource.Group == gv.Group &&
		(owner.namespace == "" || owner.namespace == dependent.namespace)
}

// errClusterScoped marks an object in no namespace that names an owner in one:
// nobody can tell which namespace, so it is left alone.
var errClusterScoped = errors.New("a cluster-scoped object cannot have a namespaced owner")

// collect deletes an object whose owners are all gone, after reading it and
// them from the server. The duration is how soon an owner that lives should be
// asked for again.
func (c *controller) collect(ctx context.Context, n *node) (again time.Duration, err error) {
	live, err := c.api(n.resource).Get(ctx, n.namespace, n.name)
	if apierrors.IsNotFound(err) || err == nil && (live.UID != n.uid || live.DeletionTimestamp != nil) {
		return 0, nil // the watch will say so
	}
	if err != nil {
		return 0, fmt.Errorf("read %s %s: %w", n.resource.Plural, n.name, err)
	}
	states := make([]ownerState, len(live.OwnerReferences))
	for i, ref := range live.OwnerReferences {
		states[i], err = c.state(ctx, n, ref)
		if errors.Is(err, errClusterScoped) {
			return 0, nil
		}
		if err != nil {
			return 0, fmt.Errorf("owner %s %s of %s %s: %w", ref.Kind, ref.Name, n.resource.Plural, n.name, err)
		}
		if states[i] != gone && c.graph.get(ref.UID) == nil {
			again = unwatched
		}
	}
	a := judge(live.OwnerReferences, states, live.Finalizers, len(c.graph.dependentsOf(n.uid)) > 0)
	switch {
	case a.delete:
		return 0, c.delete(ctx, n, live, a.propagation)
	case len(a.unlink) > 0:
		return again, c.setOwners(ctx, n, live, without(live.OwnerReferences, a.unlink))
	}
	return again, nil
}

// state finds out about one owner; it errs whenever it cannot be certain.
func (c *controller) state(ctx context.Context, n *node, ref metav1.OwnerReference) (ownerState, error) {
	known := c.graph.get(ref.UID)
	if known != nil && fits(known, n, ref) {
		if known.waiting() {
			return waiting, nil
		}
		return solid, nil
	}
	if known != nil && known.namespace != "" && known.namespace != n.namespace {
		c.Events.EventRef(n.reference(), corev1.EventTypeWarning, "OwnerRefInvalidNamespace",
			"ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q", ref.APIVersion, ref.Kind, n.namespace, ref.Name, ref.UID, n.namespace)
	}
	r, ok := c.monitors.resourceOf(ref.APIVersion, ref.Kind)
	namespace := n.namespace
	if ok && !r.Namespaced {
		namespace = ""
	}
	switch {
	case c.absent.has(coordinatesOf(ref, namespace)):
		return gone, nil
	case !ok:
		return solid, fmt.Errorf("no server knows %s %s", ref.APIVersion, ref.Kind)
	case n.namespace == "" && r.Namespaced:
		return solid, errClusterScoped
	}
	if bad := path.IsValidPathSegmentName(ref.Name); len(bad) > 0 {
		return solid, fmt.Errorf("invalid resource name %q: %v", ref.Name, bad)
	}
	owner, err := c.api(r).Get(ctx, namespace, ref.Name)
	switch {
	case apierrors.IsNotFound(err), err == nil && owner.UID != ref.UID:
		c.absent.add(coordinatesOf(ref, namespace))
		return gone, nil
	case err != nil:
		return solid, err
	case newNode(r, owner).waiting():
		return waiting, nil
	}
	return solid, nil
}

func (c *controller) delete(ctx context.Context, n *node, live *metav1.PartialObjectMetadata, propagation metav1.DeletionPropagation) error {
	c.Log.Debug("Collecting", "resource", n.resource.Plural, "key", n.namespace+"/"+n.name, "propagation", propagation)
	err := c.api(n.resource).Delete(ctx, n.namespace, n.name, metav1.DeleteOptions{
		PropagationPolicy: &propagation,
		Preconditions:     &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("collect %s %s: %w", n.resource.Plural, n.name, err)
	}
	return nil
}

// deleteDependents serves an object in foreground deletion: its dependents are
// judged, and once none blocks it any more, it may go.
func (c *controller) deleteDependents(ctx context.Context, n *node) error {
	blocked := false
	for _, dependent := range c.graph.dependentsOf(n.uid) {
		if blocks(dependent, n) {
			blocked = true
		}
		if !dependent.deleting {
			c.loop.Add(dependent.uid)
		} else if dependent.waiting() && c.reaches(dependent, n, map[types.UID]bool{}) {
			if err := c.unblock(ctx, dependent, n); err != nil {
				return err
			}
		}
	}
	if blocked {
		return nil // each dependent that goes enqueues us
	}
	return c.removeFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
}

// reaches says whether target is among the dependents of from, or theirs: a
// circle, in which everyone would wait for ever.
func (c *controller) reaches(target, from *node, seen map[types.UID]bool) bool {
	for _, ref := range from.owners {
		if ref.UID == target.uid {
			return true
		}
		owner := c.graph.get(ref.UID)
		if owner != nil && !seen[ref.UID] {
			seen[ref.UID] = true
			if c.reaches(target, owner, seen) {
				return true
			}
		}
	}
	return false
}

// unblock breaks a circle: dependent no longer blocks owner.
func (c *controller) unblock(ctx context.Context, dependent, owner *node) error {
	live, err := c.api(dependent.resource).Get(ctx, dependent.namespace, dependent.name)
	if err != nil {
		return ignoreNotFound(err)
	}
	owners := slices.Clone(live.OwnerReferences)
	changed := false
	for i := range owners {
		if owners[i].UID == owner.uid && owners[i].BlockOwnerDeletion != nil && *owners[i].BlockOwnerDeletion {
			owners[i].BlockOwnerDeletion, changed = new(bool), true
		}
	}
	if !changed || live.UID != dependent.uid {
		return nil
	}
	return c.setOwners(ctx, dependent, live, owners)
}

// orphanDependents takes an object's name off its dependents, then lets it go.
func (c *controller) orphanDependents(ctx context.Context, n *node) error {
	dependents := c.graph.dependentsOf(n.uid)
	err := harness.Parallel(len(dependents), func(i int) error {
		d := dependents[i]
		live, err := c.api(d.resource).Get(ctx, d.namespace, d.name)
		if err != nil || live.UID != d.uid {
			return ignoreNotFound(err)
		}
		return c.setOwners(ctx, d, live, without(live.OwnerReferences, []metav1.OwnerReference{{UID: n.uid}}))
	})
	if err != nil {
		return fmt.Errorf("orphan the dependents of %s %s: %w", n.resource.Plural, n.name, err)
	}
	return c.removeFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
}

func (c *controller) setOwners(ctx context.Context, n *node, live *metav1.PartialObjectMetadata, owners []metav1.OwnerReference) error {
	if len(owners) == len(live.OwnerReferences) && slices.EqualFunc(owners, live.OwnerReferences, sameReference) {
		return nil
	}
	return c.patch(ctx, n, live, "ownerReferences", owners)
}

func (c *controller) removeFinalizer(ctx context.Context, n *node, finalizer string) error {
	live, err := c.api(n.resource).Get(ctx, n.namespace, n.name)
	if err != nil || live.UID != n.uid || !slices.Contains(live.Finalizers, finalizer) {
		return ignoreNotFound(err)
	}
	left := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, n, live, "finalizers", left)
}

// patch replaces one list of metadata, if the object is still as we read it. A
// merge patch is understood for every kind.
func (c *controller) patch(ctx context.Context, n *node, live *metav1.PartialObjectMetadata, field string, value any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": live.UID, "resourceVersion": live.ResourceVersion, field: value,
	}})
	if err != nil {
		return err
	}
	if _, err = c.api(n.resource).Patch(ctx, n.namespace, n.name, types.MergePatchType, patch); ignoreNotFound(err) != nil {
		return fmt.Errorf("change %s of %s %s: %w", field, n.resource.Plural, n.name, err)
	}
	return nil
}

func (c *controller) api(r harness.Resource) *client.Resource[*metav1.PartialObjectMetadata] {
	return client.For(c.Client, r.Metadata())
}

func (n *node) reference() corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: schema.GroupVersion{Group: n.resource.Group, Version: n.resource.Version}.String(), Kind: n.resource.Kind,
		Namespace: n.namespace, Name: n.name, UID: n.uid,
	}
}

func sameReference(a, b metav1.OwnerReference) bool {
	on := func(p *bool) bool { return p != nil && *p }
	return a.UID == b.UID && on(a.BlockOwnerDeletion) == on(b.BlockOwnerDeletion)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
