package resources

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"tinykube/internal/reference"
)

// TestRealManifests takes what real programs ship through decoding, defaults,
// preparation and validation: all of it must be accepted.
func TestRealManifests(t *testing.T) {
	rows := map[schema.GroupVersionKind]*Row{}
	for _, row := range All() {
		rows[row.GVK()] = row
	}
	seen := 0
	err := filepath.WalkDir(reference.Path(t, "manifests"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(filepath.Base(path), ".y") { // .yaml, .yml, .yaml.sed
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		data = []byte(placeholders.Replace(string(data)))
		for _, document := range bytes.Split(data, []byte("\n---")) {
			if acceptManifest(t, path, document, rows) {
				seen++
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 60 {
		t.Errorf("only %d objects; the manifests were not found as expected", seen)
	}
	t.Logf("%d objects accepted", seen)
}

// placeholders are what templates among the manifests leave open.
var placeholders = strings.NewReplacer(
	"CLUSTER_DNS_IP", "10.96.0.10", "CLUSTER_DOMAIN", "cluster.local", "REVERSE_CIDRS", "in-addr.arpa",
	"UPSTREAMNAMESERVER", "/etc/resolv.conf", "FEDERATIONS", "", "STUBDOMAINS", "",
)

func acceptManifest(t *testing.T, path string, document []byte, rows map[schema.GroupVersionKind]*Row) bool {
	t.Helper()
	var head metav1.TypeMeta
	if yaml.Unmarshal(document, &head) != nil || head.Kind == "" {
		return false
	}
	row := rows[head.GroupVersionKind()]
	if row == nil {
		return false // a configuration file, or a custom resource
	}
	asJSON, err := yaml.YAMLToJSON(document)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return false
	}
	obj := row.New()
	strict, err := kjson.UnmarshalStrict(asJSON, obj)
	if err != nil || len(strict) > 0 {
		t.Errorf("%s: %s does not decode: %v %v", path, head.Kind, err, strict)
		return false
	}
	obj.SetUID("0123")
	if row.Namespaced && obj.GetNamespace() == "" {
		obj.SetNamespace("default")
	}
	row.Strategy.Default(obj)
	if row.Strategy.PrepareCreate != nil {
		row.Strategy.PrepareCreate(obj)
	}
	withServiceAccount(obj)
	name := head.Kind + " " + obj.GetName()
	check := validation.IsDNS1123Subdomain
	if row.Strategy.NameValidation != nil {
		check = row.Strategy.NameValidation
	}
	for _, message := range check(obj.GetName()) {
		t.Errorf("%s: %s: name: %s", path, name, message)
	}
	if row.Strategy.Validate != nil {
		for _, e := range row.Strategy.Validate(obj) {
			t.Errorf("%s: %s: %v", path, name, e)
		}
	}
	acceptUnchanged(t, path, name, row, obj)
	return true
}

// withServiceAccount does for a pod what admission does.
func withServiceAccount(obj Object) {
	if f := fieldOf(obj, "Spec"); f.IsValid() {
		if account := f.FieldByName("ServiceAccountName"); account.IsValid() && account.String() == "" {
			account.SetString("default")
			f.FieldByName("DeprecatedServiceAccount").SetString("default")
		}
	}
}

// acceptUnchanged writes the object back as it is: that must be allowed, and
// must not count as a change.
func acceptUnchanged(t *testing.T, path, name string, row *Row, obj Object) {
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
	if row.Strategy.PrepareUpdate != nil {
		row.Strategy.PrepareUpdate(again, obj)
	}
	if row.Strategy.ValidateUpdate != nil {
		for _, e := range row.Strategy.ValidateUpdate(again, obj) {
			t.Errorf("%s: %s written back: %v", path, name, e)
		}
	}
	twice, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(data), string(twice)); diff != "" {
		t.Errorf("%s: %s changes when written back:\n%s", path, name, diff)
	}
}
