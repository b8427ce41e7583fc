package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"tinykube/internal/node"
)

const killTimeout = 30 * time.Second

func newDown() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use: "down", Short: "Remove the cluster, without a trace", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, exists, err := loadCluster(dir)
			if err != nil {
				return err
			}
			if !exists {
				fmt.Printf("no cluster in %s\n", c.Dir)
				return nil
			}
			return c.down()
		},
	}
	addDirFlag(command.Flags(), &dir)
	return command
}

// down needs no list of what was started: it kills each node's PID 1, and the
// kernel takes processes, mounts and links with their namespaces. Cgroups,
// the bridge's namespace and files are the rest.
func (c *cluster) down() error {
	started := time.Now()
	failed := []error{c.stopRelay()}
	for _, s := range c.specs() {
		failed = append(failed, s.Kill(killTimeout))
	}
	failed = append(failed, node.RemoveBridge(c.path("net")))
	if err := errors.Join(failed...); err != nil {
		return err // keep cluster.json, so that down can be tried again
	}
	if err := node.RemoveCgroup(c.cgroup()); err != nil {
		return fmt.Errorf("cgroups: %w", err)
	}
	if err := removeTree(c.Dir); err != nil {
		return err
	}
	fmt.Printf("%s gone after %.1f s: no process, namespace, link, mount, cgroup or file is left\n", plural(c.Nodes, "node"), time.Since(started).Seconds())
	return nil
}

// removeTree removes a directory, cluster.json last: if anything fails, down
// still knows what to remove.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == "cluster.json" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}
