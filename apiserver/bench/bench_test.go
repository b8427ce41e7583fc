// Package bench measures the API server beside what it stands on, in one run:
// a bare TLS + HTTP/2 handler that sends the same bytes and knows nothing, and
// raw etcd. Only ratios mean much on a shared machine.
//
//	go test -run '^$' -bench . ./apiserver/bench
//
// Client, API server and bare handler are one process and etcd is another.
// cpu-µs/op is the CPU of both, the client's share included; what the server
// itself costs is the difference to the bare handler.
package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"tinykube/apiserver"
	"tinykube/client"
	"tinykube/internal/etcdtest"
	"tinykube/internal/testenv"
)

func TestMain(m *testing.M) { etcdtest.Main(m, printRatios, tearDown) }

// results are what the benchmarks measured, by name.
var results = map[string]measured{}

type measured struct{ wall, cpu float64 } // µs per operation

// ratios are printed at the end: ours by the floor.
var ratios = []struct{ name, ours, floor string }{
	{"GET 1.7 KB, 1 client, rv=0", "Get/rv0/1", "Get/bare/1"},
	{"GET 1.7 KB, 1 client, fresh", "Get/fresh/1", "Get/bare/1"},
	{"GET 1.7 KB, 32 clients, rv=0", "Get/rv0/32", "Get/bare/32"},
	{"GET 1.7 KB, 32 clients, fresh", "Get/fresh/32", "Get/bare/32"},
	{"LIST 5,000 pods, fresh", "List/fresh", "List/bare"},
	{"create 1 KB, 1 client", "Create/ours/1", "Create/etcd/1"},
	{"create 1 KB, 16 clients", "Create/ours/16", "Create/etcd/16"},
	{"watch event to one of 8 watchers", "Watch/ours/8", "Watch/bare/8"},
	{"watch event to one of 200 watchers", "Watch/ours/200", "Watch/bare/200"},
}

func printRatios() {
	if len(results) == 0 {
		return
	}
	fmt.Printf("\n%-36s %12s %12s %8s %12s %12s %8s\n", "", "ours µs", "floor µs", "ratio", "ours cpu µs", "floor cpu µs", "ratio")
	for _, r := range ratios {
		a, okA := results[r.ours]
		b, okB := results[r.floor]
		if okA && okB {
			fmt.Printf("%-36s %12.1f %12.1f %7.2f× %12.1f %12.1f %7.2f×\n", r.name, a.wall, b.wall, a.wall/b.wall, a.cpu, b.cpu, a.cpu/b.cpu)
		}
	}
}

// world is everything that is measured; made once.
type world struct {
	env      *testenv.Env
	base     string
	tls      *tls.Config
	bare     *httptest.Server
	bareBody atomic.Pointer[[]byte] // what the bare handler sends
	events   *fanOut
	etcd     *clientv3.Client
}

var (
	worldOnce sync.Once
	theWorld  *world
)

// setUp starts everything; the benchmark that comes first pays, off the clock.
func setUp(b *testing.B) *world {
	b.Helper()
	worldOnce.Do(func() {
		w := &world{events: &fanOut{}}
		// Cleanups of the first benchmark would end the world too early.
		w.env = testenv.New(forever{b}, func(c *apiserver.Config) { c.Storage.EventTTL = 0 })
		w.base = w.env.Config.Host
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(w.env.Config.CAData)
		pair, err := tls.X509KeyPair(w.env.Config.CertData, w.env.Config.KeyData)
		if err != nil {
			b.Fatal(err)
		}
		w.tls = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
		w.bare = httptest.NewUnstartedServer(http.HandlerFunc(w.serveBare))
		w.bare.EnableHTTP2 = true
		w.bare.StartTLS()
		if w.etcd, err = clientv3.New(clientv3.Config{Endpoints: []string{w.env.EtcdEndpoint()}, Logger: zap.NewNop()}); err != nil {
			b.Fatal(err)
		}
		theWorld = w
	})
	return theWorld
}

// forever is a testing.TB whose cleanups run when all benchmarks are over.
type forever struct{ *testing.B }

var cleanups []func()

func (forever) Cleanup(f func()) { cleanups = append(cleanups, f) }

func tearDown() {
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
}

func (w *world) serveBare(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/watch" {
		w.events.serve(rw, r)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Write(*w.bareBody.Load())
}

// fanOut is the least a watch could be: every event to every connection.
type fanOut struct {
	mu    sync.Mutex
	lines [][]byte
	bells []chan struct{}
}

func (f *fanOut) serve(rw http.ResponseWriter, r *http.Request) {
	bell := make(chan struct{}, 1)
	f.mu.Lock()
	at := len(f.lines)
	f.bells = append(f.bells, bell)
	f.mu.Unlock()
	control := http.NewResponseController(rw)
	rw.WriteHeader(http.StatusOK)
	control.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-bell:
		}
		f.mu.Lock()
		batch := f.lines[at:]
		at = len(f.lines)
		f.mu.Unlock()
		var out []byte
		for _, line := range batch {
			out = append(out, line...)
		}
		rw.Write(out)
		control.Flush()
	}
}

