package storage

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Several API servers know of each other by etcd alone: each keeps a key with
// its address under a lease, and renews it; the key of one that has died goes by
// itself. What is there is who can be reached.
//
//	/registry/masterleases/172.30.9.1     an Endpoints object, 15 s
//
// Upstream: kubernetes@v1.36 pkg/controlplane/reconcilers/lease.go

const (
	presencePrefix = "masterleases"
	// presenceTTL outlives one missed renewal.
	presenceTTL = 15 * time.Second
)

func (s *Store) presenceKey(address string) string {
	return path.Join(s.cfg.Prefix, presencePrefix) + "/" + address
}

// Announce says for a while that an API server is at an address.
func (s *Store) Announce(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	value, err := EncodeJSON(&corev1.Endpoints{Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: address}}}}},
		schema.GroupVersionKind{Version: "v1", Kind: "Endpoints"})
	if err != nil {
		return err
	}
	lease, err := s.client.Grant(ctx, int64(presenceTTL.Seconds()))
	if err != nil {
		return writeError(err)
	}
	if _, err := s.client.Put(ctx, s.presenceKey(address), string(value), clientv3.WithLease(lease.ID)); err != nil {
		return writeError(err)
	}
	return nil
}

// Announced are the addresses of all API servers that are there, in order.
func (s *Store) Announced(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	prefix := s.presenceKey("")
	response, err := s.client.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, readError(err)
	}
	var addresses []string
	for _, kv := range response.Kvs {
		addresses = append(addresses, strings.TrimPrefix(string(kv.Key), prefix))
	}
	slices.Sort(addresses)
	return addresses, nil
}

// Withdraw takes an address back at once.
func (s *Store) Withdraw(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	if _, err := s.client.Delete(ctx, s.presenceKey(address)); err != nil {
		return writeError(err)
	}
	return nil
}
