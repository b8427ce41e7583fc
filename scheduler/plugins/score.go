package plugins

import (
	"math"
	"math/bits"

	configv1 "k8s.io/kube-scheduler/config/v1"

	"tinykube/scheduler/framework"
)

// The formulas. Each looks at one node's resources as they would be with the
// pod on it, and answers 0..100. All work in integers, as upstream's do: a
// difference of one point decides where a pod runs.

// share is one resource of one node in the eyes of a score.
type share struct {
	// requested includes the pod that is being placed, before does not.
	requested, before int64
	// allocatable is never 0: resources a node does not have are left out.
	allocatable int64
	weight      int64
}

// formula is a way to score a node.
type formula func([]share) int64

// leastAllocated prefers empty nodes: it spreads.
//
//	Σ weight · (allocatable − requested)·100/allocatable  /  Σ weight
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/noderesources leastResourceScorer
//
// LAB 07 least: for each share, what would be left, in percent of what there
// is; weighted makes one number of them.
func leastAllocated(shares []share) int64 {
	return weighted(shares, func(s share) int64 {
		if s.requested > s.allocatable {
			return 0
		}
		return percent(s.allocatable-s.requested, s.allocatable)
	})
}

// mostAllocated prefers full nodes: it packs.
//
//	Σ weight · requested·100/allocatable  /  Σ weight
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/noderesources mostResourceScorer
//
// LAB 07 most: for each share, what would be taken, in percent of what there is.
func mostAllocated(shares []share) int64 {
	return weighted(shares, func(s share) int64 { return percent(s.requested, s.allocatable) })
}

func weighted(shares []share, score func(share) int64) int64 {
	var sum, weights int64
	for _, s := range shares {
		sum += s.weight * score(s)
		weights += s.weight
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

// maxShapeScore is the top of the scale in which people write shapes; scores
// are ten times finer.
const maxShapeScore = 10

// requestedToCapacityRatio lets the operator draw the curve: utilization in
// percent to score, with straight lines between the points.
//
// Note what upstream does with a resource that scores 0: it leaves its weight
// out of the sum as well, and it rounds the result.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/noderesources buildRequestedToCapacityRatioScorerFunction
func requestedToCapacityRatio(shape []configv1.UtilizationShapePoint) formula {
	return func(shares []share) int64 {
		var sum, weights int64
		for _, s := range shares {
			if score := onCurve(shape, percent(s.requested, s.allocatable)); score > 0 {
				sum += s.weight * score
				weights += s.weight
			}
		}
		if weights == 0 {
			return 0
		}
		return int64(math.Round(float64(sum) / float64(weights)))
	}
}

// onCurve interpolates, and is flat before the first point and after the last.
func onCurve(shape []configv1.UtilizationShapePoint, utilization int64) int64 {
	const scale = framework.MaxNodeScore / maxShapeScore
	for i, p := range shape {
		x, y := int64(p.Utilization), int64(p.Score)*scale
		if utilization > x {
			continue
		}
		if i == 0 {
			return y
		}
		x0, y0 := int64(shape[i-1].Utilization), int64(shape[i-1].Score)*scale
		return y0 + (y-y0)*(utilization-x0)/(x-x0)
	}
	return int64(shape[len(shape)-1].Score) * scale
}

// balanced prefers nodes whose resources the pod uses up evenly, so that no
// memory is stranded behind a full CPU. It compares the node with and without
// the pod: 75 is no change, more is an improvement.
//
//	50 + (50 + b(with) − b(without)) / 2,   b = (1 − σ(fractions)) · 100
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/noderesources balancedResourceScorer
func balanced(shares []share) int64 {
	with := evenness(shares, func(s share) int64 { return s.requested })
	without := evenness(shares, func(s share) int64 { return s.before })
	const half = framework.MaxNodeScore / 2
	return half + (half+with-without)/2
}

func evenness(shares []share, used func(share) int64) int64 {
	var mean float64
	for _, s := range shares {
		mean += fraction(used(s), s.allocatable)
	}
	n := float64(len(shares))
	mean /= n
	var deviation float64
	switch {
	case len(shares) == 2:
		// The same number as below, without the rounding of squares and roots.
		deviation = math.Abs(fraction(used(shares[0]), shares[0].allocatable)-fraction(used(shares[1]), shares[1].allocatable)) / 2
	case len(shares) > 2:
		var squares float64
		for _, s := range shares {
			d := fraction(used(s), s.allocatable) - mean
			squares += d * d
		}
		deviation = math.Sqrt(squares / n)
	}
	return int64((1 - deviation) * float64(framework.MaxNodeScore))
}

func fraction(used, allocatable int64) float64 {
	return min(1, float64(used)/float64(allocatable))
}

// percent is part·100/whole, exact and within 0..100 even where the product
// does not fit into 64 bits (memory in bytes on a very large node).
func percent(part, whole int64) int64 {
	switch {
	case part <= 0:
		return 0
	case part >= whole:
		return 100
	case part <= math.MaxInt64/100:
		return part * 100 / whole
	}
	hi, lo := bits.Mul64(uint64(part), 100)
	quotient, _ := bits.Div64(hi, lo, uint64(whole))
	return int64(quotient)
}
