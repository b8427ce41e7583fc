package namespace

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// findings are what one pass over a namespace learned.
type findings struct {
	unknown    []string       // groups that could not be discovered
	failures   []string       // what could not be listed or deleted
	remaining  map[string]int // objects left, by resource
	finalizers map[string]int // objects left that wait, by finalizer
}

func newFindings() *findings {
	return &findings{remaining: map[string]int{}, finalizers: map[string]int{}}
}

// empty says that nothing is left, for certain.
func (f *findings) empty() bool {
	return len(f.unknown) == 0 && len(f.failures) == 0 && len(f.remaining) == 0
}

// conditions puts findings into words: upstream's, which people search for.
//
// Upstream: kubernetes/kubernetes pkg/controller/namespace/deletion/status_condition_utils.go
func (f *findings) conditions(have []corev1.NamespaceCondition, now metav1.Time) []corev1.NamespaceCondition {
	have = slices.Clone(have)
	set := func(t corev1.NamespaceConditionType, bad bool, badReason, badMessage, goodReason, goodMessage string) {
		c := corev1.NamespaceCondition{Type: t, Status: corev1.ConditionFalse, Reason: goodReason, Message: goodMessage, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, badReason, badMessage
		}
		i := slices.IndexFunc(have, func(h corev1.NamespaceCondition) bool { return h.Type == t })
		switch {
		case i < 0:
			have = append(have, c)
		case have[i].Status != c.Status || have[i].Reason != c.Reason || have[i].Message != c.Message:
			if have[i].Status == c.Status {
				c.LastTransitionTime = have[i].LastTransitionTime
			}
			have[i] = c
		}
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, len(f.unknown) > 0,
		"DiscoveryFailed", "Discovery failed for some groups, "+fmt.Sprint(len(f.unknown))+" failing: unable to retrieve the complete list of server APIs: "+strings.Join(f.unknown, ", "),
		"ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, false, "", "",
		"ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, len(f.failures) > 0,
		"ContentDeletionFailed", "Failed to delete all resource types, "+fmt.Sprint(len(f.failures))+" remaining: "+strings.Join(f.failures, ", "),
		"ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, len(f.remaining) > 0,
		"SomeResourcesRemain", "Some resources are remaining: "+sentence(f.remaining, "%s has %d resource instances"),
		"ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, len(f.finalizers) > 0,
		"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+sentence(f.finalizers, "%s in %d resource instances"),
		"ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return have
}

func sentence(counts map[string]int, format string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf(format, name, counts[name]))
	}
	return strings.Join(parts, ", ")
}
