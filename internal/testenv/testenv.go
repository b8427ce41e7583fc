// Package testenv starts a real API server over a real etcd inside a test:
//
//	config := testenv.Start(t)             // an administrator's client.Config
//	c, err := client.New(config)
//
// Both run in the test's process, on a Unix socket and a loopback port, and
// end with the test. There is no fake client: what a test proves here, it
// proves about the wire.
package testenv

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"tinykube/apiserver"
	"tinykube/apiserver/storage"
	"tinykube/apiserver/storage/embedded"
	"tinykube/client"
	"tinykube/internal/etcdtest"
)

// startTimeout is for a machine that is busy with other things.
const startTimeout = 2 * time.Minute

// Env is a running API server and its etcd.
type Env struct {
	Config     *client.Config // system:masters
	Kubeconfig string         // the same, as a file for kubectl
	Dir        string         // certificates and data

	server apiserver.Config
	log    *slog.Logger

	mu         sync.Mutex // guards the rest: tests stop and start them
	etcdPID    int
	stopEtcd   func()
	stopServer func()
}

// Option changes the server's configuration before it starts.
type Option func(*apiserver.Config)

// Start runs etcd and an API server, and returns an administrator's config.
func Start(t testing.TB, options ...Option) *client.Config {
	t.Helper()
	return New(t, options...).Config
}

// New is Start for tests that need more than the config.
func New(t testing.TB, options ...Option) *Env {
	t.Helper()
	// Not t.TempDir: its long names are too long for a Unix socket.
	dir, err := os.MkdirTemp("", "tk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	e := &Env{Dir: dir, log: Logger(t), stopServer: func() {}, stopEtcd: func() {}}
	e.server = apiserver.Config{
		BindAddress: "127.0.0.1", CertDir: filepath.Join(dir, "pki"), AnonymousAuth: true, AllowPrivileged: true,
		AuthorizationModes: []string{"Node", "RBAC"}, EnabledAdmission: []string{"NodeRestriction"}, BootstrapToken: true,
		ServiceCIDR: "10.96.0.0/12", ShutdownTimeout: 50 * time.Millisecond,
		Storage: storage.Config{CompactionInterval: 5 * time.Minute, EventTTL: time.Hour},
	}
	for _, option := range options {
		option(&e.server)
	}
	t.Cleanup(func() {
		e.StopServer()
		e.KillEtcd()
	})
	e.StartEtcd(t)
	e.StartServer(t)
	e.Kubeconfig = filepath.Join(dir, "pki", apiserver.AdminKubeconfig)
	if e.Config, err = client.LoadKubeconfig(e.Kubeconfig); err != nil {
		t.Fatal(err)
	}
	return e
}

// Logger shows the log in the test's if TESTENV_LOG is set; it is long.
func Logger(t testing.TB) *slog.Logger {
	if os.Getenv("TESTENV_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// StartEtcd runs etcd, on the data of the one before if there was one. If the
// test binary can be an etcd (see etcdtest) it is a process of its own.
func (e *Env) StartEtcd(t testing.TB) {
	t.Helper()
	dir := filepath.Join(e.Dir, "e")
	var endpoint string
	var stop func()
	if etcdtest.Enabled() {
		process := etcdtest.Start(t, dir)
		endpoint, stop, e.etcdPID = process.Endpoint, process.Kill, process.PID()
	} else {
		etcd, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		endpoint, stop = etcd.Endpoint, etcd.Close
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopEtcd = stop
	e.server.Storage.Endpoints = []string{endpoint}
}

// EtcdEndpoint is where etcd serves, for tests that look behind the API.
func (e *Env) EtcdEndpoint() string { return e.server.Storage.Endpoints[0] }

// EtcdPID is etcd's process, or 0 if it is not one of its own.
func (e *Env) EtcdPID() int { return e.etcdPID }

// KillEtcd ends etcd, with -9 if it is a process; the API server has to cope.
func (e *Env) KillEtcd() {
	e.mu.Lock()
	stop := e.stopEtcd
	e.stopEtcd = func() {}
	e.mu.Unlock()
	stop()
}

// StartServer runs an API server and waits until it is ready. After the first
// time it keeps its port.
func (e *Env) StartServer(t testing.TB) {
	t.Helper()
	port, stop := e.run(t, e.server)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.server.SecurePort, e.stopServer = port, stop
}

// AnotherServer runs a second API server on the same etcd, with a port and
// certificates of its own, until it is stopped.
func (e *Env) AnotherServer(t testing.TB, options ...Option) (stop func()) {
	t.Helper()
	cfg := e.server
	cfg.SecurePort, cfg.CertDir = 0, filepath.Join(e.Dir, "other-pki")
	for _, option := range options {
		option(&cfg)
	}
	_, end := e.run(t, cfg)
	stop = sync.OnceFunc(end)
	t.Cleanup(stop)
	return stop
}

// run starts a server, and returns its port and how to stop it.
func (e *Env) run(t testing.TB, cfg apiserver.Config) (port int, stop func()) {
	t.Helper()
	server, err := apiserver.New(cfg, e.log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	select {
	case <-server.Ready():
	case err := <-done:
		cancel()
		t.Fatalf("API server ended: %v", err)
	case <-time.After(startTimeout):
		cancel()
		t.Fatalf("API server is not ready after %s", startTimeout)
	}
	address, err := server.Address(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return address.(*net.TCPAddr).Port, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("API server: %v", err)
		}
	}
}

// StopServer ends the API server; etcd keeps the data.
func (e *Env) StopServer() {
	e.mu.Lock()
	stop := e.stopServer
	e.stopServer = func() {}
	e.mu.Unlock()
	stop()
}
