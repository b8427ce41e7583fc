package resources

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/defaults"
)

// All returns a fresh copy of every built-in row, in the order in which
// discovery lists the groups.
func All() []*Row {
	var rows []*Row
	for _, group := range []func() []*Row{
		coreRows, serviceRows, appsRows, eventsRows, authenticationRows, authorizationRows,
		autoscalingRows, batchRows, certificatesRows, networkingRows, policyRows,
		rbacRows, storageRows, admissionRows, definitionRows, schedulingRows, coordinationRows,
		nodeRows, discoveryRows, resourceRows, flowcontrolRows,
	} {
		rows = append(rows, group()...)
	}
	return rows
}

// group stamps group and version on its rows.
func group(name, version string, rows ...*Row) []*Row {
	for _, r := range rows {
		r.Group, r.Version = name, version
	}
	return rows
}

// pointerTo ties a kind's struct type to its pointer, which carries the methods.
type pointerTo[T any] interface {
	*T
	Object
}

type listPointerTo[L any] interface {
	*L
	runtime.Object
}

// kind completes a row from its Go types: the kind is the type's name, the
// singular its lower case, the key prefix the plural unless the row says
// otherwise.
func kind[T, L any, P pointerTo[T], LP listPointerTo[L]](r Row) *Row {
	complete[T](&r)
	if r.Prefix == "" {
		r.Prefix = r.Plural
	}
	r.New = func() Object { return P(new(T)) }
	r.NewList = func() runtime.Object { return LP(new(L)) }
	if r.Strategy.Default == nil {
		r.Strategy.Default = func(obj Object) { defaults.Apply(obj) }
	}
	return &r
}

// review makes a row that is only ever created and never stored.
func review[T any, P pointerTo[T]](r Row) *Row {
	complete[T](&r)
	r.Verbs = []string{"create"}
	r.New = func() Object { return P(new(T)) }
	r.Strategy.Default = func(obj Object) { defaults.Apply(obj) }
	return &r
}

func complete[T any](r *Row) {
	r.Kind = reflect.TypeFor[T]().Name()
	if r.Singular == "" {
		r.Singular = strings.ToLower(r.Kind)
	}
	if r.Plural == "" {
		r.Plural = r.Singular + "s"
	}
}

// validates gives a row its checks: of a new object and of a change, which is
// checked like a new object if update is nil.
func (r *Row) validates(create func(Object) field.ErrorList, update func(obj, old Object) field.ErrorList) *Row {
	if update == nil {
		update = func(obj, _ Object) field.ErrorList { return create(obj) }
	}
	r.Strategy.Validate, r.Strategy.ValidateUpdate = create, update
	return r
}

// named gives a row a rule for names other than that of DNS subdomains.
func (r *Row) named(rule func(string) []string) *Row {
	r.Strategy.NameValidation = rule
	return r
}

// returnsDeleted answers a DELETE with what was deleted.
func (r *Row) returnsDeleted() *Row {
	r.Strategy.ReturnsDeleted = true
	return r
}

// validatesStatus gives a row a check of what is written to /status.
func (r *Row) validatesStatus(check func(obj, old Object) field.ErrorList) *Row {
	r.Strategy.ValidateStatus = check
	return r
}

var (
	updateVerbs = []string{"get", "patch", "update"}
	all         = []string{"all"}
)

func names(short ...string) []string { return short }

// on adapts a function of one kind to the row's function of any Object.
func on[T any, P pointerTo[T]](f func(P)) func(Object) {
	return func(obj Object) { f(obj.(P)) }
}

// onUpdate adapts a function of a new and an old object.
func onUpdate[T any, P pointerTo[T]](f func(obj, old P)) func(obj, old Object) {
	return func(obj, old Object) { f(obj.(P), old.(P)) }
}

// check adapts a validation.
func check[T any, P pointerTo[T]](f func(P) field.ErrorList) func(Object) field.ErrorList {
	return func(obj Object) field.ErrorList { return f(obj.(P)) }
}

// checkUpdate adapts a validation of a change.
func checkUpdate[T any, P pointerTo[T]](f func(obj, old P) field.ErrorList) func(obj, old Object) field.ErrorList {
	return func(obj, old Object) field.ErrorList { return f(obj.(P), old.(P)) }
}

// selectable adapts a kind's selectable fields.
func selectable[T any, P pointerTo[T]](f func(P) fields.Set) func(Object) fields.Set {
	return func(obj Object) fields.Set { return f(obj.(P)) }
}
