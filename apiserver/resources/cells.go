package resources

// What kubectl get prints is decided here, on the server: a Table of cells per
// kind. The cells_*.go files hold one small func per kind; this file holds
// what they share.
//
// Upstream: kubernetes@v1.36 pkg/printers/internalversion/printers.go
//
// Simplified: columns carry no descriptions, which no printer shows.

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/duration"
)

// The words for what is not there; which one is used where is upstream's.
const (
	none    = "<none>"
	unset   = "<unset>"
	unknown = "<unknown>"
)

// prints gives a row its table. Columns are separated by "|"; ":integer" and
// the like names a type other than string, and a leading "+" marks what only
// -o wide shows.
func (r *Row) prints(spec string, cells func(obj Object, now time.Time) []any) *Row {
	r.Columns, r.Cells = columns(spec), cells
	return r
}

func columns(spec string) []metav1.TableColumnDefinition {
	var out []metav1.TableColumnDefinition
	for name := range strings.SplitSeq(spec, "|") {
		name, wide := strings.CutPrefix(name, "+")
		name, kind, typed := strings.Cut(name, ":")
		column := metav1.TableColumnDefinition{Name: name, Type: "string"}
		if typed {
			column.Type = kind
		}
		if wide {
			column.Priority = 1
		}
		switch name {
		case "Name", "Attacher": // the second is upstream's slip
			column.Format = "name"
		case "Name ": // and the other way round
			column.Name = "Name"
		}
		out = append(out, column)
	}
	return out
}

// cells adapts a kind's printer to any Object.
func cells[T any, P pointerTo[T]](f func(obj P, now time.Time) []any) func(Object, time.Time) []any {
	return func(obj Object, now time.Time) []any { return f(obj.(P), now) }
}

// age is an object's age as people say it: 5s, 3m20s, 4d.
func age(obj Object, now time.Time) string {
	created := obj.GetCreationTimestamp()
	return since(&created, now)
}

func since(at *metav1.Time, now time.Time) string {
	if at.IsZero() {
		return unknown
	}
	return duration.HumanDuration(now.Sub(at.Time))
}

// or returns s, or instead if s is empty.
func or(s, instead string) string {
	if s == "" {
		return instead
	}
	return s
}

// deref returns what p points to, or instead.
func deref[T any](p *T, instead T) T {
	if p == nil {
		return instead
	}
	return *p
}

// atMost joins the first few items and counts the others.
func atMost(n int, items []string, separator string) string {
	if len(items) > n {
		return fmt.Sprintf("%s + %d more...", strings.Join(items[:n], separator), len(items)-n)
	}
	return strings.Join(items, separator)
}

// containerCells are the wide columns of everything with a pod template.
func containerCells(containers []corev1.Container) (names, images string) {
	var n, i []string
	for _, c := range containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

// templateCells appends containers, images and selector.
func templateCells(row []any, containers []corev1.Container, selector string) []any {
	names, images := containerCells(containers)
	return append(row, names, images, selector)
}

// formatLabels writes a label set, or <none>.
func formatLabels(set map[string]string) string { return labels.FormatLabels(set) }
