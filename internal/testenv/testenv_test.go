package testenv_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/testenv"
)

func TestStart(t *testing.T) {
	c, err := client.New(testenv.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	maps := client.For(c, client.ConfigMaps)
	made, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}, Data: map[string]string{"k": "v"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := maps.Get(ctx, "default", "a")
	if err != nil || got.Data["k"] != "v" || got.ResourceVersion != made.ResourceVersion {
		t.Fatalf("got %v, %v", got, err)
	}
}
