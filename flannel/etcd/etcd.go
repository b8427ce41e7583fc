package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"tinykube/flannel"
)

// Config is how to reach the etcd.
type Config struct {
	Endpoints                 []string
	Prefix                    string
	KeyFile, CertFile, CAFile string
	Username, Password        string
	// TTL is how long a subnet stays ours after our last word; a day if 0.
	TTL time.Duration
	// RenewMargin is how long before its end a lease is renewed.
	RenewMargin time.Duration
}

const (
	defaultTTL = 24 * time.Hour
	// patience bounds one request; retryInterval is the pause after a failure.
	patience      = 5 * time.Second
	retryInterval = time.Second
)

// Source is a flannel.Source.
type Source struct {
	config Config
	conf   *flannel.NetConf
	client *clientv3.Client
	log    *slog.Logger
}

// Open connects and waits until there is a network configuration.
func Open(ctx context.Context, config Config, log *slog.Logger) (*Source, *flannel.NetConf, error) {
	if config.TTL == 0 {
		config.TTL = defaultTTL
	}
	if config.RenewMargin <= 0 || config.RenewMargin >= config.TTL {
		return nil, nil, fmt.Errorf("the renewal margin %v is not between 0 and the lease's %v", config.RenewMargin, config.TTL)
	}
	config.Prefix = strings.TrimRight(config.Prefix, "/")
	var security *tls.Config
	if config.CertFile != "" || config.CAFile != "" {
		var err error
		security, err = transport.TLSInfo{CertFile: config.CertFile, KeyFile: config.KeyFile, TrustedCAFile: config.CAFile}.ClientConfig()
		if err != nil {
			return nil, nil, fmt.Errorf("etcd's certificates: %w", err)
		}
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: config.Endpoints, TLS: security, Username: config.Username, Password: config.Password, Logger: zap.NewNop()})
	if err != nil {
		return nil, nil, fmt.Errorf("etcd: %w", err)
	}
	s := &Source{config: config, client: client, log: log}
	err = s.insist(ctx, "Waiting for the network configuration", func(ctx context.Context) error {
		answer, err := client.Get(ctx, config.Prefix+"/config")
		if err == nil && len(answer.Kvs) == 0 {
			err = fmt.Errorf("etcd has no key %s/config", config.Prefix)
		}
		if err == nil {
			s.conf, err = flannel.ParseEtcdNetConf(answer.Kvs[0].Value)
		}
		return err
	})
	return s, s.conf, err
}

// Close ends the connection. Our subnet stays ours until its lease ends.
func (s *Source) Close() error { return s.client.Close() }

