package scheduler

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/scheduler/framework"
)

// The cache is the scheduler's idea of what runs where. It is ahead of the API
// server on purpose: a pod counts as placed from the moment of the decision,
// long before its binding comes back through the watch. Otherwise two pods
// would be given the same room.
//
//	decision        binding succeeded         watch shows the pod
//	   │                   │                        │
//	   ▼ Assume            ▼ Bound                  ▼ Add
//	 assumed ───────── assumed, expires ───────── confirmed
//	   │ Forget (binding failed: the room is free again)
//	   ▼
//
// The watch is always right: what it says replaces what was assumed, also when
// it names another node.

// assumedFor is how long an assumed pod whose binding succeeded may stay
// unconfirmed. The watch confirms within milliseconds, and a deleted pod is
// told as deleted; this only bounds the damage of a mistake.
const assumedFor = 15 * time.Minute

// cached is what the cache knows of a pod with a node.
type cached struct {
	pod  *framework.PodInfo
	node string
	// assumed is true until the watch confirms.
	assumed bool
	// expires is set by Bound.
	expires time.Time
}

// Cache holds nodes and the pods on them.
type Cache struct {
	mu    sync.Mutex // guards everything below
	pods  map[types.UID]*cached
	nodes map[string]*framework.NodeInfo
	// dirty are the nodes that changed since the last snapshot.
	dirty map[string]bool
	// imageNodes counts nodes by image name.
	imageNodes map[string]int
	// nominees wait for a node that is being emptied for them.
	nominees  map[types.UID]nominee
	nominated map[string][]*framework.PodInfo // the same by node
	// Owned by the cache between calls, read by the cycle that got it.
	snapshot framework.Snapshot
	order    bool // the snapshot's list of nodes must be rebuilt
}

// nominee is a pod that waits for a certain node.
type nominee struct {
	pod  *framework.PodInfo
	node string
}

// NewCache makes an empty cache.
func NewCache() *Cache {
	return &Cache{
		pods:       map[types.UID]*cached{},
		nodes:      map[string]*framework.NodeInfo{},
		dirty:      map[string]bool{},
		imageNodes: map[string]int{},
		nominees:   map[types.UID]nominee{},
		snapshot:   framework.Snapshot{ByName: map[string]*framework.NodeInfo{}},
	}
}

// Assume places a pod before anybody else knows.
func (c *Cache) Assume(pod *framework.PodInfo, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.place(&cached{pod: pod, node: node, assumed: true})
	c.nominate(pod, "")
}

// Nominate notes the node that is being emptied for a pod, or with "" that
// there is none.
func (c *Cache) Nominate(pod *framework.PodInfo, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nominate(pod, node)
}

// Waits takes in what the watch shows of a pod without a node. A nomination
// that only we know of yet is kept: it is on its way to the API server.
func (c *Cache) Waits(old, new *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	node := new.Status.NominatedNodeName
	if known, is := c.nominees[new.UID]; is && node == "" && old != nil && old.Status.NominatedNodeName == "" {
		node = known.node
	}
	if _, was := c.nominees[new.UID]; was || node != "" {
		c.nominate(framework.NewPodInfo(new), node)
	}
}

// NoLongerWaits drops a nomination, if there is one.
func (c *Cache) NoLongerWaits(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, is := c.nominees[uid]; is {
		c.nominate(n.pod, "")
	}
}

// NominatedTo lists the pods that wait for a node.
func (c *Cache) NominatedTo(node string) (pods []*framework.PodInfo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nominees {
		if n.node == node {
			pods = append(pods, n.pod)
		}
	}
	return pods
}

// Bound starts the time after which an assumption nobody confirms is dropped.
func (c *Cache) Bound(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pods[uid]; p != nil && p.assumed {
		p.expires = time.Now().Add(assumedFor)
	}
}

// Forget takes an assumption back. A confirmed pod stays.
func (c *Cache) Forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.pods[uid]; p != nil && p.assumed {
		c.remove(uid)
	}
}

// Assumed says whether the pod has been given a node already.
func (c *Cache) Assumed(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.pods[uid]
	return p != nil && p.assumed
}

// Expire drops assumptions that nobody confirmed in time.
func (c *Cache) Expire(now time.Time) (dropped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid, p := range c.pods {
		if p.assumed && !p.expires.IsZero() && now.After(p.expires) {
			c.remove(uid)
			dropped++
		}
	}
	return dropped
}

