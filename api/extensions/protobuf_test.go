package extensions

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

// message is what the API server's store wants of a type.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal(data []byte) error
}

// raw takes an answer's envelope off: what is in its field 2.
func raw(t *testing.T, data []byte) []byte {
	t.Helper()
	data = bytes.TrimPrefix(data, []byte("k8s\x00"))
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		value := data[n:]
		if number == 2 {
			out, _ := protowire.ConsumeBytes(value)
			return out
		}
		data = value[protowire.ConsumeFieldValue(number, kind, value):]
	}
	t.Fatal("no message in the envelope")
	return nil
}

// TestProtobufIsUpstreams reads what a real kube-apiserver answered, in both
// forms, and writes the same bytes. (A few fields of a schema, such as a
// default's spaces, are kept as they came.)
func TestProtobufIsUpstreams(t *testing.T) {
	for name, new := range map[string]func() message{
		"customresourcedefinition":     func() message { return &CustomResourceDefinition{} },
		"customresourcedefinitionlist": func() message { return &CustomResourceDefinitionList{} },
		"apiservice":                   func() message { return &APIService{} },
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile("testdata/" + name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile("testdata/" + name + ".pb")
			if err != nil {
				t.Fatal(err)
			}
			inJSON, inProtobuf := new(), new()
			if err := json.Unmarshal(text, inJSON); err != nil {
				t.Fatal(err)
			}
			if err := inProtobuf.Unmarshal(raw(t, data)); err != nil {
				t.Fatal(err)
			}
			one, _ := json.Marshal(inProtobuf)
			other, _ := json.Marshal(inJSON)
			var a, b map[string]any
			json.Unmarshal(one, &a)
			json.Unmarshal(other, &b)
			for _, m := range []map[string]any{a, b} { // the envelope's
				delete(m, "kind")
				delete(m, "apiVersion")
			}
			if diff := cmp.Diff(b, a); diff != "" {
				t.Errorf("(-json +protobuf)\n%s", diff)
			}
			again, err := inProtobuf.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(again, raw(t, data)) {
				t.Errorf("written again: %d bytes, upstream's are %d", len(again), len(raw(t, data)))
			}
		})
	}
}

// FuzzUnmarshal: no bytes make it fall over, and what it reads it can write.
func FuzzUnmarshal(f *testing.F) {
	if data, err := os.ReadFile("testdata/customresourcedefinition.pb"); err == nil {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range []message{&CustomResourceDefinition{}, &APIService{}} {
			if m.Unmarshal(data) != nil {
				continue
			}
			if _, err := m.Marshal(); err != nil {
				t.Error(err)
			}
		}
	})
}
