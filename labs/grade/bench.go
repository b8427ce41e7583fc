package grade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	server := exec.Command(filepath.Join(b.bin, "kube-apiserver"), "--bind-address=127.0.0.1", "--secure-port=0",
		"--etcd-servers="+endpoint, "--etcd-data-dir="+dir)
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }() // joined by the closer
	b.closers = append(b.closers, func() {
		server.Process.Kill()
		<-ended
	})
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		config, err := client.LoadKubeconfig(filepath.Join(dir, "pki", "admin.conf"))
		if err == nil {
			api, err := client.New(config)
			if err != nil {
				return nil, nil, err
			}
			if serves(ctx, api) {
				return api, config, nil
			}
		}
		select {
		case err := <-ended:
			ended <- err
			return nil, nil, fmt.Errorf("kube-apiserver ended: %v\n%s", err, said(dir))
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("kube-apiserver does not serve\n%s", said(dir))
		case <-ticker.C:
		}
	}
}

// said is the end of a program's log.
func said(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}

// serves reports whether there is a namespace to work in.
func serves(ctx context.Context, api *client.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_, err := client.For(api, client.Namespaces).Get(ctx, "", namespace)
	return err == nil
}
