package controllers

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// owned makes a ReplicaSet that names an owner.
func (c *cluster) owned(namespace, name string, ref metav1.OwnerReference) *appsv1.ReplicaSet {
	return create(c, client.ReplicaSets, &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: []metav1.OwnerReference{ref}},
	})
}

func (c *cluster) has(namespace, name string) bool {
	_, err := client.For(c.client, client.ReplicaSets).Get(c.t.Context(), namespace, name)
	return err == nil
}

// collected runs the garbage collector alone in virtual time.
func collected(t *testing.T, faults faults, live func(c *cluster)) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, Config{Controllers: []string{"garbagecollector"}, GarbageCollector: true})
		c.api.faults = faults
		defer c.stop()
		c.start()
		live(c)
	})
}

// A kind that cannot be listed hides its objects from the graph. Nobody may
// lose an owner by that, whatever others say about it; nor may it hold up the
// deletion of what has nothing to do with it.
func TestGarbageOfUnlistedKind(t *testing.T) {
	collected(t, faults{Unlisted: "configmaps", Collects: true}, func(c *cluster) {
		owner := create(c, client.ConfigMaps, configMap("owner", ""))
		ref := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}
		wrong := ref
		wrong.Name = "other"
		c.owned(owner.Namespace, "wrong", wrong)
		c.until("the wrong one is gone", 2*time.Minute, func() bool { return !c.has(owner.Namespace, "wrong") })
		c.owned(owner.Namespace, "right", ref)
		parent := create(c, client.ReplicaSets, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "parent"}})
		c.owned("default", "child", *metav1.NewControllerRef(parent, appsv1.SchemeGroupVersion.WithKind("ReplicaSet")))
		c.quiet()
		if !c.has(owner.Namespace, "right") {
			t.Error("an object was collected whose owner is there")
		}
		foreground := metav1.DeletePropagationForeground
		if err := client.For(c.client, client.ReplicaSets).Delete(t.Context(), "default", "parent", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
			t.Fatal(err)
		}
		c.until("parent and child are gone", time.Minute, func() bool { return !c.has("default", "parent") && !c.has("default", "child") })
		if err := client.For(c.client, client.ConfigMaps).Delete(t.Context(), owner.Namespace, "owner", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.until("the right one is gone, too", 10*time.Minute, func() bool { return !c.has(owner.Namespace, "right") })
	})
}

// An owner lives in its dependent's namespace, or in none. A reference to any
// other place is reported, and then is as good as the object it finds there.
func TestGarbageOfWrongNamespace(t *testing.T) {
	collected(t, faults{}, func(c *cluster) {
		owner := create(c, client.ReplicaSets, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owner"}})
		ref := *metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
		c.owned("default", "right", ref)
		c.owned("elsewhere", "wrong", ref)
		create(c, client.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", OwnerReferences: []metav1.OwnerReference{ref}}})
		unknown := ref
		unknown.APIVersion, unknown.Name, unknown.UID = "apps/v9", "nobody", "u"
		c.owned("default", "unknown", unknown)
		c.until("the wrong one is gone", 2*time.Minute, func() bool { return !c.has("elsewhere", "wrong") })
		c.quiet()
		get(c, client.Nodes, "", "node")
		if !c.has("default", "right") || !c.has("default", "unknown") {
			t.Error("collected what may have an owner")
		}
		for namespace, name := range map[string]string{"elsewhere": "wrong", "default": "node"} {
			found := strings.Join(c.told(namespace, name, "OwnerRefInvalidNamespace"), "")
			where := strings.TrimSuffix(namespace, "default")
			want := "ownerRef [apps/v1/ReplicaSet, namespace: " + where + ", name: owner, uid: " + string(owner.UID) + `] does not exist in namespace "` + where + `"`
			if found != want {
				t.Errorf("event of %s: %q, want %q", name, found, want)
			}
		}
	})
}
