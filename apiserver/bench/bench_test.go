// Package bench measures the API server beside what it stands on and what it
// replaces, in one run, in turns:
//
//	ours      kube-apiserver of this source, with an etcd of its own
//	bare      a TLS + HTTP/2 handler that sends the same bytes and knows nothing
//	etcd      the same write without an API server
//	upstream  a real kube-apiserver, if KUBE_APISERVER names one, with an etcd of its own
//
//	go test -run '^$' -bench . -benchtime 1x ./apiserver/bench
//
// Each is a process, and so is each etcd; the clients are this one. On a shared
// machine wall time says little, so what counts is the CPU per operation of
// the server and its etcd together, without the clients'. The kernel counts it
// in steps of 10 ms.
//
//	BENCH_TIME=5s       how long one figure is taken
//	BENCH_ONLY=regexp   only these rows
//	BENCH_PROFILE=dir   CPU profiles of all but upstream, one per row and process;
//	                    README.md reads two of them
package bench

import (
	"fmt"
	"math"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"tinykube/internal/etcdtest"
)

func TestMain(m *testing.M) {
	go profileOnSignal() // every server is this program
	if role := os.Getenv(roleVariable); role != "" {
		play(role)
	}
	etcdtest.Main(m, tearDown)
}

// figure is one measurement, per operation.
type figure struct {
	wall, cpu time.Duration
	size      float64 // MiB, where memory is measured instead
}

func (f figure) String() string {
	switch {
	case f.size > 0:
		return fmt.Sprintf("%.0f MiB", f.size)
	case f.wall == 0:
		return ""
	}
	return micro(f.wall) + " " + micro(f.cpu)
}

// micro is a time in µs, with as many digits as mean something.
func micro(d time.Duration) string {
	us := float64(d) / float64(time.Microsecond)
	if us >= 100 {
		return fmt.Sprintf("%8.0f", us)
	}
	return fmt.Sprintf("%8.1f", us)
}

// row is a line of the table. Each function measures one server; nil is not
// measured.
type row struct {
	name             string
	api, bare, store func(*world, *server) figure
	once             bool // not in turns: it cannot be repeated, or takes long to prepare
}

// turns is how often the servers are measured in turn, for a part of the time
// each: on a shared machine the next second is not like this one.
const turns = 5

const (
	listed     = 5000 // pods
	configMaps = 8500
)

// rows in the order in which they are measured: what fills comes first.
var rows = []row{
	{name: "start to /readyz, empty etcd", api: func(_ *world, s *server) figure { return figure{wall: s.ready, cpu: s.readyCPU} }, once: true},
	{name: "memory, idle", api: memory, once: true},
	{name: "GET 1.7 KB, rv=0, 1 client", api: get("?resourceVersion=0", 1), bare: getBare(1)},
	{name: "GET 1.7 KB, rv=0, 32 clients", api: get("?resourceVersion=0", 32), bare: getBare(32)},
	{name: "GET 1.7 KB, fresh, 1 client", api: get("", 1), bare: getBare(1)},
	{name: "GET 1.7 KB, fresh, 32 clients", api: get("", 32), bare: getBare(32)},
	{name: "create ConfigMap 1 KB, 1 client", api: create(1), store: putNew(1)},
	{name: "create ConfigMap 1 KB, 16 clients", api: create(16), store: putNew(16)},
	{name: "create ConfigMap 1 KB, 64 clients", api: create(64), store: putNew(64)},
	{name: "create pod, 16 clients", api: fillPods, once: true},
	{name: "memory, 5,000 pods + 8,500 ConfigMaps", api: filled, once: true},
	{name: "LIST 5,000 pods, fresh", api: list(""), bare: listBare},
	{name: "LIST 5,000 pods in pages of 500, 4 clients", api: pages},
	{name: "watch event to one of 8", api: watch(8), bare: watchBare(8), once: true},
	{name: "watch event to one of 1,000", api: watch(1000), bare: watchBare(1000), once: true},
	{name: "memory, after all this", api: memory, once: true},
	{name: "deletecollection of 5,000 pods", api: deleteAll, once: true},
}

