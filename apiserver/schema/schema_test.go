package schema

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/schema/markers"
	"tinykube/internal/reference"
)

// all returns the schemas of every row.
func all() Components {
	c := Components{}
	for _, row := range resources.All() {
		c.Add(reflect.TypeOf(row.New()).Elem())
		if row.NewList != nil {
			c.Add(reflect.TypeOf(row.NewList()).Elem())
		}
	}
	return c
}

// differences are the only keys in which our schemas deliberately differ.
var differences = map[string]string{
	"x-kubernetes-unions":             "read by no client",
	"x-kubernetes-group-version-kind": "added beside the paths, compared there",
}

// otherWords are fields whose SwaggerDoc upstream's own generator has cut off
// at a "---" or a table, or left unescaped; its OpenAPI generator has not.
var otherWords = map[string]bool{
	"io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec.validationActions": true,
	"io.k8s.api.certificates.v1.CertificateSigningRequestStatus.certificate":                     true,
	"io.k8s.api.core.v1.PodSecurityContext.fsGroup":                                              true,
	"io.k8s.api.core.v1.PodSpec.setHostnameAsFQDN":                                               true,
	"io.k8s.api.core.v1.TopologySpreadConstraint.maxSkew":                                        true,
	"io.k8s.api.core.v1.TopologySpreadConstraint.minDomains":                                     true,
	"io.k8s.api.core.v1.TopologySpreadConstraint.whenUnsatisfiable":                              true,
	"io.k8s.api.storage.v1.VolumeAttachmentSource.inlineVolumeSpec":                              true,
}

func TestSchemasEqualUpstream(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(reference.Path(t, "golden/openapi-v3"), "*__v*_openapi.json"))
	if err != nil {
		t.Fatal(err)
	}
	ours := asJSON(t, all())
	compared := map[string]bool{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			Components struct{ Schemas map[string]any }
		}
		if err := json.Unmarshal(data, &document); err != nil {
			t.Fatal(err)
		}
		for name, want := range document.Components.Schemas {
			got, has := ours[name]
			if !has || compared[name] {
				continue // not ours to serve, or seen
			}
			compared[name] = true
			for _, silent := range undescribed(name, want, got) {
				t.Errorf("%s%s is described by upstream, and not by us", name, silent)
			}
			strip(name, want)
			strip(name, got)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-upstream +ours):\n%s", name, diff)
			}
		}
	}
	t.Logf("compared %d schemas of %d", len(compared), len(ours))
}

// undescribed are the fields, and "" for the type itself, that only upstream
// says something about.
func undescribed(name string, want, got any) (silent []string) {
	says := func(schema any) bool {
		text, _ := schema.(map[string]any)["description"].(string)
		return text != ""
	}
	if says(want) && !says(got) {
		silent = append(silent, "")
	}
	properties, _ := want.(map[string]any)["properties"].(map[string]any)
	ours, _ := got.(map[string]any)["properties"].(map[string]any)
	for field, property := range properties {
		if ours[field] != nil && says(property) && !says(ours[field]) && !otherWords[name+"."+field] {
			silent = append(silent, "."+field)
		}
	}
	return silent
}

func asJSON(t *testing.T, c Components) map[string]any {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// strip removes what is deliberately different.
func strip(name string, schema any) {
	object := schema.(map[string]any)
	for key := range differences {
		delete(object, key)
	}
	if plainDocs[name] != "" {
		delete(object, "description") // upstream's comment does not ship; the words are ours
	}
	// These types do not ship with the API's modules; their words are ours.
	ourWords := strings.Contains(name, ".apiextensions.") || strings.Contains(name, ".apiregistration.")
	if ourWords {
		delete(object, "description")
	}
	properties, _ := object["properties"].(map[string]any)
	for field, property := range properties {
		if ourWords || otherWords[name+"."+field] {
			property := property.(map[string]any)
			delete(property, "description")
			if all, ok := property["allOf"].([]any); ok { // only wraps a described reference
				properties[field] = all[0]
			}
		}
	}
}

func TestMarkersAreCurrent(t *testing.T) {
	want, err := markers.Collect()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(markersText)) {
		t.Error("markers.txt is not what the pinned modules say; run go generate ./apiserver/schema")
	}
}