// AddPod takes in or updates a pod that the watch shows on a node.
func (c *Cache) AddPod(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.place(&cached{pod: framework.NewPodInfo(pod), node: pod.Spec.NodeName})
}

// RemovePod drops a pod that the watch shows as gone or finished.
func (c *Cache) RemovePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remove(uid)
}

// SetNode takes in or updates a node.
func (c *Cache) SetNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.node(node.Name)
	if info.Node == nil {
		c.order = true
	}
	before := info.Images
	info.SetNode(node)
	c.countImages(before, info.Images)
}

// RemoveNode drops a node. Pods still said to be there keep their place, for
// the node may come back before they go.
func (c *Cache) RemoveNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.node(name)
	c.countImages(info.Images, nil)
	info.Node, info.Images, info.Allocatable = nil, nil, framework.Resources{}
	c.order = true
	c.dropIfEmpty(name)
}

// Snapshot returns all nodes as they are now. Only nodes that changed since
// the last call are copied, which after one decision is one; the others are
// shared with the previous snapshot, which must no longer be in use.
func (c *Cache) Snapshot() *framework.Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	relist := c.order
	for name := range c.dirty {
		info := c.nodes[name]
		if info == nil || info.Node == nil {
			delete(c.snapshot.ByName, name)
			continue
		}
		fresh := info.Clone()
		if old := c.snapshot.ByName[name]; old != nil && !c.order {
			// The list holds pointers to the copies: renew it in place.
			relist = relist || len(old.WithAffinity) == 0 != (len(fresh.WithAffinity) == 0) ||
				len(old.WithAntiAffinity) == 0 != (len(fresh.WithAntiAffinity) == 0)
			*old = *fresh
		} else {
			c.snapshot.ByName[name] = fresh
		}
	}
	clear(c.dirty)
	if c.order {
		c.order = false
		c.snapshot.Nodes = c.snapshot.Nodes[:0]
		for _, info := range c.snapshot.ByName {
			c.snapshot.Nodes = append(c.snapshot.Nodes, info)
		}
		// Simplified: upstream interleaves zones, so that a search which ends
		// early has seen all of them; here the order is by name.
		slices.SortFunc(c.snapshot.Nodes, func(a, b *framework.NodeInfo) int {
			return strings.Compare(a.Node.Name, b.Node.Name)
		})
	}
	if relist {
		c.snapshot.ListAffinity()
	}
	c.snapshot.ImageNodes, c.snapshot.Nominated = c.imageNodes, c.nominated
	return &c.snapshot
}

// The methods below need mu.

// nominate replaces the snapshot's map, which a decision may be reading.
func (c *Cache) nominate(pod *framework.PodInfo, node string) {
	if _, was := c.nominees[pod.UID]; !was && node == "" {
		return
	}
	delete(c.nominees, pod.UID)
	if node != "" {
		c.nominees[pod.UID] = nominee{pod, node}
	}
	c.nominated = make(map[string][]*framework.PodInfo, len(c.nominees))
	for _, n := range c.nominees {
		c.nominated[n.node] = append(c.nominated[n.node], n.pod)
	}
}

func (c *Cache) place(p *cached) {
	c.remove(p.pod.UID)
	c.pods[p.pod.UID] = p
	c.node(p.node).AddPod(p.pod)
}

func (c *Cache) remove(uid types.UID) {
	p := c.pods[uid]
	if p == nil {
		return
	}
	delete(c.pods, uid)
	c.node(p.node).RemovePod(p.pod.Pod)
	c.dropIfEmpty(p.node)
}

// node returns the entry to be changed, and so marks it.
func (c *Cache) node(name string) *framework.NodeInfo {
	info := c.nodes[name]
	if info == nil {
		info = &framework.NodeInfo{}
		c.nodes[name] = info
	}
	c.dirty[name] = true
	return info
}

func (c *Cache) dropIfEmpty(name string) {
	if info := c.nodes[name]; info != nil && info.Node == nil && len(info.Pods) == 0 {
		delete(c.nodes, name)
	}
}

// countImages keeps imageNodes right. Snapshots share the map, so it is
// replaced and never changed; images of a node change rarely.
func (c *Cache) countImages(before, after map[string]int64) {
	if maps.Equal(before, after) {
		return
	}
	c.imageNodes = maps.Clone(c.imageNodes)
	for image := range before {
		if c.imageNodes[image]--; c.imageNodes[image] == 0 {
			delete(c.imageNodes, image)
		}
	}
	for image := range after {
		c.imageNodes[image]++
	}
}
