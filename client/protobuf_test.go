package client_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/client"
	"tinykube/internal/testenv"
)

// A watch in protobuf says the same as one in JSON.
func TestProtobufWatch(t *testing.T) {
	api, err := client.New(testenv.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	maps := client.For(api, client.ConfigMaps)
	first, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Data: map[string]string{"k": "v"}})
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	options := metav1.ListOptions{ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, SendInitialEvents: &yes, AllowWatchBookmarks: true, FieldSelector: "metadata.name=a"}
	var watches []*client.Watch[*corev1.ConfigMap]
	for _, resource := range []*client.Resource[*corev1.ConfigMap]{maps, maps.Protobuf()} {
		w, err := resource.Watch(t.Context(), "default", options)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		watches = append(watches, w)
	}
	first.Data["k"] = "other"
	if _, err := maps.Update(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(t.Context(), "default", "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ADDED", "BOOKMARK", "MODIFIED", "DELETED"} {
		a, b := <-watches[0].Events, <-watches[1].Events
		if want == "BOOKMARK" { // how far the server was when each watch began
			a.Object.ResourceVersion, b.Object.ResourceVersion = "", ""
		}
		if string(a.Type) != want || a.Type != b.Type || !equality.Semantic.DeepEqual(a.Object, b.Object) {
			t.Errorf("want %s\n%s %+v\n%s %+v", want, a.Type, a.Object, b.Type, b.Object)
		}
	}
}

// A server may refuse in protobuf what was asked for in protobuf; then too the
// error has its reason and its words.
func TestProtobufError(t *testing.T) {
	refusal := apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no right")).ErrStatus
	raw, err := refusal.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := (&runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Status"}, Raw: raw}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.kubernetes.protobuf")
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write(append([]byte("k8s\x00"), envelope...))
	}))
	defer server.Close()
	api, err := client.New(&client.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.For(api, client.Pods).Protobuf().Watch(t.Context(), "default", metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || err.Error() != refusal.Message {
		t.Errorf("%v, want %s", err, refusal.Message)
	}
}
