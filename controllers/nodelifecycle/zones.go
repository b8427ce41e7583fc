package nodelifecycle

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
)

// zones limits how fast nodes are given up.
//
//	all nodes of all zones gone    spare everybody (we are probably cut off)
//	over 55 % of a zone gone       a tenth of the rate in a large zone, none in a small one
//	otherwise                      one node every 10 s per zone
//
// Upstream: kubernetes/kubernetes pkg/controller/nodelifecycle handleDisruption
type zones struct {
	cfg Config

	mu       sync.Mutex // guards all below
	counted  time.Time
	limiters map[string]*rate.Limiter // by zone
	noneLeft bool
}

// recountEvery bounds the cost of counting: it looks at every node.
const recountEvery = time.Second

// choose decides what may happen to a node's NoExecute taints. nodes is only
// called when it is time to count again.
func (z *zones) choose(node *corev1.Node, nodes func() []*corev1.Node, now time.Time) evictionChoice {
	z.mu.Lock()
	defer z.mu.Unlock()
	if now.Sub(z.counted) >= recountEvery {
		z.count(nodes(), now)
	}
	switch limiter := z.limiters[zoneOf(node)]; {
	case z.noneLeft:
		return spare
	case !needsEviction(node):
		return evict // only to take away what is not deserved any more
	case limiter != nil && limiter.Limit() > 0 && limiter.AllowN(now, 1):
		return evict
	default:
		return wait
	}
}

// count sets every zone's rate by how many of its nodes are ready.
func (z *zones) count(nodes []*corev1.Node, now time.Time) {
	type tally struct{ ready, gone int }
	tallies := map[string]*tally{}
	allGone := true
	for _, node := range nodes {
		if _, excluded := node.Labels[excludeDisruption]; excluded {
			continue
		}
		t := tallies[zoneOf(node)]
		if t == nil {
			t = &tally{}
			tallies[zoneOf(node)] = t
		}
		if isReady(node) {
			t.ready++
			allGone = false
		} else {
			t.gone++
		}
	}
	z.counted, z.noneLeft = now, allGone && len(tallies) > 0
	for zone, t := range tallies {
		if z.limiters[zone] == nil {
			z.limiters[zone] = rate.NewLimiter(rate.Limit(z.cfg.EvictionRate), 1)
		}
		limit := z.rate(t.ready, t.gone)
		if z.limiters[zone].Limit() != limit {
			z.limiters[zone].SetLimitAt(now, limit)
		}
	}
	maps.DeleteFunc(z.limiters, func(zone string, _ *rate.Limiter) bool { return tallies[zone] == nil })
}

// rate is how many nodes per second a zone may give up.
func (z *zones) rate(ready, gone int) rate.Limit {
	partial := ready > 0 && gone > 2 && float64(gone)/float64(ready+gone) >= z.cfg.UnhealthyZoneThreshold
	switch {
	case !partial:
		return rate.Limit(z.cfg.EvictionRate)
	case ready+gone > z.cfg.LargeClusterThreshold:
		return rate.Limit(z.cfg.SecondaryEvictionRate)
	default:
		return 0
	}
}

// excludeDisruption marks nodes that say nothing about their zone's health.
const excludeDisruption = "node.kubernetes.io/exclude-disruption"

// zoneOf names a node's zone; the older labels count first.
// Upstream: k8s.io/component-helpers node/topology GetZoneKey
func zoneOf(node *corev1.Node) string {
	label := func(older, name string) string {
		if value, ok := node.Labels[older]; ok {
			return value
		}
		return node.Labels[name]
	}
	return label(corev1.LabelFailureDomainBetaRegion, corev1.LabelTopologyRegion) + "/" +
		label(corev1.LabelFailureDomainBetaZone, corev1.LabelTopologyZone)
}

func sorted(ids map[taintID]bool) []taintID {
	return slices.SortedFunc(maps.Keys(ids), func(a, b taintID) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.effect, b.effect))
	})
}
