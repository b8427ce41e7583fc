package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"tinykube/bootstrap"
	"tinykube/internal/flags"
	"tinykube/internal/node"
)

// The relay is the only door between the machine and the cluster. It listens
// on loopback and dials from inside the bridge's network namespace; the
// components know nothing of it, and no packet is ever routed.
//
//	127.0.0.1:6443 ──▶ node-0:6443     kubectl
//	127.0.0.1:8080 ──▶ node-i:30080    --publish 8080:30080, first node that answers

const (
	dialTimeout = 3 * time.Second
	acceptPause = 50 * time.Millisecond // after a failed accept
)

func newRelay() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use: "relay", Hidden: true, Args: cobra.NoArgs, Short: "Carry connections from loopback into the cluster (started by up)",
		RunE: func(*cobra.Command, []string) error {
			c, err := requireCluster(dir)
			if err != nil {
				return err
			}
			return c.relay(flags.SignalContext())
		},
	}
	addDirFlag(command.Flags(), &dir)
	return command
}

func (c *cluster) relay(ctx context.Context) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	group, ctx := errgroup.WithContext(ctx)
	for _, door := range c.doors() {
		listener, err := net.Listen("tcp", door.listen)
		if err != nil {
			return fmt.Errorf("relay: %w", err)
		}
		log.Info("relay", "listen", door.listen, "targets", door.targets)
		context.AfterFunc(ctx, func() { listener.Close() })
		group.Go(func() error {
			for {
				connection, err := listener.Accept()
				if ctx.Err() != nil {
					return nil
				}
				if err != nil { // out of descriptors, or the peer was gone at once
					log.Warn("accept", "listen", door.listen, "err", err)
					select {
					case <-ctx.Done():
					case <-time.After(acceptPause):
					}
					continue
				}
				group.Go(func() error { return carry(ctx, log, connection, c.path("net"), door.targets) })
			}
		})
	}
	return group.Wait()
}

type door struct {
	listen  string
	targets []string
}

// doors are the listening addresses and where each leads.
func (c *cluster) doors() []door {
	nodes := c.bootstrap().Nodes
	doors := []door{{loopback(strconv.Itoa(c.APIPort)), []string{net.JoinHostPort(nodes[0].Address.String(), strconv.Itoa(bootstrap.SecurePort))}}}
	for port, nodePort := range c.Publish {
		d := door{listen: loopback(port)}
		for _, n := range nodes {
			d.targets = append(d.targets, net.JoinHostPort(n.Address.String(), nodePort))
		}
		doors = append(doors, d)
	}
	sort.Slice(doors, func(i, j int) bool { return doors[i].listen < doors[j].listen })
	return doors
}

func loopback(port string) string { return net.JoinHostPort("127.0.0.1", port) }

// carry copies one connection in both directions until both ends are done.
func carry(ctx context.Context, log *slog.Logger, client net.Conn, namespace string, targets []string) error {
	defer client.Close()
	server, err := dialIn(ctx, namespace, "tcp", targets...)
	if err != nil {
		log.Debug("relay", "targets", targets, "err", err)
		return nil
	}
	defer server.Close()
	stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(server, client) // an error is the end of the connection
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(client, server)
	_ = client.(*net.TCPConn).CloseWrite()
	<-done
	return nil
}

// dialIn opens a connection from inside a network namespace to the first of
// the addresses that answers.
func dialIn(ctx context.Context, namespace, network string, addresses ...string) (connection net.Conn, err error) {
	err = node.InNamespace(namespace, func() error {
		var failures []error
		for _, address := range addresses {
			dialer := net.Dialer{Timeout: dialTimeout}
			var dialErr error
			// A literal address is dialled on this very thread.
			if connection, dialErr = dialer.DialContext(ctx, network, address); dialErr == nil {
				return nil
			}
			failures = append(failures, dialErr)
		}
		return errors.Join(failures...)
	})
	return connection, err
}

// startRelay starts the relay in the background unless it runs.
func (c *cluster) startRelay() error {
	if c.relayPID() > 0 {
		return nil
	}
	log, err := os.OpenFile(c.path("relay.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	relay := exec.Command("/proc/self/exe", "relay", "--dir", c.Dir)
	relay.Args[0], relay.Dir, relay.Env = "tinykube", "/", []string{}
	relay.Stdout, relay.Stderr = log, log
	relay.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := relay.Start(); err != nil {
		return fmt.Errorf("start relay: %w", err)
	}
	if err := node.JoinCgroup(filepath.Join(c.cgroup(), "relay"), relay.Process.Pid); err != nil {
		_ = relay.Process.Kill()
		_ = relay.Wait()
		return err
	}
	if err := os.WriteFile(c.path("relay.pid"), []byte(strconv.Itoa(relay.Process.Pid)), 0o644); err != nil {
		return err
	}
	return relay.Process.Release()
}

// relayPID is the relay's process, or 0. Its cgroup vouches for the pid.
func (c *cluster) relayPID() int {
	raw, err := os.ReadFile(c.path("relay.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(raw)))
	for _, member := range node.Processes(filepath.Join(c.cgroup(), "relay")) {
		if member == pid {
			return pid
		}
	}
	return 0
}

// stopRelay ends the relay, if it runs.
func (c *cluster) stopRelay() error {
	group := filepath.Join(c.cgroup(), "relay")
	deadline := time.Now().Add(5 * time.Second)
	for {
		left := node.Processes(group)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("relay: process %v does not end", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
