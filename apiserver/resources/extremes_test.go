package resources

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/extensions"
)

// TestExtremes takes two objects of every kind through all that a request can
// do to them: one with nothing in it, and one in which every pointer points
// and every list has one item, all of them empty. Nothing may panic, and what
// is stored must read back as it was.
func TestExtremes(t *testing.T) {
	now := time.Now()
	for _, row := range All() {
		for name, fill := range map[string]bool{"empty": false, "full of emptiness": true} {
			t.Run(row.Plural+"/"+row.Version+"/"+name, func(t *testing.T) {
				made := func() Object {
					obj := row.New()
					if fill {
						fillEmpty(reflect.ValueOf(obj).Elem(), 0)
					}
					obj.SetManagedFields(nil)
					return obj
				}
				obj, old := made(), made()
				s := row.Strategy
				s.Default(obj)
				s.Default(old)
				for _, prepare := range []func(obj, old Object){s.PrepareUpdate, s.PrepareStatus} {
					if prepare != nil {
						prepare(obj, old)
					}
				}
				if s.PrepareCreate != nil {
					s.PrepareCreate(obj)
				}
				if s.Validate != nil {
					s.Validate(obj)
				}
				if s.ValidateUpdate != nil {
					s.ValidateUpdate(obj, old)
					s.ValidateUpdate(obj, row.New())
					s.ValidateUpdate(row.New(), obj)
				}
				if s.ValidateStatus != nil {
					s.ValidateStatus(obj, old)
				}
				for _, sub := range row.Subresources {
					if sub.Prepare != nil {
						sub.Prepare(made(), old)
					}
					if sub.ValidateUpdate != nil {
						sub.ValidateUpdate(obj, old)
					}
				}
				if row.Cells != nil {
					row.Cells(obj, now)
				}
				if row.SelectableFields != nil {
					row.SelectableFields(obj)
				}
				if row.Scale != nil {
					row.Scale.Get(obj)
					row.Scale.Set(made(), 3)
				}
				if row.StoredAs != nil {
					back := row.StoredAs.From(row.StoredAs.To(obj))
					row.Strategy.Default(back)
				}
				roundTrip(t, row, obj)
			})
		}
	}
}

// roundTrip writes an object as it is stored and reads it back.
func roundTrip(t *testing.T, row *Row, obj Object) {
	t.Helper()
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	again := row.New()
	if err := json.Unmarshal(data, again); err != nil {
		t.Fatal(err)
	}
	row.Strategy.Default(again)
	twice, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), string(twice)); diff != "" {
		t.Errorf("changes when stored and read:\n%s", diff)
	}
}

// fillEmpty points every pointer and gives every slice one item.
func fillEmpty(v reflect.Value, depth int) {
	if v.Type() == reflect.TypeFor[extensions.JSONSchemaProps]() && depth > 10 {
		return // it contains itself, in four ways
	}
	if depth > 24 || !v.CanSet() && v.Kind() != reflect.Struct {
		return
	}
	switch at := v.Addr().Interface().(type) {
	case *metav1.Time:
		*at = metav1.Unix(1_000_000_000, 0) // none at all would be written as null
	case *metav1.MicroTime:
		*at = metav1.NewMicroTime(time.Unix(1_000_000_000, 0))
	}
	switch v.Kind() {
	case reflect.Pointer:
		switch v.Type() {
		case reflect.TypeFor[*metav1.FieldsV1](), reflect.TypeFor[*extensions.JSON](), reflect.TypeFor[*extensions.JSONSchemaPropsOrArray]():
			return // empty, it is written as null
		}
		v.Set(reflect.New(v.Type().Elem()))
		fillEmpty(v.Elem(), depth+1)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fillEmpty(v.Index(0), depth+1)
	case reflect.Struct:
		if _, custom := v.Addr().Interface().(json.Unmarshaler); custom {
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fillEmpty(v.Field(i), depth+1)
			}
		}
	}
}
