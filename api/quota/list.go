package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Only keeps these names of a list.
func Only(list corev1.ResourceList, names []corev1.ResourceName) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, name := range names {
		if value, ok := list[name]; ok {
			out[name] = value
		}
	}
	return out
}

// Add adds b to a copy of a.
func Add(a, b corev1.ResourceList) corev1.ResourceList {
	out := a.DeepCopy()
	if out == nil {
		out = corev1.ResourceList{}
	}
	for name, value := range b {
		if sum, ok := out[name]; ok {
			sum.Add(value)
			out[name] = sum
		} else {
			out[name] = value.DeepCopy()
		}
	}
	return out
}

// More is what b has more than a; what it has less does not count, because it
// is the controller that gives back.
func More(a, b corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, value := range b {
		more := value.DeepCopy()
		if before, ok := a[name]; ok {
			more.Sub(before)
		}
		if more.Sign() > 0 {
			out[name] = more
		}
	}
	return out
}

// Negative are the names with a value below zero.
func Negative(list corev1.ResourceList) []corev1.ResourceName {
	return which(list, func(name corev1.ResourceName) bool { value := list[name]; return value.Sign() < 0 })
}

// Exceeded are the names of which a list has more than is allowed.
func Exceeded(list, hard corev1.ResourceList) []corev1.ResourceName {
	return which(list, func(name corev1.ResourceName) bool {
		limit, limited := hard[name]
		value := list[name]
		return limited && value.Cmp(limit) > 0
	})
}

func which(list corev1.ResourceList, holds func(corev1.ResourceName) bool) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if holds(name) {
			out = append(out, name)
		}
	}
	return out
}

// Text is a list as error messages show it: cpu=1,memory=2Gi.
func Text(list corev1.ResourceList) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(list)) {
		value := list[name]
		parts = append(parts, fmt.Sprintf("%s=%s", name, value.String()))
	}
	return strings.Join(parts, ",")
}

// Names is the same without values.
func Names(names []corev1.ResourceName) string {
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = string(name)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
