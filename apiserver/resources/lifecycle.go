package resources

// What most kinds do on a write is the same sentence: status belongs to the
// controller, spec to the user, and generation counts the changes of the spec
// so that a controller can say which one it has seen. lifecycle is that
// sentence; a kind that deviates wraps one of its three funcs.

import (
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
)

// lifecycle returns a strategy that resets status on create, keeps it on
// update, keeps spec on a status write and, if generations is set, counts
// changes in metadata.generation.
func lifecycle(generations bool) Strategy {
	return Strategy{
		PrepareCreate: func(obj Object) {
			resetField(obj, "Status")
			if generations {
				obj.SetGeneration(1)
			}
		},
		PrepareUpdate: func(obj, old Object) {
			keepField(obj, old, "Status")
			obj.SetGeneration(old.GetGeneration())
			if generations && !sameBody(obj, old) {
				obj.SetGeneration(old.GetGeneration() + 1)
			}
		},
		PrepareStatus: func(obj, old Object) {
			keepField(obj, old, "Spec")
			obj.SetGeneration(old.GetGeneration())
		},
	}
}

// with returns the strategy after edit has changed it.
func (s Strategy) with(edit func(*Strategy)) Strategy {
	edit(&s)
	return s
}

// afterCreate adds to what PrepareCreate does.
func (s Strategy) afterCreate(f func(Object)) Strategy {
	before := s.PrepareCreate
	s.PrepareCreate = func(obj Object) {
		if before != nil {
			before(obj)
		}
		f(obj)
	}
	return s
}

// afterUpdate adds to what PrepareUpdate does.
func (s Strategy) afterUpdate(f func(obj, old Object)) Strategy {
	before := s.PrepareUpdate
	s.PrepareUpdate = func(obj, old Object) {
		if before != nil {
			before(obj, old)
		}
		f(obj, old)
	}
	return s
}

// afterStatus adds to what PrepareStatus does.
func (s Strategy) afterStatus(f func(obj, old Object)) Strategy {
	before := s.PrepareStatus
	s.PrepareStatus = func(obj, old Object) {
		if before != nil {
			before(obj, old)
		}
		f(obj, old)
	}
	return s
}

// keepsMetadata lets a status write change none of the metadata.
func (s Strategy) keepsMetadata() Strategy {
	return s.afterStatus(func(obj, old Object) {
		obj.SetLabels(old.GetLabels())
		obj.SetAnnotations(old.GetAnnotations())
		obj.SetFinalizers(old.GetFinalizers())
		obj.SetOwnerReferences(old.GetOwnerReferences())
	})
}

func fieldOf(obj Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

func resetField(obj Object, name string) {
	if f := fieldOf(obj, name); f.IsValid() {
		f.SetZero()
	}
}

// keepField shares the old value; neither side is changed afterwards.
func keepField(obj, old Object, name string) {
	if f := fieldOf(obj, name); f.IsValid() {
		f.Set(fieldOf(old, name))
	}
}

// sameBody compares everything but metadata and status: for nearly all kinds
// that is the spec, for a webhook configuration its list of webhooks.
func sameBody(obj, old Object) bool {
	a, b := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range a.NumField() {
		switch a.Type().Field(i).Name {
		case "TypeMeta", "ObjectMeta", "Status":
		default:
			if !equality.Semantic.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
				return false
			}
		}
	}
	return true
}
