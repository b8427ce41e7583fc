package storage

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/apiserver/resources"
)

// Config says where etcd is and how we use it.
type Config struct {
	Endpoints                 []string // https://127.0.0.1:2379, unix:///path
	CAFile, CertFile, KeyFile string   // mutual TLS, if set
	Prefix                    string   // upstream's --etcd-prefix; "" means /registry
	MediaType                 string   // of what is written; "" means JSON
	Timeout                   time.Duration
	CompactionInterval        time.Duration // 0 never compacts
	EventTTL                  time.Duration // how long Events live; 0 means for ever
	Encryption                *Encryption   // of what is stored; nil means none
}

const (
	defaultPrefix = "/registry"
	// defaultTimeout bounds every call to etcd. It is longer than an etcd
	// election and shorter than a client's patience.
	defaultTimeout = 10 * time.Second
)

// Store is the API server's one door to etcd: a Table for every stored row and
// the freshness barrier they share.
type Store struct {
	cfg     Config
	log     *slog.Logger
	barrier barrier
	ready   chan struct{}
	attach  chan attachment // tables that begin while the store runs

	mu     sync.RWMutex // guards tables
	tables map[schema.GroupResource]*Table

	requests *requestMetrics
	names    map[string][2]string // group and resource of the built-in tables, by prefix

	// client is set by Run before ready closes, and never after.
	client *clientv3.Client

	leases leases
}

// New makes a store with a table for every stored row. It does not touch etcd.
func New(cfg Config, rows []*resources.Row, log *slog.Logger) (*Store, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("storage: no etcd endpoints")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = defaultPrefix
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	switch cfg.MediaType {
	case "":
		cfg.MediaType = JSONMediaType
	case JSONMediaType, ProtobufMediaType:
	default:
		return nil, fmt.Errorf("storage: media type %q is neither %s nor %s", cfg.MediaType, JSONMediaType, ProtobufMediaType)
	}
	s := &Store{cfg: cfg, log: log, tables: map[schema.GroupResource]*Table{}, ready: make(chan struct{}), attach: make(chan attachment), requests: newRequestMetrics(), names: map[string][2]string{}}
	s.barrier.kick = make(chan struct{}, 1)
	for _, row := range rows {
		if row.Stored() && row.StoredAs == nil {
			s.tables[row.GVR().GroupResource()] = newTable(s, row)
			s.names[row.Prefix] = [2]string{row.Group, row.Plural}
		}
	}
	return s, nil
}

// Table returns the table of a row, or nil for rows that are not stored. A
// view's table is that of the row it shows.
func (s *Store) Table(row *resources.Row) *Table {
	name := row.GVR().GroupResource()
	if row.StoredAs != nil {
		name = row.StoredAs.GroupResource()
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.tables[name]
}

// Ready is closed when every table has been read once.
func (s *Store) Ready() <-chan struct{} { return s.ready }

// Run connects, follows etcd until ctx ends, and keeps the history short.
func (s *Store) Run(ctx context.Context) error {
	client, err := s.connect()
	if err != nil {
		return fmt.Errorf("connect to etcd: %w", err)
	}
	defer client.Close()
	s.client = client
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.runBarrier(ctx) })
	group.Go(func() error { return s.compact(ctx) })
	builtIn := slices.Collect(maps.Values(s.tables)) // nobody attaches before we are ready
	for _, table := range builtIn {
		group.Go(func() error { return table.follow(ctx) })
	}
	group.Go(func() error { return s.attachTables(ctx, group) })
	group.Go(func() error {
		for _, table := range builtIn {
			select {
			case <-table.synced:
			case <-ctx.Done():
				return nil
			}
		}
		close(s.ready)
		return nil
	})
	return group.Wait()
}

func (s *Store) connect() (*clientv3.Client, error) {
	var tlsConfig *tls.Config
	if s.cfg.CAFile != "" || s.cfg.CertFile != "" {
		info := transport.TLSInfo{TrustedCAFile: s.cfg.CAFile, CertFile: s.cfg.CertFile, KeyFile: s.cfg.KeyFile}
		var err error
		if tlsConfig, err = info.ClientConfig(); err != nil {
			return nil, err
		}
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            s.cfg.Endpoints,
		TLS:                  tlsConfig,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		Logger:               zap.NewNop(), // what etcd says reaches us as errors
		// gRPC's own patience with a server that is away grows to two minutes.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}), grpc.WithChainUnaryInterceptor(s.observe)},
	})
}

// Ping asks etcd for a linearizable read: the health check.
func (s *Store) Ping(ctx context.Context) error {
	_, err := s.barrier.wait(ctx)
	return err
}
