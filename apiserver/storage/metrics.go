package storage

import (
	"context"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// The storage's figures, under upstream's names. What the cache knows is read
// when somebody asks; only requests to etcd are counted as they happen, in one
// place: the connection.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/storage/etcd3/metrics

var (
	byResource = []string{"group", "resource"}

	objectsDesc  = prometheus.NewDesc("apiserver_storage_objects", "Number of stored objects.", []string{"resource"}, nil)
	countDesc    = prometheus.NewDesc("apiserver_resource_objects", "Number of stored objects.", byResource, nil)
	sizeDesc     = prometheus.NewDesc("apiserver_resource_size_estimate_bytes", "Size of the stored objects, estimated from some of them.", byResource, nil)
	receivedDesc = prometheus.NewDesc("apiserver_watch_cache_events_received_total", "Events that the watch cache has seen.", byResource, nil)
	revisionDesc = prometheus.NewDesc("apiserver_watch_cache_resource_version", "The revision up to which the watch cache knows everything.", byResource, nil)
	databaseDesc = prometheus.NewDesc("apiserver_storage_size_bytes", "Size of etcd's database file.", []string{"storage_cluster_id"}, nil)
)

const (
	// sizeSample is how many objects are measured for an estimate.
	sizeSample = 100
	// statusPatience bounds the question to etcd when figures are read.
	statusPatience = 2 * time.Second
)

// requestMetrics count requests to etcd.
type requestMetrics struct {
	requests, errors *prometheus.CounterVec
	seconds          *prometheus.HistogramVec

	found sync.Map // [3]string, the labels → *requestFigures: looking costs more than counting
}

// requestFigures are those of one kind of request.
type requestFigures struct {
	requests prometheus.Counter
	seconds  prometheus.Observer
}

func (m *requestMetrics) of(operation, group, resource string) *requestFigures {
	labels := [3]string{operation, group, resource}
	found, ok := m.found.Load(labels)
	if !ok {
		found, _ = m.found.LoadOrStore(labels, &requestFigures{m.requests.WithLabelValues(labels[:]...), m.seconds.WithLabelValues(labels[:]...)})
	}
	return found.(*requestFigures)
}

func newRequestMetrics() *requestMetrics {
	labels := []string{"operation", "group", "resource"}
	return &requestMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_requests_total", Help: "Requests to etcd."}, labels),
		errors:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_request_errors_total", Help: "Requests to etcd that failed."}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "etcd_request_duration_seconds", Help: "Time that requests to etcd took.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}}, labels),
	}
}

// observe is a gRPC interceptor.
func (s *Store) observe(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	start := time.Now()
	err := invoke(ctx, method, request, reply, conn, options...)
	operation, key := describe(request)
	if operation == "" {
		return err
	}
	group, resource := s.resourceOf(key)
	figures := s.requests.of(operation, group, resource)
	figures.requests.Inc()
	figures.seconds.Observe(time.Since(start).Seconds())
	if err != nil {
		s.requests.errors.WithLabelValues(operation, group, resource).Inc()
	}
	return err
}

// describe says what a request does, and to which key.
func describe(request any) (operation, key string) {
	switch r := request.(type) {
	case *etcdserverpb.RangeRequest:
		if len(r.RangeEnd) > 0 {
			return "list", string(r.Key)
		}
		return "get", string(r.Key)
	case *etcdserverpb.TxnRequest:
		if len(r.Compare) == 0 || len(r.Success) == 0 {
			return "", ""
		}
		first := r.Compare[0]
		switch {
		case r.Success[0].GetRequestDeleteRange() != nil:
			operation = "delete"
		case first.GetModRevision() == 0 && first.GetCreateRevision() == 0:
			operation = "create"
		default:
			operation = "update"
		}
		return operation, string(first.Key)
	}
	return "", ""
}

// resourceOf finds the table of a key. Prefixes are one or two words long.
func (s *Store) resourceOf(key string) (group, resource string) {
	rest, ok := strings.CutPrefix(key, strings.TrimSuffix(s.cfg.Prefix, "/")+"/")
	if !ok {
		return "", ""
	}
	first, rest, _ := strings.Cut(rest, "/")
	second, _, _ := strings.Cut(rest, "/")
	for _, prefix := range []string{first + "/" + second, first} {
		if name, ok := s.names[prefix]; ok {
			return name[0], name[1]
		}
	}
	if strings.Contains(first, ".") { // a custom resource: its group comes first
		return first, second
	}
	return "", first
}

// Describe makes a Store a collector whose figures are what Collect finds.
func (s *Store) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{objectsDesc, countDesc, sizeDesc, receivedDesc, revisionDesc, databaseDesc} {
		out <- desc
	}
	s.requests.requests.Describe(out)
	s.requests.errors.Describe(out)
	s.requests.seconds.Describe(out)
}

// Collect reads the figures.
func (s *Store) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	s.requests.requests.Collect(out)
	s.requests.errors.Collect(out)
	s.requests.seconds.Collect(out)
	select {
	case <-s.ready:
	default:
		return
	}
	s.mu.RLock()
	tables := maps.Clone(s.tables)
	s.mu.RUnlock()
	for gr, table := range tables {
		figures := table.figures()
		gauge(objectsDesc, float64(figures.count), gr.String())
		gauge(countDesc, float64(figures.count), gr.Group, gr.Resource)
		gauge(sizeDesc, figures.bytes, gr.Group, gr.Resource)
		gauge(revisionDesc, float64(figures.revision), gr.Group, gr.Resource)
		out <- prometheus.MustNewConstMetric(receivedDesc, prometheus.CounterValue, float64(figures.events), gr.Group, gr.Resource)
	}
	ctx, cancel := context.WithTimeout(context.Background(), statusPatience)
	defer cancel()
	if status, err := s.client.Status(ctx, s.cfg.Endpoints[0]); err == nil {
		gauge(databaseDesc, float64(status.DbSize), "etcd-0")
	}
}

// figures are a table's.
type figures struct {
	count    int
	bytes    float64
	events   uint64
	revision int64
}

func (t *Table) figures() figures {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := figures{count: t.tree.Len(), events: t.events.end(), revision: t.revision}
	measured, size := 0, 0
	t.tree.Ascend(func(item *Item) bool {
		measured++
		size += len(item.JSON())
		return measured < sizeSample
	})
	if measured > 0 {
		f.bytes = float64(size) / float64(measured) * float64(f.count)
	}
	return f
}

// Count is how many objects the cache has.
func (t *Table) Count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tree.Len()
}