func (f *fanOut) send(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, line)
	for _, bell := range f.bells {
		select {
		case bell <- struct{}{}:
		default:
		}
	}
}

// oursHTTP and bareHTTP are clients with a connection of their own.
func (w *world) oursHTTP() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: w.tls, ForceAttemptHTTP2: true, DisableCompression: true}}
}

func (w *world) bareHTTP() *http.Client {
	cfg := w.bare.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	return &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true, DisableCompression: true}}
}

// measure runs op n times by some clients and notes time and CPU under name.
func measure(b *testing.B, name string, clients int, op func(client, i int) error) {
	b.Helper()
	b.ResetTimer()
	cpu, start := cpuTime(), time.Now()
	var next atomic.Int64
	var group sync.WaitGroup
	for c := range clients {
		group.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				if err := op(c, i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	note(b, name, start, cpu, b.N)
}

func note(b *testing.B, name string, start time.Time, cpu time.Duration, operations int) {
	b.StopTimer()
	m := measured{
		wall: float64(time.Since(start).Microseconds()) / float64(operations),
		cpu:  float64((cpuTime() - cpu).Microseconds()) / float64(operations),
	}
	b.ReportMetric(m.cpu, "cpu-µs/op")
	results[name] = m
}

// cpuTime is the CPU time of this process and of etcd.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	total := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if theWorld != nil {
		total += etcdtest.CPUTime(theWorld.env.EtcdPID())
	}
	return total
}

func fetch(c *http.Client, url string) (int, error) {
	response, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	return int(n), err
}

func (w *world) post(b *testing.B, path string, body any) {
	b.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		b.Fatal(err)
	}
	response, err := w.oursHTTP().Post(w.base+path, "application/json", bytes.NewReader(data))
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	if text, _ := io.ReadAll(response.Body); response.StatusCode >= 300 && response.StatusCode != http.StatusConflict {
		b.Fatalf("%s: %s", response.Status, text)
	}
}

// configMap is an object of about size bytes.
func configMap(name string, size int) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name},
		"data": map[string]string{"x": strings.Repeat("y", size)}}
}

func BenchmarkGet(b *testing.B) {
	w := setUp(b)
	const path = "/api/v1/namespaces/default/configmaps/get"
	w.post(b, "/api/v1/namespaces/default/configmaps", configMap("get", 1500))
	body := read(b, w, path)
	w.bareBody.Store(&body)
	for _, clients := range []int{1, 32} {
		for _, kind := range []struct {
			name, url string
			client    *http.Client
		}{
			{"bare", w.bare.URL + "/get", w.bareHTTP()},
			{"rv0", w.base + path + "?resourceVersion=0", w.oursHTTP()},
			{"fresh", w.base + path, w.oursHTTP()},
		} {
			name := fmt.Sprintf("Get/%s/%d", kind.name, clients)
			b.Run(name[4:], func(b *testing.B) {
				measure(b, name, clients, func(int, int) error { _, err := fetch(kind.client, kind.url); return err })
			})
		}
	}
}

