package storage

import (
	"context"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// compactKey is where all API servers of a cluster agree who compacts.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/storage/etcd3/compact.go
const compactKey = "compact_rev_key"

// compact lets etcd forget, every interval, what is older than an interval.
// Several API servers race for it with a compare-and-swap on the version of
// compactKey; who loses takes over the winner's numbers.
func (s *Store) compact(ctx context.Context) error {
	if s.cfg.CompactionInterval <= 0 {
		return nil
	}
	var version, revision int64
	for {
		pause(ctx, s.cfg.CompactionInterval)
		if ctx.Err() != nil {
			return nil
		}
		var err error
		if version, revision, err = s.compactOnce(ctx, version, revision); err != nil && ctx.Err() == nil {
			s.log.Warn("Cannot compact etcd", "err", err)
		}
	}
}

// compactOnce compacts up to the revision noted one interval ago and notes the
// present one.
func (s *Store) compactOnce(ctx context.Context, version, revision int64) (int64, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	response, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Version(compactKey), "=", version)).
		Then(clientv3.OpPut(compactKey, strconv.FormatInt(revision, 10))).
		Else(clientv3.OpGet(compactKey)).Commit()
	if err != nil {
		return version, revision, err
	}
	current := response.Header.Revision
	if !response.Succeeded {
		kvs := response.Responses[0].GetResponseRange().Kvs
		if len(kvs) == 0 {
			return 0, current, nil
		}
		return kvs[0].Version, current, nil
	}
	if revision == 0 { // the first round only takes note
		return version + 1, current, nil
	}
	_, err = s.client.Compact(ctx, revision)
	if err == nil {
		s.log.Debug("Compacted etcd", "rv", revision)
	}
	return version + 1, current, err
}