// aims are what we hold ourselves to, in terms of the CPU time of ours.
var aims = []struct {
	row, text string
	reached   func(m map[string]figure) bool
}{
	{"start to /readyz, empty etcd", "within 0.5 s", func(m map[string]figure) bool { return m["ours"].wall <= 500*time.Millisecond }},
	{"GET 1.7 KB, rv=0, 32 clients", "CPU within 30 µs of bare", func(m map[string]figure) bool { return m["ours"].cpu-m["bare"].cpu <= 30*time.Microsecond }},
	{"create ConfigMap 1 KB, 16 clients", "CPU with etcd at most 0.45 ms", func(m map[string]figure) bool { return m["ours"].cpu <= 450*time.Microsecond }},
	{"LIST 5,000 pods, fresh", "CPU within 1.3 × bare", within(1.3)},
	{"watch event to one of 1,000", "CPU within 1.5 × bare", within(1.5)},
	{"memory, 5,000 pods + 8,500 ConfigMaps", "at most 184 MiB, a third of upstream's 553", func(m map[string]figure) bool { return m["ours"].size <= 184 }},
	{"deletecollection of 5,000 pods", "at most 5 s", func(m map[string]figure) bool { return m["ours"].wall <= 5*time.Second }},
}

func within(times float64) func(map[string]figure) bool {
	return func(m map[string]figure) bool { return float64(m["ours"].cpu) <= times*float64(m["bare"].cpu) }
}

// BenchmarkTable measures and prints everything.
func BenchmarkTable(b *testing.B) {
	only := regexp.MustCompile(os.Getenv("BENCH_ONLY"))
	w := setUp(b)
	measured := map[string]map[string]figure{}
	before := loadAverage()
	for _, r := range rows {
		if !only.MatchString(r.name) {
			continue
		}
		measured[r.name] = w.measureRow(r)
	}
	fmt.Printf("\nmicroseconds per operation: wall, and CPU of server and etcd; load %s before, %s after, on %d processors\n",
		before, loadAverage(), processors())
	fmt.Printf("%-44s %18s %18s %18s %18s  %s\n", "", "ours", "bare", "etcd", "upstream", "ours ÷ bare, ÷ etcd, ÷ upstream (CPU)")
	for _, r := range rows {
		if m := measured[r.name]; m != nil {
			fmt.Printf("%-44s %18s %18s %18s %18s  %s\n", r.name, m["ours"], m["bare"], m["etcd"], m["upstream"], ratios(m))
		}
	}
	fmt.Println()
	for _, aim := range aims {
		if m := measured[aim.row]; m != nil {
			verdict := map[bool]string{true: "reached", false: "MISSED"}[aim.reached(m)]
			fmt.Printf("%-8s %s: %s\n", verdict, aim.row, aim.text)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// measureRow measures a row at every server, in turns.
func (w *world) measureRow(r row) map[string]figure {
	out := map[string]figure{}
	n := time.Duration(turns)
	if r.once || os.Getenv("BENCH_PROFILE") != "" {
		n = 1
	}
	w.slice = w.duration / n
	for range n {
		for s, measure := range map[*server]func(*world, *server) figure{w.bare: r.bare, w.etcd: r.store, w.ours: r.api, w.upstream: r.api} {
			if s != nil && measure != nil {
				f, sum := w.profiled(r.name, s, measure), out[s.name]
				out[s.name] = figure{wall: sum.wall + f.wall/n, cpu: sum.cpu + f.cpu/n, size: f.size}
			}
		}
	}
	return out
}

func ratios(m map[string]figure) string {
	var out []string
	for _, other := range []string{"bare", "etcd", "upstream"} {
		a, b := m["ours"], m[other]
		ratio := float64(a.cpu) / float64(b.cpu)
		if b.size > 0 {
			ratio = a.size / b.size
		}
		if math.IsNaN(ratio) || math.IsInf(ratio, 0) {
			out = append(out, fmt.Sprintf("%6s", "-"))
			continue
		}
		out = append(out, fmt.Sprintf("%5.2f×", ratio))
	}
	return strings.Join(out, " ")
}
