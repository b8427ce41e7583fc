package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/validation"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// pluginRegistry finds drivers by the sockets of their registrars in
// <root>/plugins_registry, and keeps the node's objects in line with them.
//
//	socket appears ─▶ GetInfo ─▶ NodeGetInfo (of the driver) ─▶ CSINode, node labels
//	                                                 ─▶ NotifyRegistrationStatus
//	socket is gone ─▶ out of CSINode
//
// The directory is the truth: it is compared with what is known every time
// anything happens in it, and now and then. A socket that nobody answers, or
// that is something else's, is tried again, more and more rarely; it holds up
// no other.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/pluginmanager.
type pluginRegistry struct {
	dir   string
	watch bool // inotify beside the periodic look
	log   *slog.Logger
	// install and uninstall tell the API.
	install   func(context.Context, csiDriver) error
	uninstall func(ctx context.Context, driver string) error

	changed chan struct{} // capacity 1

	mu      sync.Mutex // guards sockets and what is in them
	sockets map[string]*pluginSocket
}

// pluginSocket is a registrar's, by its path.
type pluginSocket struct {
	made     socketIdentity
	busy     bool // somebody talks to it
	tried    bool
	failures int
	again    time.Time
	driver   string // empty: not registered
	endpoint string
	said     csiDriver // what was told to the API
}

// socketIdentity tells a socket from one that is made later at the same path.
type socketIdentity struct {
	inode   uint64
	changed syscall.Timespec
}

// csiDriver is what a driver says of itself and of this node.
type csiDriver struct {
	name, nodeID string
	maxVolumes   int64
	topology     map[string]string
}

const (
	registryPeriod  = 2 * time.Second
	registryTimeout = 10 * time.Second
	registryMaxWait = 2 * time.Minute
)

// endpoint is where a registered driver listens.
func (p *pluginRegistry) endpoint(driver string) (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sockets {
		if s.driver == driver {
			return s.endpoint, true
		}
	}
	return "", false
}

// drivers are those that are registered, as they introduced themselves.
func (p *pluginRegistry) drivers() (out []csiDriver) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sockets {
		if s.driver != "" {
			out = append(out, s.said)
		}
	}
	return out
}

// run looks until ctx ends.
func (p *pluginRegistry) run(ctx context.Context) error {
	// Drivers' manifests expect these to be there.
	for _, dir := range []string{p.dir, filepath.Join(filepath.Dir(p.dir), "plugins"), filepath.Join(filepath.Dir(p.dir), "pods")} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	talks, ctx := errgroup.WithContext(ctx)
	if p.watch {
		talks.Go(func() error { return p.follow(ctx) })
	}
	ticker := time.NewTicker(registryPeriod)
	defer ticker.Stop()
	for {
		p.compare(ctx, talks)
		select {
		case <-ctx.Done():
			return talks.Wait()
		case <-p.changed:
		case <-ticker.C:
		}
	}
}

// follow makes the registry look as soon as a socket appears. Without it, it
// looks a little later.
func (p *pluginRegistry) follow(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		p.log.Warn("plugins are looked for from time to time only", "err", err)
		return nil
	}
	defer watcher.Close()
	if err := watcher.Add(p.dir); err != nil {
		p.log.Warn("plugins are looked for from time to time only", "err", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-watcher.Events:
			if !open {
				return nil
			}
			touch(p.changed)
		case <-watcher.Errors: // the next look finds what was lost
		}
	}
}

// compare begins what is to be done for each socket that came, went, or failed
// some time ago.
func (p *pluginRegistry) compare(ctx context.Context, talks *errgroup.Group) {
	found := pluginSockets(p.dir)
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, made := range found {
		if s := p.sockets[path]; s == nil {
			p.sockets[path] = &pluginSocket{made: made}
		} else if s.made != made && !s.busy { // its registrar was started anew
			s.made, s.tried, s.failures, s.again = made, false, 0, time.Time{}
		}
	}
	for path, s := range p.sockets {
		_, exists := found[path]
		if s.busy || now.Before(s.again) || exists && s.tried && s.failures == 0 {
			continue
		}
		s.busy = true
		talks.Go(func() error {
			if exists {
				p.settle(path, p.register(ctx, path), ctx)
			} else if err := p.forget(ctx, path); err != nil {
				p.settle(path, err, ctx)
			}
			return nil
		})
	}
}

// settle notes how a conversation ended.
func (p *pluginRegistry) settle(path string, err error, ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sockets[path]
	s.busy, s.tried = false, true
	if err == nil {
		s.failures = 0
		return
	}
	if s.failures == 0 && ctx.Err() == nil { // once: a stale socket may lie there for years
		p.log.Warn("plugin not registered", "key", path, "err", err)
	}
	s.again = time.Now().Add(min(retryBase<<min(s.failures, 10), registryMaxWait))
	s.failures++
}

