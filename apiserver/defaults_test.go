package apiserver

import (
	"os"
	"reflect"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
	"tinykube/internal/reference"
)

func typeName(obj resources.Object) string { return reflect.TypeOf(obj).Elem().Name() }

// extraBindings are ours and not upstream's.
var extraBindings = map[string]string{
	"ClusterRoleBinding//kubeadm:cluster-admins": "kubeadm writes it; our own set-up counts on it",
}

// leftOut are in the reference and not here.
var leftOut = map[string]string{
	"ClusterRole//system:openshift:public-info-viewer":        "a distribution's, and it opens /.well-known to strangers",
	"ClusterRoleBinding//system:openshift:public-info-viewer": "the same",
}

// TestDefaultRolesAreUpstreams compares every role and binding with what a
// kube-apiserver seeds: names, labels, annotations, each rule and its order,
// aggregation, subjects.
func TestDefaultRolesAreUpstreams(t *testing.T) {
	upstream := map[string]resources.Object{}
	for file, new := range map[string]func() resources.Object{
		"cluster-roles.yaml":            func() resources.Object { return &rbacv1.ClusterRole{} },
		"controller-roles.yaml":         func() resources.Object { return &rbacv1.ClusterRole{} },
		"namespace-roles.yaml":          func() resources.Object { return &rbacv1.Role{} },
		"cluster-role-bindings.yaml":    func() resources.Object { return &rbacv1.ClusterRoleBinding{} },
		"controller-role-bindings.yaml": func() resources.Object { return &rbacv1.ClusterRoleBinding{} },
		"namespace-role-bindings.yaml":  func() resources.Object { return &rbacv1.RoleBinding{} },
	} {
		data, err := os.ReadFile(reference.Path(t, "golden/rbac/"+file))
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Items []runtime.RawExtension }
		if err := yaml.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		for _, item := range list.Items {
			obj := new()
			if err := yaml.Unmarshal(item.Raw, obj); err != nil {
				t.Fatal(err)
			}
			upstream[key(obj)] = obj
		}
	}
	for _, got := range defaultRBAC() {
		want, ok := upstream[key(got)]
		if !ok {
			if extraBindings[key(got)] == "" {
				t.Errorf("upstream has no %s", key(got))
			}
			continue
		}
		delete(upstream, key(got))
		want.GetObjectKind().SetGroupVersionKind(got.GetObjectKind().GroupVersionKind())
		if !equality.Semantic.DeepEqual(got, want) {
			a, _ := yaml.Marshal(got)
			b, _ := yaml.Marshal(want)
			t.Errorf("%s:\n%s\nwant\n%s", key(got), a, b)
		}
	}
	for missing := range upstream {
		if leftOut[missing] == "" {
			t.Errorf("%s is missing", missing)
		}
	}
}

func key(obj resources.Object) string {
	return typeName(obj) + "/" + obj.GetNamespace() + "/" + obj.GetName()
}
