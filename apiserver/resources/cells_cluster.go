package resources

import (
	"fmt"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	nodeColumns         = "Name|Status|Roles|Age|Version|+Internal-IP|+External-IP|+OS-Image|+Kernel-Version|+Container-Runtime"
	eventColumns        = "Last Seen|Type|Reason|Object|+Subobject|+Source|Message|+First Seen|+Count|+Name"
	namespaceColumns    = "Name|Status|Age"
	secretColumns       = "Name|Type|Data|Age"
	configMapColumns    = "Name|Data|Age"
	nameAndAgeColumns   = "Name|Age"
	leaseColumns        = "Name|Holder|Age"
	quotaColumns        = "Name|Request|Limit|Age"
	runtimeClassColumns = "Name|Handler|Age"
)

func nodeCells(n *corev1.Node, now time.Time) []any {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status = "Ready"
			if c.Status != corev1.ConditionTrue {
				status = "NotReady"
			}
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	info := n.Status.NodeInfo
	kernel := or(info.KernelVersion, unknown)
	if info.Architecture != "" {
		kernel += " (" + info.Architecture + ")"
	}
	return []any{
		n.Name, status, or(strings.Join(nodeRoles(n), ","), none), age(n, now), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP),
		or(info.OSImage, unknown), kernel, or(info.ContainerRuntimeVersion, unknown),
	}
}

// nodeRoles are read from labels; a role is nothing but a label.
func nodeRoles(n *corev1.Node) []string {
	var roles []string
	for key, value := range n.Labels {
		if role, ok := strings.CutPrefix(key, "node-role.kubernetes.io/"); ok && role != "" {
			roles = append(roles, role)
		}
		if key == "kubernetes.io/role" && value != "" {
			roles = append(roles, value)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return none
}

// eventCells prints both generations of events: those with first and last
// timestamps, and those with an event time and a series.
func eventCells(e *corev1.Event, now time.Time) []any {
	eventTime := metav1.Time(e.EventTime)
	first := since(&e.FirstTimestamp, now)
	if e.FirstTimestamp.IsZero() {
		first = since(&eventTime, now)
	}
	last := since(&e.LastTimestamp, now)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	count := e.Count
	if e.Series != nil {
		observed := metav1.Time(e.Series.LastObservedTime)
		last, count = since(&observed, now), e.Series.Count
	} else if count == 0 {
		count = 1
	}
	about := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		about += "/" + e.InvolvedObject.Name
	}
	source := or(e.Source.Component, e.ReportingController)
	if host := or(e.Source.Host, e.ReportingInstance); host != "" {
		source += ", " + host
	}
	return []any{
		last, e.Type, e.Reason, about, e.InvolvedObject.FieldPath, source,
		strings.TrimSpace(e.Message), first, count, e.Name,
	}
}

func eventViewCells(e *eventsv1.Event, now time.Time) []any { return eventCells(eventStored(e), now) }

func namespaceCells(ns *corev1.Namespace, now time.Time) []any {
	return []any{ns.Name, string(ns.Status.Phase), age(ns, now)}
}

func secretCells(s *corev1.Secret, now time.Time) []any {
	return []any{s.Name, string(s.Type), len(s.Data), age(s, now)}
}

func configMapCells(c *corev1.ConfigMap, now time.Time) []any {
	return []any{c.Name, len(c.Data) + len(c.BinaryData), age(c, now)}
}

func nameAndAge(obj Object, now time.Time) []any { return []any{obj.GetName(), age(obj, now)} }

func leaseCells(l *coordinationv1.Lease, now time.Time) []any {
	return []any{l.Name, deref(l.Spec.HolderIdentity, ""), age(l, now)}
}

func runtimeClassCells(c *nodev1.RuntimeClass, now time.Time) []any {
	return []any{c.Name, c.Handler, age(c, now)}
}

// quotaCells prints used/hard, limits in a column of their own.
func quotaCells(q *corev1.ResourceQuota, now time.Time) []any {
	var requests, limits []string
	var names []string
	for name := range q.Status.Hard {
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, name := range names {
		used, hard := q.Status.Used[corev1.ResourceName(name)], q.Status.Hard[corev1.ResourceName(name)]
		cell := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(name, "limits.") {
			limits = append(limits, cell)
		} else {
			requests = append(requests, cell)
		}
	}
	return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), age(q, now)}
}
