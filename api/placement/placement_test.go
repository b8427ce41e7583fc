package placement

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// term reads "key op values" and, for fields, "@key op values".
func term(parts ...string) corev1.NodeSelectorTerm {
	var t corev1.NodeSelectorTerm
	for _, p := range parts {
		words := strings.Fields(p)
		r := corev1.NodeSelectorRequirement{Key: words[0], Operator: corev1.NodeSelectorOperator(words[1]), Values: words[2:]}
		if key, isField := strings.CutPrefix(r.Key, "@"); isField {
			r.Key = key
			t.MatchFields = append(t.MatchFields, r)
		} else {
			t.MatchExpressions = append(t.MatchExpressions, r)
		}
	}
	return t
}

func podWith(selector map[string]string, terms ...corev1.NodeSelectorTerm) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: selector}}
	if terms != nil {
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
		}}
	}
	return pod
}

func TestRequired(t *testing.T) {
	ssd := node("n1", map[string]string{"disk": "ssd", "cores": "8"})
	tests := []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"no demands", podWith(nil), true},
		{"selector matches", podWith(map[string]string{"disk": "ssd"}), true},
		{"selector differs", podWith(map[string]string{"disk": "hdd"}), false},
		{"selector and term must both hold", podWith(map[string]string{"disk": "ssd"}, term("cores Gt 8")), false},
		{"In", podWith(nil, term("disk In ssd nvme")), true},
		{"NotIn holds for a missing label", podWith(nil, term("zone NotIn a")), true},
		{"Exists", podWith(nil, term("zone Exists")), false},
		{"DoesNotExist", podWith(nil, term("zone DoesNotExist")), true},
		{"Gt compares numbers", podWith(nil, term("cores Gt 7")), true},
		{"Lt", podWith(nil, term("cores Lt 8")), false},
		{"expressions of a term are joined by and", podWith(nil, term("disk In ssd", "zone Exists")), false},
		{"terms are joined by or", podWith(nil, term("zone Exists"), term("disk In ssd")), true},
		{"an empty term matches nothing", podWith(nil, term()), false},
		{"an empty list of terms matches nothing", &corev1.Pod{Spec: corev1.PodSpec{Affinity: &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{}}}}}, false},
		{"a field names the node", podWith(nil, term("@metadata.name In n1")), true},
		{"a field names another", podWith(nil, term("@metadata.name In n2")), false},
		{"a field excludes the node", podWith(nil, term("@metadata.name NotIn n1")), false},
		{"an unknown operator matches nothing", podWith(nil, term("disk Like ssd")), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ForPod(tt.pod).Match(ssd); got != tt.want {
				t.Errorf("match %v, want %v", got, tt.want)
			}
		})
	}
}

func TestNodeNames(t *testing.T) {
	tests := []struct {
		name  string
		terms []corev1.NodeSelectorTerm
		want  []string
		ok    bool
	}{
		{"one name", []corev1.NodeSelectorTerm{term("@metadata.name In n1")}, []string{"n1"}, true},
		{"two terms", []corev1.NodeSelectorTerm{term("@metadata.name In n2"), term("@metadata.name In n1")}, []string{"n1", "n2"}, true},
		{"fields of a term that exclude each other", []corev1.NodeSelectorTerm{term("@metadata.name In n1", "@metadata.name In n2")}, nil, true},
		{"one term leaves the name open", []corev1.NodeSelectorTerm{term("@metadata.name In n1"), term("disk Exists")}, nil, false},
	}
	for _, tt := range tests {
		names, ok := ForPod(podWith(nil, tt.terms...)).NodeNames()
		if got := slices.Sorted(maps.Keys(names)); ok != tt.ok || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v %v, want %v %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func TestTolerated(t *testing.T) {
	taint := corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}
	tests := []struct {
		toleration corev1.Toleration
		want       bool
	}{
		{corev1.Toleration{Key: "k", Value: "v"}, true},
		{corev1.Toleration{Key: "k", Value: "w"}, false},
		{corev1.Toleration{Key: "k", Operator: "Exists"}, true},
		{corev1.Toleration{Operator: "Exists"}, true},
		{corev1.Toleration{Key: "k", Operator: "Exists", Effect: corev1.TaintEffectNoExecute}, false},
		{corev1.Toleration{Key: "other", Operator: "Exists"}, false},
		{corev1.Toleration{Key: "k", Value: "v", Operator: "Matches"}, false},
	}
	for _, tt := range tests {
		if got := Tolerated(&taint, []corev1.Toleration{tt.toleration}); got != tt.want {
			t.Errorf("%+v: %v, want %v", tt.toleration, got, tt.want)
		}
	}
	if got := Untolerated([]corev1.Taint{taint}, nil, corev1.TaintEffectNoExecute); got != nil {
		t.Errorf("a taint of another effect counted: %v", got)
	}
}
