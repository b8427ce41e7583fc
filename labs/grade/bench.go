package grade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"tinykube/apiserver/storage/embedded"
	"tinykube/client"
)

const (
	startTimeout = time.Minute
	poll         = 20 * time.Millisecond
)

// bench is what stands on the table while checks run: the reader's programs
// and what they need.
type bench struct {
	scratch, bin string
	door         *door
	// straight talks to the API server beside etcd, behind to the one on the
	// other side of the door.
	straight, behind *client.Client
	config           *client.Config // of straight
	etcd             *embedded.Etcd
	users            int    // made up so far
	before           []told // happened before the API server behind was started
	wire             *wire
	manager          *process // the reader's, on the other side of the wire
	metrics          string   // its URL
	markers          int      // made so far
	ward             *ward    // the reader's kubelet, and our runtime
	plugin           *plugin  // the reader's CSI driver
	attaches         bool     // manager is the one of the second half of lab 22

	closers []func()
}

// close takes everything away, the last thing first.
func (b *bench) close() {
	for i := len(b.closers) - 1; i >= 0; i-- {
		b.closers[i]()
	}
}

// startEtcd starts the store, which is never the reader's.
func (b *bench) startEtcd(ctx context.Context) (err error) {
	b.etcd, err = embedded.Start(ctx, embedded.Config{Dir: filepath.Join(b.scratch, "etcd"), NoSync: true})
	if err == nil {
		b.closers = append(b.closers, b.etcd.Close)
	}
	return err
}

// oneServer starts an etcd and an API server on it.
func (b *bench) oneServer(ctx context.Context) error {
	if err := b.startEtcd(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var err error
	b.straight, b.config, err = b.apiserver(ctx, "straight", b.etcd.Endpoint)
	return err
}

// twoServers starts one etcd and two API servers on it, the second behind a
// door.
func (b *bench) twoServers(ctx context.Context) error {
	err := b.startEtcd(ctx)
	if err != nil {
		return err
	}
	if b.door, err = openDoor(strings.TrimPrefix(b.etcd.Endpoint, "unix://")); err != nil {
		return err
	}
	b.closers = append(b.closers, b.door.close)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	servers, ctx := errgroup.WithContext(ctx)
	servers.Go(func() (err error) {
		b.straight, b.config, err = b.apiserver(ctx, "straight", b.etcd.Endpoint)
		return err
	})
	servers.Go(func() (err error) {
		b.behind, _, err = b.apiserver(ctx, "behind", b.door.endpoint())
		return err
	})
	return servers.Wait()
}

// apiserver starts the reader's API server on an etcd and waits until it has
// what checks need. That is less than being ready, which takes updates.
func (b *bench) apiserver(ctx context.Context, name, endpoint string) (*client.Client, *client.Config, error) {
	dir := filepath.Join(b.scratch, name)
	server, err := b.start("kube-apiserver", dir, "--bind-address=127.0.0.1", "--secure-port=0", "--etcd-servers="+endpoint, "--etcd-data-dir="+dir)
	if err != nil {
		return nil, nil, err
	}
	var api *client.Client
	var config *client.Config
	err = server.until(ctx, func() (err error) {
		if config, err = client.LoadKubeconfig(filepath.Join(dir, "pki", "admin.conf")); err != nil {
			return err
		}
		if api, err = client.New(config); err != nil {
			return err
		}
		return serves(ctx, api)
	})
	return api, config, err
}

// process is a program of the reader's.
type process struct {
	command *exec.Cmd
	dir     string
	ended   chan struct{}
	err     error // of its end, once ended is closed
}

// start starts a program in a folder of its own, until the bench is closed.
func (b *bench) start(program, dir string, args ...string) (*process, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{command: exec.Command(filepath.Join(b.bin, program), args...), dir: dir, ended: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = log, log
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() { // joined by the closer
		p.err = p.command.Wait()
		close(p.ended)
	}()
	b.closers = append(b.closers, func() {
		p.command.Process.Kill()
		<-p.ended
	})
	return p, nil
}

// until looks until there is nothing wrong any more; the last thing that was
// is the error. It does not wait for a program that has ended.
func (p *process) until(ctx context.Context, wrong func() error) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		err := wrong()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended: %v\n%s", filepath.Base(p.command.Path), p.err, said(p.dir))
		case <-ctx.Done():
			return fmt.Errorf("%w (at the end of our patience; the log of %s ends with:\n%s)", err, filepath.Base(p.command.Path), said(p.dir))
		case <-ticker.C:
		}
	}
}

// said is the end of a program's log, or how it came to its end.
func said(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "panic:") }); i >= 0 {
		return lines[i]
	}
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// serves looks for a namespace to work in.
func serves(ctx context.Context, api *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := client.For(api, client.Namespaces).Get(ctx, "", namespace)
	return err
}
