package apiserver

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"tinykube/api/requests"
)

// LimitRanger: a namespace's LimitRanges say what a container gets that asks
// for nothing, and how much or little one container, pod or claim may ask for.
//
// Upstream: kubernetes@v1.36 plugin/pkg/admission/limitranger

// limitRangerKey notes in a pod what was not the author's wish.
const limitRangerKey = "kubernetes.io/limit-ranger"

func (a *admission) limitRanges() []*corev1.LimitRange {
	if a.old != nil && a.old.GetDeletionTimestamp() != nil {
		return nil
	}
	return allCached[*corev1.LimitRange](a.server, "", "limitranges", a.namespace)
}

// limitDefaults gives a new pod's containers the default requests and limits.
func limitDefaults(a *admission) error {
	pod, ok := a.obj.(*corev1.Pod)
	if !ok || a.old != nil && a.subresource != "resize" {
		return nil
	}
	for _, limits := range a.limitRanges() {
		var notes []string
		for i := range pod.Spec.Containers {
			notes = append(notes, defaultResources(&pod.Spec.Containers[i], limits, "container")...)
		}
		for i := range pod.Spec.InitContainers {
			notes = append(notes, defaultResources(&pod.Spec.InitContainers[i], limits, "init container")...)
		}
		if len(notes) > 0 {
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			pod.Annotations[limitRangerKey] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
		}
	}
	return nil
}

// defaultResources completes one container, and says what it did.
func defaultResources(c *corev1.Container, limits *corev1.LimitRange, sort string) (notes []string) {
	fill := func(list *corev1.ResourceList, what string, defaults func(*corev1.LimitRangeItem) corev1.ResourceList) {
		var set []string
		for i := range limits.Spec.Limits {
			if limits.Spec.Limits[i].Type != corev1.LimitTypeContainer {
				continue
			}
			for name, value := range defaults(&limits.Spec.Limits[i]) {
				if _, has := (*list)[name]; has {
					continue
				}
				if *list == nil {
					*list = corev1.ResourceList{}
				}
				(*list)[name] = value.DeepCopy()
				set = append(set, string(name))
			}
		}
		if len(set) > 0 {
			slices.Sort(set)
			notes = append(notes, fmt.Sprintf("%s %s for %s %s", strings.Join(set, ", "), what, sort, c.Name))
		}
	}
	fill(&c.Resources.Requests, "request", func(i *corev1.LimitRangeItem) corev1.ResourceList { return i.DefaultRequest })
	fill(&c.Resources.Limits, "limit", func(i *corev1.LimitRangeItem) corev1.ResourceList { return i.Default })
	return notes
}

// checkLimits refuses what asks for too much or too little.
func checkLimits(a *admission) error {
	var check func(item *corev1.LimitRangeItem) []error
	switch obj := a.obj.(type) {
	case *corev1.Pod:
		if a.old == nil && a.subresource == "" || a.subresource == "resize" {
			check = func(item *corev1.LimitRangeItem) []error { return podLimitErrors(item, obj) }
		}
	case *corev1.PersistentVolumeClaim:
		if a.subresource == "" {
			check = func(item *corev1.LimitRangeItem) []error { return claimLimitErrors(item, obj) }
		}
	}
	if check == nil {
		return nil
	}
	for _, limits := range a.limitRanges() {
		var errs []error
		for i := range limits.Spec.Limits {
			errs = append(errs, check(&limits.Spec.Limits[i])...)
		}
		if err := utilerrors.NewAggregate(errs); err != nil {
			return a.refuse(err)
		}
	}
	return nil
}

func podLimitErrors(item *corev1.LimitRangeItem, pod *corev1.Pod) []error {
	var errs []error
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				errs = append(errs, limitErrors(item, list[i].Resources.Requests, list[i].Resources.Limits)...)
			}
		}
	case corev1.LimitTypePod:
		bare := pod.DeepCopy() // what it asks for, not what it has or costs
		bare.Spec.Overhead, bare.Status = nil, corev1.PodStatus{}
		errs = limitErrors(item, requests.Pod(bare), requests.Limits(bare))
	}
	return errs
}