// forget takes a driver out whose registrar is gone, unless another one
// registered it too.
func (p *pluginRegistry) forget(ctx context.Context, path string) error {
	p.mu.Lock()
	driver := p.sockets[path].driver
	p.sockets[path].driver = ""
	p.mu.Unlock()
	if _, other := p.endpoint(driver); driver != "" && !other {
		p.log.Info("driver unregistered", "key", driver)
		if err := p.uninstall(ctx, driver); err != nil {
			p.mu.Lock()
			p.sockets[path].driver = driver
			p.mu.Unlock()
			return fmt.Errorf("Error uninstalling CSI driver: %w", err)
		}
	}
	p.mu.Lock()
	delete(p.sockets, path)
	p.mu.Unlock()
	touch(p.changed)
	return nil
}

// register talks to a registrar. What it is told is what it prints before it
// gives up, so it is told all.
func (p *pluginRegistry) register(ctx context.Context, path string) error {
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("RegisterPlugin error -- dial failed at socket %s, err: %w", path, err)
	}
	defer conn.Close()
	client := registration.NewRegistrationClient(conn)
	callCtx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	info, err := client.GetInfo(callCtx, &registration.InfoRequest{})
	if err != nil {
		return fmt.Errorf("RegisterPlugin error -- failed to get plugin info using RPC GetInfo at socket %s, err: %w", path, err)
	}
	endpoint := cmp.Or(info.Endpoint, path)
	var driver csiDriver
	if err = checkPlugin(info, path); err == nil {
		driver, err = p.introduce(ctx, info.Name, endpoint)
	}
	if err == nil {
		err = p.adopt(ctx, path, driver, endpoint)
	}
	answer := &registration.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		answer.Error = err.Error()
	}
	notifyCtx, cancelNotify := context.WithTimeout(ctx, registryTimeout)
	defer cancelNotify()
	if _, failed := client.NotifyRegistrationStatus(notifyCtx, answer); failed != nil {
		return errors.Join(err, fmt.Errorf("RegisterPlugin error -- failed to send registration status at socket %s, err: %w", path, failed))
	}
	if err == nil {
		p.log.Info("driver registered", "key", info.Name, "endpoint", endpoint)
	}
	return err
}

// checkPlugin says why a plugin cannot be one of ours.
func checkPlugin(info *registration.PluginInfo, path string) error {
	if info.Type != registration.CSIPlugin {
		return fmt.Errorf("RegisterPlugin error -- no handler registered for plugin type: %s at socket %s", info.Type, path)
	}
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("RegisterPlugin error -- plugin validation failed with err: "+format, args...)
	}
	// The name becomes a directory, and part of objects' names.
	if problems := validation.IsDNS1123Subdomain(strings.ToLower(info.Name)); len(problems) > 0 || len(info.Name) > 63 {
		return invalid("%q is not a CSI driver's name: %s", info.Name, strings.Join(problems, ", "))
	}
	if len(info.SupportedVersions) == 0 {
		return invalid("CSI driver %q failed. Plugin returned an empty list for supported versions", info.Name)
	}
	for _, version := range info.SupportedVersions {
		major, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
		if number, err := strconv.Atoi(major); err == nil && number == 1 {
			return nil
		}
	}
	return invalid("CSI driver %q failed. None of the versions specified %q are supported", info.Name, info.SupportedVersions)
}

// introduce asks the driver who this node is to it, and tells the API.
func (p *pluginRegistry) introduce(ctx context.Context, name, endpoint string) (driver csiDriver, err error) {
	client, err := dialCSI(endpoint)
	if err != nil {
		return driver, err
	}
	defer client.close()
	callCtx, cancel := context.WithTimeout(ctx, csiTimeout)
	defer cancel()
	node, err := client.NodeGetInfo(callCtx, &csi.NodeGetInfoRequest{})
	if err == nil && node.NodeId == "" {
		err = errors.New("node ID is empty")
	}
	driver = csiDriver{name: name, nodeID: node.GetNodeId(), maxVolumes: node.GetMaxVolumesPerNode(),
		topology: node.GetAccessibleTopology().GetSegments()}
	if err == nil {
		err = p.install(callCtx, driver)
	}
	if err != nil {
		return driver, fmt.Errorf("RegisterPlugin error -- plugin registration failed with err: %w", err)
	}
	return driver, nil
}

// adopt makes the driver the one behind the socket. If another was, that one is
// gone.
func (p *pluginRegistry) adopt(ctx context.Context, path string, driver csiDriver, endpoint string) error {
	p.mu.Lock()
	s := p.sockets[path]
	before := s.driver
	s.driver, s.endpoint, s.said = driver.name, endpoint, driver
	p.mu.Unlock()
	if _, other := p.endpoint(before); before == "" || other {
		return nil
	}
	return p.uninstall(ctx, before)
}

// pluginSockets finds the sockets at and below dir. What begins with a dot is
// not finished yet, or not meant for us.
func pluginSockets(dir string) map[string]socketIdentity {
	out := map[string]socketIdentity{}
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil: // what cannot be read has no sockets
			return nil
		case path != dir && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case entry.Type() != fs.ModeSocket:
			return nil
		}
		if info, err := entry.Info(); err == nil {
			stat := info.Sys().(*syscall.Stat_t)
			out[path] = socketIdentity{stat.Ino, stat.Ctim}
		}
		return nil
	})
	return out
}
