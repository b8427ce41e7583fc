package framework

import "testing"

func TestSentence(t *testing.T) {
	said := func(plugin string, reasons ...string) *Status {
		s := NewStatus(Unschedulable, reasons...)
		s.Plugin = plugin
		return s
	}
	tests := []struct {
		name string
		d    Diagnosis
		want string
	}{
		{"no nodes", Diagnosis{}, "no nodes available to schedule pods"},
		{"counted and sorted as text", Diagnosis{AllNodes: 12, ByNode: map[string]*Status{
			"a": said("NodeResourcesFit", "Insufficient cpu", "Insufficient memory"),
			"b": said("NodeResourcesFit", "Insufficient cpu"),
			"c": said("TaintToleration", "node(s) had untolerated taint(s)"),
		}}, "0/12 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 2 Insufficient cpu."},
		{"left out by PreFilter", Diagnosis{AllNodes: 3, Others: said("NodeAffinity", "node(s) didn't satisfy plugin(s) [NodeAffinity]"),
			ByNode: map[string]*Status{"a": said("NodeResourcesFit", "Insufficient cpu")}},
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		{"failed before", Diagnosis{AllNodes: 3, PreFilter: said("NodeAffinity", "pod affinity terms conflict")},
			"0/3 nodes are available: pod affinity terms conflict."},
		{"room could not be made", Diagnosis{AllNodes: 1, PostFilter: "preemption: no.", ByNode: map[string]*Status{"a": said("X", "no")}},
			"0/1 nodes are available: 1 no. preemption: no."},
	}
	for _, tt := range tests {
		if got := tt.d.Error(); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}
