// Package informers lets client-go's informers, the code inside nearly every
// controller in the world, judge our API server: their cache must become equal
// to what was written, by WatchList and by list-watch, in protobuf and in JSON.
package informers

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"tinykube/client"
	"tinykube/internal/testenv"
)

// patience bounds a wait that should end in milliseconds.
const patience = 30 * time.Second

func clientset(t *testing.T, c *client.Config, contentType string) *kubernetes.Clientset {
	t.Helper()
	set, err := kubernetes.NewForConfig(&rest.Config{
		Host: c.Host,
		TLSClientConfig: rest.TLSClientConfig{ServerName: c.ServerName,
			CAData: c.CAData, CertData: c.CertData, KeyData: c.KeyData, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile},
		BearerToken:   c.BearerToken,
		QPS:           -1,
		ContentConfig: rest.ContentConfig{ContentType: contentType},
	})
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestInformers(t *testing.T) {
	server := testenv.Start(t)
	for name, contentType := range map[string]string{"protobuf": "application/vnd.kubernetes.protobuf", "json": "application/json"} {
		t.Run(name, func(t *testing.T) { judge(t, clientset(t, server, contentType), "judge-"+name) })
	}
}

// judge writes before and after the informers start, and compares.
func judge(t *testing.T, set *kubernetes.Clientset, namespace string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	configMaps := set.CoreV1().ConfigMaps(namespace)
	write := func(i int) {
		t.Helper()
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cm-", i), Labels: map[string]string{"n": fmt.Sprint(i)}},
			Data: map[string]string{"i": fmt.Sprint(i)}}
		if _, err := configMaps.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 {
		write(i)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(set, 0, informers.WithNamespace(namespace))
	lister := factory.Core().V1().ConfigMaps().Lister()
	factory.Core().V1().Pods().Informer()
	factory.Core().V1().Services().Informer()
	factory.Apps().V1().Deployments().Informer()
	factory.Coordination().V1().Leases().Informer()
	factory.Discovery().V1().EndpointSlices().Informer()
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	syncing, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for kind, synced := range factory.WaitForCacheSync(syncing.Done()) {
		if !synced {
			t.Fatalf("the informer of %v never synced", kind)
		}
	}
	for i := 50; i < 100; i++ {
		write(i)
	}
	for i := range 30 {
		if err := configMaps.Delete(ctx, fmt.Sprint("cm-", i), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 30; i < 60; i++ {
		cm, err := configMaps.Get(ctx, fmt.Sprint("cm-", i), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		cm.Data["i"] = "changed"
		if _, err := configMaps.Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	var difference string
	err := wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		list, err := configMaps.List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		cached, err := lister.List(labels.Everything())
		if err != nil {
			return false, err
		}
		difference = differ(list.Items, cached)
		return difference == "", nil
	})
	if err != nil {
		t.Fatalf("the cache does not become what the server has: %s (%v)", difference, err)
	}
}

func differ(server []corev1.ConfigMap, cached []*corev1.ConfigMap) string {
	if len(server) != len(cached) {
		return fmt.Sprintf("server has %d, cache %d", len(server), len(cached))
	}
	byName := map[string]*corev1.ConfigMap{}
	for _, cm := range cached {
		byName[cm.Name] = cm
	}
	for i := range server {
		want := server[i].DeepCopy()
		got := byName[want.Name]
		if got == nil {
			return want.Name + " is not in the cache"
		}
		got = got.DeepCopy()
		// An item of a list says nothing of its kind, an event's object does.
		got.TypeMeta, want.TypeMeta = metav1.TypeMeta{}, metav1.TypeMeta{}
		if !equality.Semantic.DeepEqual(got, want) {
			return fmt.Sprintf("%s: cached %+v, server %+v", want.Name, got, want)
		}
	}
	return ""
}
