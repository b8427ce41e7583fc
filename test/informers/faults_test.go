package informers

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	ctrlcache "sigs.k8s.io/controller-runtime/pkg/cache"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"

	"tinykube/internal/testenv"
)

// door is a TCP proxy in front of the API server that can be slammed: every
// connection through it is cut, whatever it was about to say.
type door struct {
	listener net.Listener
	target   string

	mu   sync.Mutex // guards open
	open map[net.Conn]bool
}

func openDoor(t *testing.T, target string) *door {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{listener: listener, target: target, open: map[net.Conn]bool{}}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { d.carry(in) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		d.slam()
		group.Wait()
	})
	return d
}

func (d *door) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", d.target)
	if err != nil {
		return
	}
	defer out.Close()
	d.mu.Lock()
	d.open[in] = true
	d.mu.Unlock()
	back := make(chan struct{})
	go func() {
		io.Copy(in, out)
		in.Close()
		close(back)
	}()
	io.Copy(out, in)
	out.Close()
	<-back
	d.mu.Lock()
	delete(d.open, in)
	d.mu.Unlock()
}

// slam cuts what is open now; who comes again is let in.
func (d *door) slam() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.open {
		conn.Close()
	}
}

// witness is a cache of the ConfigMaps of one namespace: what it shows must
// become what the server has.
type witness struct {
	name string
	list func(ctx context.Context) ([]*corev1.ConfigMap, error)
}

// TestInformersUnderFaults keeps writing while the connections of the caches
// are cut, etcd is compacted behind the API server's back, and the API server
// is killed and started again: the caches must become equal to the store after
// each, and no version that they show may go back.
func TestInformersUnderFaults(t *testing.T) {
	env := testenv.New(t)
	door := openDoor(t, strings.TrimPrefix(env.Config.Host, "https://"))
	straight := clientset(t, env.Config, "application/json")
	const namespace = "faults"
	if _, err := straight.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	versions := &versions{T: t, last: map[string]string{}}
	witnesses := []witness{
		clientGo(ctx, t, env, door, namespace, "application/json", versions),
		clientGo(ctx, t, env, door, namespace, "application/vnd.kubernetes.protobuf", versions),
		controllerRuntime(ctx, t, env, door, namespace),
	}
	direct, err := clientv3.New(clientv3.Config{Endpoints: []string{env.EtcdEndpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	compact := func() {
		now, err := direct.Get(ctx, "/")
		if err == nil {
			_, err = direct.Compact(ctx, now.Header.Revision)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	configMaps := straight.CoreV1().ConfigMaps(namespace)
	random := rand.New(rand.NewPCG(1, 2))
	for round, fault := range []struct {
		name string
		do   func()
	}{
		{"nothing", func() {}},
		{"connections are cut", door.slam},
		{"etcd is compacted", compact},
		{"connections are cut, etcd is compacted", func() {
			door.slam()
			compact()
		}},
		{"the API server starts again, and knows nothing of before", func() {
			env.StopServer()
			env.StartServer(t)
		}},
		{"all of it, again and again", func() {
			for range 5 {
				door.slam()
				scribble(ctx, t, straight, namespace, random, 20)
				compact()
			}
			env.StopServer()
			door.slam()
			env.StartServer(t)
		}},
	} {
		scribble(ctx, t, straight, namespace, random, 40)
		fault.do()
		scribble(ctx, t, straight, namespace, random, 40)
		for _, j := range witnesses {
			var difference string
			err := wait.PollUntilContextTimeout(ctx, 10*time.Millisecond, 2*patience, true, func(ctx context.Context) (bool, error) {
				list, err := configMaps.List(ctx, metav1.ListOptions{})
				if err != nil {
					return false, err
				}
				cached, err := j.list(ctx)
				difference = differ(list.Items, cached)
				return difference == "", err
			})
			if err != nil {
				t.Fatalf("round %d, %s: the cache of %s does not become what the server has: %s (%v)", round, fault.name, j.name, difference, err)
			}
		}
	}
	t.Logf("three caches equal after every fault; %d events, no version went back", versions.events())
}

// scribble creates, changes and deletes at random.
func scribble(ctx context.Context, t *testing.T, set *kubernetes.Clientset, namespace string, random *rand.Rand, writes int) {
	t.Helper()
	configMaps := set.CoreV1().ConfigMaps(namespace)
	for i := range writes {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cm-", random.IntN(15))}, Data: map[string]string{"i": fmt.Sprint(random.Int(), i)}}
		var err error
		switch random.IntN(3) {
		case 0:
			err = configMaps.Delete(ctx, object.Name, metav1.DeleteOptions{})
		case 1:
			_, err = configMaps.Update(ctx, object, metav1.UpdateOptions{})
		default:
			_, err = configMaps.Create(ctx, object, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

// throughDoor is a config whose connections can be cut.
func throughDoor(env *testenv.Env, d *door, contentType string) *rest.Config {
	return &rest.Config{
		Host:            "https://" + d.listener.Addr().String(),
		TLSClientConfig: rest.TLSClientConfig{CAData: env.Config.CAData, CertData: env.Config.CertData, KeyData: env.Config.KeyData},
		QPS:             -1, ContentConfig: rest.ContentConfig{ContentType: contentType},
	}
}

// clientGo is an informer with its lister.
func clientGo(ctx context.Context, t *testing.T, env *testenv.Env, d *door, namespace, contentType string, v *versions) witness {
	t.Helper()
	set, err := kubernetes.NewForConfig(throughDoor(env, d, contentType))
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(set, 0, informers.WithNamespace(namespace))
	kind := factory.Core().V1().ConfigMaps()
	if _, err := kind.Informer().AddEventHandler(v.handler(contentType)); err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	syncing, stop := context.WithTimeout(ctx, patience)
	defer stop()
	factory.WaitForCacheSync(syncing.Done())
	return witness{"client-go, " + contentType, func(context.Context) ([]*corev1.ConfigMap, error) { return kind.Lister().List(labels.Everything()) }}
}

// controllerRuntime is the cache that most operators read from.
func controllerRuntime(ctx context.Context, t *testing.T, env *testenv.Env, d *door, namespace string) witness {
	t.Helper()
	all, err := ctrlcache.New(throughDoor(env, d, ""), ctrlcache.Options{DefaultNamespaces: map[string]ctrlcache.Config{namespace: {}}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	go func() { ended <- all.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return witness{"controller-runtime", func(ctx context.Context) ([]*corev1.ConfigMap, error) {
		var list corev1.ConfigMapList
		if err := all.List(ctx, &list, ctrlclient.InNamespace(namespace)); err != nil {
			return nil, err
		}
		var out []*corev1.ConfigMap
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
		return out, nil
	}}
}

// versions looks at each object's versions as they come.
type versions struct {
	*testing.T
	mu    sync.Mutex // guards the fields below
	last  map[string]string
	count int
}

func (v *versions) handler(informer string) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { v.see(informer, obj) },
		UpdateFunc: func(_, obj any) { v.see(informer, obj) },
	}
}

func (v *versions) see(informer string, obj any) {
	object := obj.(*corev1.ConfigMap)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count++
	key := informer + object.Name
	if was, is := v.last[key], object.ResourceVersion; len(is) < len(was) || len(is) == len(was) && is < was {
		v.Errorf("%s: %s went from version %s back to %s", informer, object.Name, was, is)
	}
	v.last[key] = object.ResourceVersion
}

func (v *versions) events() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.count
}
