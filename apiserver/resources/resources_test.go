package resources

import (
	"testing"
	"time"
)

// TestEveryRow holds what the handlers take for granted about a row.
func TestEveryRow(t *testing.T) {
	now := time.Now()
	prefixes := map[string]string{}
	for _, row := range All() {
		name := row.GVR().String()
		obj := row.New()
		obj.GetObjectKind().SetGroupVersionKind(row.GVK())
		if !row.Stored() {
			continue
		}
		if row.NewList() == nil || row.Strategy.Default == nil {
			t.Errorf("%s: has no list or no defaults", name)
		}
		if holder, taken := prefixes[row.Prefix]; taken && row.StoredAs == nil {
			t.Errorf("%s: keys below %s belong to %s", name, row.Prefix, holder)
		}
		if row.StoredAs == nil {
			prefixes[row.Prefix] = name
		}
		// An empty object is the hardest to print and to default.
		row.Strategy.Default(obj)
		if row.Cells == nil {
			continue
		}
		want := len(row.Columns)
		if row.Plural == "ipaddresses" {
			want++ // see ipAddressColumns
		}
		if got := len(row.Cells(obj, now)); got != want {
			t.Errorf("%s: %d cells for %d columns", name, got, want)
		}
		if row.SelectableFields != nil && len(row.SelectableFields(obj)) == 0 {
			t.Errorf("%s: selects by no field", name)
		}
	}
}

// TestLifecycleOfEveryRow runs each strategy over an empty object and checks
// the sentence that lifecycle.go opens with.
func TestLifecycleOfEveryRow(t *testing.T) {
	for _, row := range All() {
		if !row.Stored() || row.Strategy.PrepareUpdate == nil {
			continue
		}
		obj, old := row.New(), row.New()
		row.Strategy.Default(obj)
		row.Strategy.Default(old)
		old.SetGeneration(7)
		obj.SetGeneration(99) // a client cannot choose it
		row.Strategy.PrepareUpdate(obj, old)
		if got := obj.GetGeneration(); got != 7 {
			t.Errorf("%s: generation %d after an update without change", row.Plural, got)
		}
		if row.Strategy.PrepareStatus != nil {
			row.Strategy.PrepareStatus(obj, old)
		}
	}
}
