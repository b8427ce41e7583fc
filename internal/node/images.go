package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
)

// imageNamespace is where every CRI implementation looks for images.
const imageNamespace = "k8s.io"

func dialUnix(path string) (net.Conn, error) { return net.Dial("unix", path) }

// importer loads archives into containerd and unpacks them, so that a pod can
// start where nothing could be pulled. The marker holds what was loaded, so
// that a restart loads nothing twice.
type importer struct {
	socket, dir, marker string
}

// run loads the archives whose names begin as given, or all of them.
func (i *importer) run(ctx context.Context, prefixes ...string) error {
	entries, err := os.ReadDir(i.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	done, _ := os.ReadFile(i.marker) // absent: nothing was loaded yet
	loaded := strings.Fields(string(done))
	client, err := containerd.New(i.socket, containerd.WithDefaultNamespace(imageNamespace))
	if err != nil {
		return err
	}
	defer client.Close()
	for _, entry := range entries {
		name := entry.Name()
		isPrefix := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
		if !entry.Type().IsRegular() || isPrefix(".") || len(prefixes) > 0 && !slices.ContainsFunc(prefixes, isPrefix) {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		key := fmt.Sprintf("%s:%d:%d", name, info.Size(), info.ModTime().UnixNano())
		if slices.Contains(loaded, key) {
			continue
		}
		if err := importImage(ctx, client, filepath.Join(i.dir, name)); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		loaded = append(loaded, key)
		if err := writeFile(i.marker, []byte(strings.Join(loaded, "\n")), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Load brings an image's archive onto a node that is up, as `docker load` would: from then on its name is there and
// nobody pulls it. From outside, the node's containerd is found through the root of its PID 1.
func (s *Spec) Load(ctx context.Context, file string) error {
	pid := s.PID()
	if pid == 0 {
		return fmt.Errorf("node %s is down; start it with `tinykube node start %s`", s.Name, s.Name)
	}
	client, err := containerd.New(fmt.Sprintf("/proc/%d/root%s", pid, ContainerdSocket), containerd.WithDefaultNamespace(imageNamespace))
	if err != nil {
		return err
	}
	defer client.Close()
	if err := importImage(ctx, client, file); err != nil {
		return fmt.Errorf("load %s into %s: %w", file, s.Name, err)
	}
	return nil
}

func importImage(ctx context.Context, client *containerd.Client, file string) error {
	archive, err := os.Open(file)
	if err != nil {
		return err
	}
	defer archive.Close()
	images, err := client.Import(ctx, archive)
	if err != nil {
		return err
	}
	for _, record := range images {
		image := containerd.NewImage(client, record)
		if err := image.Unpack(ctx, ""); err != nil {
			return fmt.Errorf("unpack %s: %w", record.Name, err)
		}
	}
	return nil
}