func read(b *testing.B, w *world, path string) []byte {
	b.Helper()
	response, err := w.oursHTTP().Get(w.base + path)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

const listed = 5000

func BenchmarkList(b *testing.B) {
	w := setUp(b)
	const path = "/api/v1/namespaces/list/pods"
	w.fillPods(b)
	body := read(b, w, path)
	w.bareBody.Store(&body)
	ours, bare := w.oursHTTP(), w.bareHTTP()
	b.Logf("%d pods, %.1f MB", listed, float64(len(body))/1e6)
	b.Run("bare", func(b *testing.B) {
		measure(b, "List/bare", 1, func(int, int) error { _, err := fetch(bare, w.bare.URL+"/list"); return err })
	})
	b.Run("fresh", func(b *testing.B) {
		measure(b, "List/fresh", 1, func(int, int) error { _, err := fetch(ours, w.base+path); return err })
	})
}

var fillOnce sync.Once

// fillPods makes pods of about 3 KB, as upstream's figures have them.
func (w *world) fillPods(b *testing.B) {
	fillOnce.Do(func() {
		w.post(b, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": "list"}})
		w.post(b, "/api/v1/namespaces/list/serviceaccounts", map[string]any{"metadata": map[string]any{"name": "default"}})
		c, err := client.New(w.env.Config)
		if err != nil {
			b.Fatal(err)
		}
		var group sync.WaitGroup
		for worker := range 16 {
			group.Go(func() {
				for i := worker; i < listed; i += 16 {
					pod := map[string]any{
						"metadata": map[string]any{"name": fmt.Sprintf("pod-%04d", i), "labels": map[string]string{"app": "a"},
							"annotations": map[string]string{"filler": strings.Repeat("z", 900)}},
						"spec": map[string]any{"containers": []any{map[string]any{"name": "c", "image": "i"}}},
					}
					if err := c.DoInto(context.Background(), client.Request{Method: "POST", Path: "/api/v1/namespaces/list/pods"}, pod, nil); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		group.Wait()
	})
}

var created atomic.Int64

func BenchmarkCreate(b *testing.B) {
	w := setUp(b)
	ctx := context.Background()
	for _, clients := range []int{1, 16} {
		name := fmt.Sprintf("Create/etcd/%d", clients)
		b.Run(name[7:], func(b *testing.B) {
			value := strings.Repeat("y", 1000)
			measure(b, name, clients, func(int, int) error {
				key := fmt.Sprintf("/bench/%d", created.Add(1))
				_, err := w.etcd.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
				return err
			})
		})
		name2 := fmt.Sprintf("Create/ours/%d", clients)
		b.Run(name2[7:], func(b *testing.B) {
			ours := w.oursHTTP()
			measure(b, name2, clients, func(int, int) error {
				data, err := json.Marshal(configMap(fmt.Sprintf("c%d", created.Add(1)), 1000))
				if err != nil {
					return err
				}
				response, err := ours.Post(w.base+"/api/v1/namespaces/default/configmaps", "application/json", bytes.NewReader(data))
				if err != nil {
					return err
				}
				defer response.Body.Close()
				io.Copy(io.Discard, response.Body)
				if response.StatusCode != http.StatusCreated {
					return fmt.Errorf("create: %s", response.Status)
				}
				return nil
			})
		})
	}
}

// BenchmarkWatch counts an event once per watcher. Events come one at a time,
// each when the one before has reached everybody. The write that makes an
// event is done for the bare handler as well, to an object nobody watches.
func BenchmarkWatch(b *testing.B) {
	w := setUp(b)
	c := w.oursHTTP()
	const maps = "/api/v1/namespaces/%s/configmaps"
	for _, namespace := range []string{"watched", "quiet"} {
		w.post(b, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": namespace}})
		w.post(b, fmt.Sprintf(maps, namespace), configMap("w", 1000))
	}
	patch := func(namespace string) {
		body := fmt.Sprintf(`{"metadata":{"annotations":{"i":"%d"}}}`, created.Add(1))
		request, _ := http.NewRequest(http.MethodPatch, w.base+fmt.Sprintf(maps, namespace)+"/w", strings.NewReader(body))
		request.Header.Set("Content-Type", "application/merge-patch+json")
		response, err := c.Do(request)
		if err != nil {
			b.Error(err)
			return
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	for _, watchers := range []int{8, 200} {
		line := read(b, w, fmt.Sprintf(maps, "watched")+"/w")
		b.Run(fmt.Sprintf("bare/%d", watchers), func(b *testing.B) {
			w.events = &fanOut{}
			w.watch(b, fmt.Sprintf("Watch/bare/%d", watchers), watchers, w.bareHTTP, w.bare.URL+"/watch", func() {
				patch("quiet")
				w.events.send(line)
			})
		})
		b.Run(fmt.Sprintf("ours/%d", watchers), func(b *testing.B) {
			url := w.base + fmt.Sprintf(maps, "watched") + "?watch=true"
			w.watch(b, fmt.Sprintf("Watch/ours/%d", watchers), watchers, w.oursHTTP, url, func() { patch("watched") })
		})
	}
}

// watch lets watchers, each with a connection of its own, see b.N events.
func (w *world) watch(b *testing.B, name string, watchers int, newClient func() *http.Client, url string, send func()) {
	var seen atomic.Int64
	arrived := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for range watchers {
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		response, err := newClient().Do(request)
		if err != nil {
			b.Fatal(err)
		}
		group.Go(func() {
			defer response.Body.Close()
			buffer := make([]byte, 64<<10)
			for {
				n, err := response.Body.Read(buffer)
				if count := bytes.Count(buffer[:n], []byte("\n")); count > 0 && seen.Add(int64(count)) > 0 {
					select {
					case arrived <- struct{}{}:
					default:
					}
				}
				if err != nil {
					return
				}
			}
		})
	}
	wait := func(total int64) {
		for seen.Load() < total {
			select {
			case <-arrived:
			case <-time.After(20 * time.Second):
				b.Fatalf("%d of %d events arrived", seen.Load(), total)
			}
		}
	}
	base := int64(0)
	if strings.Contains(url, "watch=true") { // the present state comes first
		base = int64(watchers)
	}
	wait(base)
	b.ResetTimer()
	cpu, start := cpuTime(), time.Now()
	events := max(b.N/watchers, 1)
	for i := range events {
		send()
		wait(base + int64(watchers)*int64(i+1))
	}
	note(b, name, start, cpu, events*watchers)
}
