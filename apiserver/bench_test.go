package apiserver

import (
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

func BenchmarkManagedFields(b *testing.B) {
	rows := resources.All()
	tracker := newFieldTracker()
	tracker.schemas = newOpenAPI(rows)
	for _, row := range rows {
		if row.Kind != "Pod" && row.Kind != "ConfigMap" {
			continue
		}
		q := &request{row: row, Request: &http.Request{}}
		q.options.fieldManager, q.user = "bench", &user{name: "someone"}
		b.Run(row.Kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var obj resources.Object
				if row.Kind == "Pod" {
					pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", Labels: map[string]string{"a": "b"}}}
					pod.Spec.Containers = []corev1.Container{{Name: "a", Image: "b", Env: []corev1.EnvVar{{Name: "x", Value: "y"}}, VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}}
					row.Strategy.Default(pod)
					obj = pod
				} else {
					obj = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}, Data: map[string]string{"a": "b", "c": "d"}}
				}
				tracker.created(q, obj)
				if len(obj.GetManagedFields()) == 0 {
					b.Fatal("nothing tracked")
				}
			}
		})
	}
}