func claimLimitErrors(item *corev1.LimitRangeItem, claim *corev1.PersistentVolumeClaim) []error {
	if item.Type != corev1.LimitTypePersistentVolumeClaim {
		return nil
	}
	asked := claim.Spec.Resources.Requests
	errs := eachLimit(item.Min, asked, nil, func(l limitCase) string { return l.tooLittle(item.Type) })
	return append(errs, eachLimit(item.Max, asked, nil, func(l limitCase) string { return l.tooMuchAsked(item.Type) })...)
}

func limitErrors(item *corev1.LimitRangeItem, asked, limits corev1.ResourceList) []error {
	errs := eachLimit(item.Min, asked, limits, func(l limitCase) string { return l.tooLittle(item.Type) })
	errs = append(errs, eachLimit(item.Max, asked, limits, func(l limitCase) string { return l.tooMuch(item.Type) })...)
	return append(errs, eachLimit(item.MaxLimitRequestRatio, asked, limits, func(l limitCase) string { return l.tooWide(item.Type) })...)
}

// limitCase is one resource: what the range says, what is asked for and what is
// the limit.
type limitCase struct {
	name            corev1.ResourceName
	enforced        resource.Quantity
	request, limit  resource.Quantity
	asks, isLimited bool
}

func eachLimit(enforced, asked, limits corev1.ResourceList, check func(limitCase) string) []error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(enforced)) {
		l := limitCase{name: name, enforced: enforced[name]}
		l.request, l.asks = asked[name]
		l.limit, l.isLimited = limits[name]
		if text := check(l); text != "" {
			errs = append(errs, fmt.Errorf("%s", text))
		}
	}
	return errs
}

func (l limitCase) tooLittle(of corev1.LimitType) string {
	text := fmt.Sprintf("minimum %s usage per %s is %s", l.name, of, l.enforced.String())
	switch {
	case !l.asks:
		return text + ".  No request is specified"
	case l.request.Cmp(l.enforced) < 0:
		return text + ", but request is " + l.request.String()
	case l.isLimited && l.limit.Cmp(l.enforced) < 0:
		return text + ", but limit is " + l.limit.String()
	}
	return ""
}

func (l limitCase) tooMuch(of corev1.LimitType) string {
	text := fmt.Sprintf("maximum %s usage per %s is %s", l.name, of, l.enforced.String())
	switch {
	case !l.isLimited:
		return text + ".  No limit is specified"
	case l.limit.Cmp(l.enforced) > 0:
		return text + ", but limit is " + l.limit.String()
	case l.asks && l.request.Cmp(l.enforced) > 0:
		return text + ", but request is " + l.request.String()
	}
	return ""
}

// tooMuchAsked is tooMuch for what has no limits.
func (l limitCase) tooMuchAsked(of corev1.LimitType) string {
	text := fmt.Sprintf("maximum %s usage per %s is %s", l.name, of, l.enforced.String())
	switch {
	case !l.asks:
		return text + ".  No request is specified"
	case l.request.Cmp(l.enforced) > 0:
		return text + ", but request is " + l.request.String()
	}
	return ""
}

func (l limitCase) tooWide(of corev1.LimitType) string {
	text := fmt.Sprintf("%s max limit to request ratio per %s is %s", l.name, of, l.enforced.String())
	switch {
	case !l.asks || l.request.IsZero():
		return text + ", but no request is specified or request is 0"
	case !l.isLimited || l.limit.IsZero():
		return text + ", but no limit is specified or limit is 0"
	}
	if ratio := l.limit.AsApproximateFloat64() / l.request.AsApproximateFloat64(); ratio > l.enforced.AsApproximateFloat64() {
		return text + fmt.Sprintf(", but provided ratio is %f", ratio)
	}
	return ""
}
