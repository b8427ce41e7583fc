package journey

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"tinykube/api/claims"
)

// listed is how many volumes are gone through one by one.
const listed = 20

// unfit says of each volume, or of the one that is named, why it is not the
// claim's.
func (j *journey) unfit(name string) (why []string) {
	volumes := slices.Clone(j.Volumes)
	slices.SortFunc(volumes, func(a, b *corev1.PersistentVolume) int { return strings.Compare(a.Name, b.Name) })
	for _, v := range volumes {
		if name == "" || v.Name == name {
			why = append(why, v.Name+": "+j.reason(v))
		}
	}
	switch {
	case len(why) == 0 && name != "":
		return []string{"there is no volume " + name}
	case len(why) == 0:
		return []string{"there is no volume at all"}
	case len(why) > listed:
		return append(why[:listed], fmt.Sprintf("… and %d more", len(why)-listed))
	}
	return why
}

// reason is the first that there is, in the order in which the binder asks.
func (j *journey) reason(v *corev1.PersistentVolume) string {
	c := j.Claim
	switch ref := v.Spec.ClaimRef; {
	case v.DeletionTimestamp != nil:
		return "is being deleted"
	case ref != nil && !claims.Promised(v, c) && v.Status.Phase == corev1.VolumeReleased:
		return fmt.Sprintf("was %s/%s's, and is kept for whoever wants to look at it (Released)", ref.Namespace, ref.Name)
	case ref != nil && !claims.Promised(v, c):
		return fmt.Sprintf("is %s/%s's", ref.Namespace, ref.Name)
	case !claims.Large(v, c):
		return fmt.Sprintf("is too small: %s", v.Spec.Capacity.Storage())
	case !claims.Modes(v, c):
		return fmt.Sprintf("has access modes %s, and %s is wanted", modes(v.Spec.AccessModes), modes(c.Spec.AccessModes))
	case claims.Mode(v.Spec.VolumeMode) != claims.Mode(c.Spec.VolumeMode):
		return fmt.Sprintf("is a %s, and a %s is wanted", claims.Mode(v.Spec.VolumeMode), claims.Mode(c.Spec.VolumeMode))
	case !claims.SameAttributes(v, c):
		return "has another VolumeAttributesClass"
	case claims.VolumeClass(v) != claims.Class(c):
		return fmt.Sprintf("is of class %q, and %q is wanted", claims.VolumeClass(v), claims.Class(c))
	case !claims.Selected(v, c):
		return "does not have the labels that the claim's selector wants"
	case ref == nil && v.Status.Phase != corev1.VolumeAvailable:
		return fmt.Sprintf("is not Available yet (%s)", orNone(string(v.Status.Phase)))
	}
	return "fits: the binder (kube-controller-manager) has only to see it"
}

// reachableFrom is a volume's node affinity in short.
func reachableFrom(v *corev1.PersistentVolume) string {
	if v.Spec.NodeAffinity == nil || v.Spec.NodeAffinity.Required == nil {
		return ""
	}
	var terms []string
	for _, term := range v.Spec.NodeAffinity.Required.NodeSelectorTerms {
		var all []string
		for _, e := range append(slices.Clone(term.MatchExpressions), term.MatchFields...) {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Key, e.Operator, strings.Join(e.Values, ","))))
		}
		terms = append(terms, strings.Join(all, " and "))
	}
	return strings.Join(terms, ", or ")
}

// modes are access modes as kubectl shortens them.
func modes(all []corev1.PersistentVolumeAccessMode) string {
	short := map[corev1.PersistentVolumeAccessMode]string{corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP"}
	var names []string
	for _, mode := range all {
		if name, ok := short[mode]; ok {
			names = append(names, name)
		} else {
			names = append(names, string(mode))
		}
	}
	return strings.Join(names, ",")
}
