package custom

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/extensions"
)

// Two definitions of a group may want the same name. Who asked first has it:
// names are accepted one by one into status, and a definition is served under
// the accepted ones. Status, not memory, remembers who was first.
//
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/controller/status/naming_controller.go

// Accept decides on a definition's names, given all definitions there are, and
// writes the answer into its status. It does not establish it.
func Accept(d *extensions.CustomResourceDefinition, all []*extensions.CustomResourceDefinition, now metav1.Time) {
	resources, kinds := taken(d, all)
	want, have := d.Spec.Names, &d.Status.AcceptedNames
	condition := extensions.CustomResourceDefinitionCondition{
		Type: extensions.NamesAccepted, Status: metav1.ConditionTrue, LastTransitionTime: now,
		Reason: "NoConflicts", Message: "no conflicts found",
	}
	conflict := func(reason, message string) {
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, reason, message
	}
	one := func(reason, want string, have *string, taken []string) {
		if want != *have && slices.Contains(taken, want) {
			conflict(reason, fmt.Sprintf("%q is already in use", want))
			return
		}
		*have = want
	}
	one("PluralConflict", want.Plural, &have.Plural, resources)
	one("SingularConflict", want.Singular, &have.Singular, resources)
	var used []string
	for _, name := range want.ShortNames {
		if !slices.Contains(have.ShortNames, name) && slices.Contains(resources, name) {
			used = append(used, fmt.Sprintf("%q is already in use", name))
		}
	}
	switch len(used) {
	case 0:
		have.ShortNames = want.ShortNames
	case 1:
		conflict("ShortNamesConflict", used[0])
	default:
		conflict("ShortNamesConflict", "["+strings.Join(used, ", ")+"]")
	}
	one("KindConflict", want.Kind, &have.Kind, kinds)
	one("ListKindConflict", want.ListKind, &have.ListKind, kinds)
	have.Categories = want.Categories
	d.Set(condition)
	if condition.Status != metav1.ConditionTrue && !d.Is(extensions.Established) {
		d.Set(extensions.CustomResourceDefinitionCondition{
			Type: extensions.Established, Status: metav1.ConditionFalse, LastTransitionTime: now,
			Reason: "NotAccepted", Message: "not all names are accepted",
		})
	}
	if a := approvalOf(d); a.protected {
		d.Set(extensions.CustomResourceDefinitionCondition{
			Type: extensions.ApprovedByPolicy, Status: a.status, LastTransitionTime: now, Reason: a.reason, Message: a.message,
		})
	}
}

// taken lists what other definitions of the group have.
func taken(d *extensions.CustomResourceDefinition, all []*extensions.CustomResourceDefinition) (resources, kinds []string) {
	for _, other := range all {
		if other.Name == d.Name || other.Spec.Group != d.Spec.Group {
			continue
		}
		names := &other.Status.AcceptedNames
		resources = append(append(resources, names.Plural, names.Singular), names.ShortNames...)
		kinds = append(kinds, names.Kind, names.ListKind)
	}
	return resources, kinds
}

// NamesSettled reports whether there is nothing for Accept to decide.
func NamesSettled(d *extensions.CustomResourceDefinition) bool {
	return d.Is(extensions.NamesAccepted) && reflect.DeepEqual(d.Spec.Names, d.Status.AcceptedNames)
}

// Establish says that the kind is served.
func Establish(d *extensions.CustomResourceDefinition, now metav1.Time) {
	d.Set(extensions.CustomResourceDefinitionCondition{
		Type: extensions.Established, Status: metav1.ConditionTrue, LastTransitionTime: now,
		Reason: "InitialNamesAccepted", Message: "the initial names have been accepted",
	})
}

// RulesCondition is a condition of our own, for definitions with rules.
const RulesCondition extensions.ConditionType = "ValidationRulesEvaluated"

// SayWhatIsLeftOut notes in conditions what of a definition this server does
// not do.
func SayWhatIsLeftOut(d *extensions.CustomResourceDefinition, now metav1.Time) {
	if HasRules(d) {
		d.Set(extensions.CustomResourceDefinitionCondition{
			Type: RulesCondition, Status: metav1.ConditionFalse, LastTransitionTime: now, Reason: "NotSupported", Message: unsupportedRules,
		})
		return
	}
	d.Status.Conditions = slices.DeleteFunc(d.Status.Conditions, func(c extensions.CustomResourceDefinitionCondition) bool { return c.Type == RulesCondition })
}

// Terminate says how far the removal of all objects is.
func Terminate(d *extensions.CustomResourceDefinition, done bool, reason, message string, now metav1.Time) {
	status := metav1.ConditionTrue
	if done {
		status = metav1.ConditionFalse
	}
	d.Set(extensions.CustomResourceDefinitionCondition{
		Type: extensions.Terminating, Status: status, LastTransitionTime: now, Reason: reason, Message: message,
	})
}
