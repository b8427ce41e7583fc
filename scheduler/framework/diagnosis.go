package framework

import (
	"fmt"
	"slices"
	"strings"
)

// NoNodes is the sentence when there is not even a node to turn the pod down.
const NoNodes = "no nodes available to schedule pods"

// Diagnosis collects why no node would do.
type Diagnosis struct {
	AllNodes int
	// ByNode is each inspected node's verdict; a node not in it got Others,
	// which PreFilter gave to all of them at once.
	ByNode map[string]*Status
	Others *Status
	// PreFilter is set when the pod failed before any node was looked at.
	PreFilter *Status
	// PostFilter is what the attempt to make room came to.
	PostFilter string
	// Rejectors are the plugins that said no to anything.
	Rejectors map[string]bool
}

// NewDiagnosis is one without findings.
func NewDiagnosis(allNodes int) *Diagnosis {
	return &Diagnosis{AllNodes: allNodes, ByNode: map[string]*Status{}, Rejectors: map[string]bool{}}
}

// Set notes a node's verdict.
func (d *Diagnosis) Set(node string, status *Status) {
	d.ByNode[node] = status
	d.Rejectors[status.Plugin] = true
}

// StatusOf is a node's verdict. One that nobody looked at is beyond help.
func (d *Diagnosis) StatusOf(node string) *Status {
	for _, s := range []*Status{d.ByNode[node], d.PreFilter, d.Others} {
		if s != nil {
			return s
		}
	}
	return notLookedAt
}

var notLookedAt = NewStatus(UnschedulableAndUnresolvable)

// Error is the sentence every user of Kubernetes knows:
//
//	0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu.
//
// Reasons are counted over nodes (a node may give several) and sorted as text.
//
// Upstream: kubernetes pkg/scheduler/framework FitError.Error
func (d *Diagnosis) Error() string {
	if d.AllNodes == 0 {
		return NoNodes
	}
	message := fmt.Sprintf("0/%d nodes are available:", d.AllNodes)
	if d.PreFilter != nil {
		message += fmt.Sprintf(" %s.", d.PreFilter.Message())
	} else if reasons := d.histogram(); len(reasons) > 0 {
		message += fmt.Sprintf(" %s.", strings.Join(reasons, ", "))
	}
	if d.PostFilter != "" {
		message += " " + d.PostFilter
	}
	return message
}

func (d *Diagnosis) histogram() []string {
	count := map[string]int{}
	for _, status := range d.ByNode {
		for _, reason := range status.Reasons {
			count[reason]++
		}
	}
	if d.Others != nil {
		for _, reason := range d.Others.Reasons {
			count[reason] += d.AllNodes - len(d.ByNode)
		}
	}
	reasons := make([]string, 0, len(count))
	for reason, n := range count {
		if n > 0 {
			reasons = append(reasons, fmt.Sprintf("%d %s", n, reason))
		}
	}
	slices.Sort(reasons)
	return reasons
}