// insist tries until it works, and says why it does not, once per reason.
func (s *Source) insist(ctx context.Context, what string, try func(context.Context) error) error {
	ticker := time.NewTicker(retryInterval)
	defer ticker.Stop()
	for last := ""; ; {
		bounded, cancel := context.WithTimeout(ctx, patience)
		err := try(bounded)
		cancel()
		if err == nil {
			return nil
		}
		if err.Error() != last && ctx.Err() == nil {
			last = err.Error()
			s.log.Warn(what, "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// Mine takes a subnet: the one that is ours already by our address, or the one
// that we had before, or one of those that are free.
func (s *Source) Mine(ctx context.Context, self flannel.Lease) (mine flannel.Lease, err error) {
	if !self.PublicIP.IsValid() {
		return mine, errors.New("no interface with a default route on this node, and a subnet in etcd belongs to an address: choose one with --iface or --public-ip")
	}
	if self.VTEP.IsZero() {
		self.VTEP = flannel.MACOf(self.PublicIP)
	}
	err = s.insist(ctx, "Waiting for a subnet", func(ctx context.Context) error {
		taken, _, err := s.list(ctx)
		if err != nil {
			return err
		}
		for _, r := range taken {
			if r.PublicIP != self.PublicIP {
				continue
			}
			if s.conf.Fits(r.Subnet) {
				mine = r.Lease
				mine.Backend = self.Backend
				return nil
			}
			s.log.Info("Giving back a subnet that does not fit the configuration", "subnet", r.Subnet)
			if _, err := s.client.Delete(ctx, s.key(r.Lease)); err != nil {
				return err
			}
		}
		mine = self
		if mine.Subnet, err = choose(s.conf, self.Subnet, slices.Collect(maps.Values(taken))); err != nil {
			return err
		}
		mine.Node = subnetKey(mine.Subnet)
		return s.create(ctx, mine)
	})
	return mine, err
}

func (s *Source) key(l flannel.Lease) string {
	return s.config.Prefix + "/subnets/" + subnetKey(l.Subnet)
}

var errTaken = errors.New("somebody else was faster; trying another subnet")

// create is the transaction that makes two nodes with one subnet impossible.
func (s *Source) create(ctx context.Context, l flannel.Lease) error {
	lease, err := s.client.Grant(ctx, int64(s.config.TTL/time.Second))
	if err != nil {
		return err
	}
	key := s.key(l)
	answer, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", 0)).
		Then(clientv3.OpPut(key, encode(l, s.conf.Backend.VNI), clientv3.WithLease(lease.ID))).Commit()
	if err == nil && !answer.Succeeded {
		err = errTaken
	}
	if err != nil {
		_, _ = s.client.Revoke(ctx, lease.ID) // or it ends by itself
	}
	return err
}

// Publish writes what others must know, and prolongs our lease. A lease that was
// lost is taken again, unless somebody else has it now.
func (s *Source) Publish(ctx context.Context, mine flannel.Lease) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := s.client.Get(ctx, s.key(mine))
	if err != nil {
		return err
	}
	if len(answer.Kvs) == 0 {
		s.log.Warn("Our lease was lost; taking the subnet again", "subnet", mine.Subnet)
		return s.create(ctx, mine)
	}
	kv := answer.Kvs[0]
	r, err := decode(kv)
	if err == nil && r.PublicIP != mine.PublicIP {
		return fmt.Errorf("%w: %s belongs to %s now", flannel.ErrMoved, mine.Subnet, r.PublicIP)
	}
	if err == nil && r.etcdLease != 0 {
		if _, err := s.client.KeepAliveOnce(ctx, r.etcdLease); err != nil {
			return err
		}
	}
	if err == nil && r.Lease == mine {
		return nil
	}
	// Only over what we have read: the lease may end in this moment.
	put := clientv3.OpPut(s.key(mine), encode(mine, s.conf.Backend.VNI), clientv3.WithIgnoreLease())
	_, err = s.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(s.key(mine)), "=", kv.ModRevision)).Then(put).Commit()
	return err
}

// Watch follows all subnets, and renews ours in time.
func (s *Source) Watch(ctx context.Context, changed func([]flannel.Lease)) error {
	for ctx.Err() == nil {
		var known map[string]reservation
		var revision int64
		if err := s.insist(ctx, "Waiting for the list of subnets", func(ctx context.Context) (err error) {
			known, revision, err = s.list(ctx)
			return err
		}); err != nil {
			return nil // ctx has ended
		}
		changed(leases(known))
		if err := s.follow(ctx, known, revision+1, changed); err != nil && ctx.Err() == nil {
			s.log.Warn("The watch of subnets ended; listing them again", "err", err)
		}
	}
	return nil
}

// follow is one watch, until it breaks: by a compaction, or a leader that is lost.
func (s *Source) follow(ctx context.Context, known map[string]reservation, from int64, changed func([]flannel.Lease)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := s.client.Watch(clientv3.WithRequireLeader(ctx), s.config.Prefix+"/subnets/", clientv3.WithPrefix(), clientv3.WithRev(from))
	for answer := range events {
		if err := answer.Err(); err != nil {
			return err
		}
		for _, event := range answer.Events {
			key := string(event.Kv.Key)
			delete(known, key)
			if event.Type != clientv3.EventTypePut {
				continue
			}
			if r, err := decode(event.Kv); err == nil {
				known[key] = r
			} else {
				s.log.Warn("Left a subnet out", "key", key, "err", err)
			}
		}
		changed(leases(known))
	}
	return nil
}

// Renewal is how often Publish must be called to keep the lease.
func (s *Source) Renewal() time.Duration { return s.config.TTL - s.config.RenewMargin }

// list reads all subnets and tells the revision at which they were so.
func (s *Source) list(ctx context.Context) (map[string]reservation, int64, error) {
	answer, err := s.client.Get(ctx, s.config.Prefix+"/subnets/", clientv3.WithPrefix())
	if err != nil {
		return nil, 0, err
	}
	found := map[string]reservation{}
	for _, kv := range answer.Kvs {
		r, err := decode(kv)
		if err != nil {
			s.log.Warn("Left a subnet out", "key", string(kv.Key), "err", err)
			continue
		}
		found[string(kv.Key)] = r
	}
	return found, answer.Header.Revision, nil
}

func leases(known map[string]reservation) (list []flannel.Lease) {
	for _, key := range slices.Sorted(maps.Keys(known)) {
		list = append(list, known[key].Lease)
	}
	return list
}
