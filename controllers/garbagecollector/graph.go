package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/controllers/harness"
)

// node is what the graph knows of an object: enough to find it and to see
// whether its owners or its deletion need work.
type node struct {
	resource        harness.Resource
	namespace, name string
	uid             types.UID
	owners          []metav1.OwnerReference
	deleting        bool
	foreground      bool // finalizer foregroundDeletion
	orphan          bool // finalizer orphan
}

func newNode(r harness.Resource, obj metav1.Object) *node {
	finalizers := obj.GetFinalizers()
	return &node{
		resource: r, namespace: obj.GetNamespace(), name: obj.GetName(), uid: obj.GetUID(),
		owners:     obj.GetOwnerReferences(),
		deleting:   obj.GetDeletionTimestamp() != nil,
		foreground: slices.Contains(finalizers, metav1.FinalizerDeleteDependents),
		orphan:     slices.Contains(finalizers, metav1.FinalizerOrphanDependents),
	}
}

// waiting says whether a node is being deleted in the foreground.
func (n *node) waiting() bool { return n.deleting && n.foreground }

// graph is who owns whom, as far as the watches have told.
type graph struct {
	mu         sync.Mutex // guards all below
	nodes      map[types.UID]*node
	dependents map[types.UID]map[types.UID]bool // by owner
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]map[types.UID]bool{}}
}

// put adds or replaces a node and returns who has to be looked at: the node
// itself if it has owners or is on its way out, and the owners it had and has
// that wait for their dependents.
func (g *graph) put(n *node) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	affected := g.unlink(n.uid)
	g.nodes[n.uid] = n
	for _, owner := range n.owners {
		if g.dependents[owner.UID] == nil {
			g.dependents[owner.UID] = map[types.UID]bool{}
		}
		g.dependents[owner.UID][n.uid] = true
	}
	if len(n.owners) > 0 || n.deleting {
		affected = append(affected, n.uid)
	}
	return affected
}

// drop removes a node and returns who has to be looked at: its dependents, and
// owners that may have waited for it.
func (g *graph) drop(uid types.UID) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	affected := g.unlink(uid)
	delete(g.nodes, uid)
	for dependent := range g.dependents[uid] {
		affected = append(affected, dependent)
	}
	return affected
}

// unlink takes a node out of its owners' dependents and returns the owners
// that wait for that; mu is held.
func (g *graph) unlink(uid types.UID) (waiting []types.UID) {
	old := g.nodes[uid]
	if old == nil {
		return nil
	}
	for _, ref := range old.owners {
		delete(g.dependents[ref.UID], uid)
		if len(g.dependents[ref.UID]) == 0 {
			delete(g.dependents, ref.UID)
		}
		if owner := g.nodes[ref.UID]; owner != nil && owner.deleting {
			waiting = append(waiting, ref.UID)
		}
	}
	return waiting
}

// get returns a node, or nil. Nodes are never changed, only replaced.
func (g *graph) get(uid types.UID) *node {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[uid]
}

// dependentsOf returns the nodes that name uid as an owner.
func (g *graph) dependentsOf(uid types.UID) []*node {
	g.mu.Lock()
	defer g.mu.Unlock()
	var nodes []*node
	for dependent := range g.dependents[uid] {
		if n := g.nodes[dependent]; n != nil {
			nodes = append(nodes, n)
		}
	}
	return nodes
}
