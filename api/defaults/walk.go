package defaults

import (
	"reflect"
	"sync"
)

// rules maps a type to what fills in a value of it.
type rules map[reflect.Type]func(pointer any)

// rule adds the default of one type to the table.
func rule[T any](into rules, f func(*T)) {
	into[reflect.TypeFor[T]()] = func(pointer any) { f(pointer.(*T)) }
}

// table is every rule of this package.
var table = sync.OnceValue(func() rules {
	into := rules{}
	coreRules(into)
	podRules(into)
	volumeRules(into)
	workloadRules(into)
	policyRules(into)
	return into
})

// Apply fills in the unset fields of obj, a pointer to any API type.
func Apply(obj any) {
	v := reflect.ValueOf(obj).Elem()
	if p := planFor(v.Type()); p != nil {
		p.apply(v)
	}
}

// plan says how to walk one type: its own rule and the parts that lead to
// other rules. Parts that lead to none are not in it, so a walk touches little
// more than what it changes.
type plan struct {
	rule   func(pointer any)
	fields []step // of a struct
	elem   *plan  // of a pointer or slice
}

type step struct {
	index int
	plan  *plan
}

var plans sync.Map // reflect.Type → *plan, nil when no rule can be reached

func planFor(t reflect.Type) *plan {
	if p, ok := plans.Load(t); ok {
		return p.(*plan)
	}
	p := makePlan(t, map[reflect.Type]bool{})
	plans.Store(t, p)
	return p
}

// makePlan returns nil if nothing below t has a rule. No type is walked inside
// itself: API types that contain themselves have no defaults.
func makePlan(t reflect.Type, inside map[reflect.Type]bool) *plan {
	if inside[t] {
		return nil
	}
	inside[t] = true
	defer delete(inside, t)
	p := &plan{rule: table()[t]}
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			if !t.Field(i).IsExported() {
				continue
			}
			if sub := makePlan(t.Field(i).Type, inside); sub != nil {
				p.fields = append(p.fields, step{i, sub})
			}
		}
	case reflect.Pointer, reflect.Slice:
		p.elem = makePlan(t.Elem(), inside)
	}
	if p.rule == nil && p.fields == nil && p.elem == nil {
		return nil
	}
	return p
}

// apply goes from the outside in: an outer rule may create what an inner rule
// then completes.
func (p *plan) apply(v reflect.Value) {
	if p.rule != nil {
		p.rule(v.Addr().Interface())
	}
	for _, s := range p.fields {
		s.plan.apply(v.Field(s.index))
	}
	if p.elem == nil || v.IsZero() {
		return
	}
	if v.Kind() == reflect.Pointer {
		p.elem.apply(v.Elem())
		return
	}
	for i := range v.Len() {
		p.elem.apply(v.Index(i))
	}
}

// set gives an unset value its default.
func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// point gives an unset pointer a default to point at.
func point[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
