// Package embedded runs a whole etcd inside the API server's process, for when
// the API server is started alone: the same etcd, the same protocol, over a
// Unix socket that only its owner may open.
//
//	kube-apiserver ── client ── unix:///<dir>/client.sock ── etcd server ── <dir>/member
//
// It is one member and will never be more: a cluster's etcd is a program of
// its own.
package embedded

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// startTimeout bounds the replay of etcd's log.
const startTimeout = time.Minute

// Etcd is a running embedded etcd.
type Etcd struct {
	Endpoint string // for a client
	server   *embed.Etcd
}

// Config says where etcd keeps its data.
type Config struct {
	Dir string
	// NoSync leaves writes in the page cache. A crash of the machine loses
	// data; a crash of the process does not. For tests.
	NoSync bool
}

// Start runs etcd on the data in a directory and returns when it serves.
func Start(ctx context.Context, c Config) (*Etcd, error) {
	dir := c.Dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd's data directory: %w", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.UnsafeNoFsync = c.NoSync
	cfg.Name = "embedded"
	cfg.LogLevel = "fatal" // what matters comes back as an error
	cfg.LogOutputs = []string{"stderr"}
	// The flag's default, which a configuration made by hand has not got; for
	// zero, every request counts as slow and is put into words.
	cfg.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	client, peer := socket(dir, "client.sock"), socket(dir, "peer.sock")
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{client}, []url.URL{peer}
	// etcd insists on a host and port that others could dial. Nobody does.
	cfg.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2379"}}
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.WatchProgressNotifyInterval = 5 * time.Second
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s: %w", dir, err)
	}
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	select {
	case <-server.Server.ReadyNotify():
		return &Etcd{Endpoint: client.String(), server: server}, nil
	case err = <-server.Err():
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = fmt.Errorf("not ready after %s", startTimeout)
	}
	server.Close()
	return nil, fmt.Errorf("start etcd in %s: %w", dir, err)
}

// Failed reports an error that ended etcd.
func (e *Etcd) Failed() <-chan error { return e.server.Err() }

// Close stops etcd and waits for it.
func (e *Etcd) Close() { e.server.Close() }

func socket(dir, name string) url.URL { return url.URL{Scheme: "unix", Path: filepath.Join(dir, name)} }
