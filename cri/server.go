package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Config is the server's place in the machine.
type Config struct {
	Listen       string   // unix:///run/tinykube/cri.sock
	Containerd   string   // containerd's socket
	Root         string   // what survives a reboot: resolv.conf, volumes, CNI results
	State        string   // what does not: FIFOs, /dev/shm
	NetNSDir     string   // where network namespaces are pinned
	CNIConfDir   string   // re-read for every sandbox and every Status
	CNIBinDirs   []string // searched in order
	PauseImage   string   // pulled when it is not there
	CgroupDriver string   // cgroupfs or systemd; empty means cgroupfs
	Snapshotter  string
	// RegistryConfigDirs are searched for mirrors of registries: see registries.
	RegistryConfigDirs []string
}

// Server implements the CRI's RuntimeService. Its ImageService is a part of it
// that needs nothing of the rest.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer

	cfg        Config
	logger     *slog.Logger
	daemon     *daemon
	images     *imageService
	network    *network
	sandboxes  *index[*sandbox]
	containers *index[*container]
	events     *eventHub
	streaming  *streamServer
	host       hostFacts // set by Run, before anything is served
	ready      chan struct{}
}

// New wires the parts together; it neither dials nor touches the disk.
func New(cfg Config, logger *slog.Logger) (*Server, error) {
	if cfg.CgroupDriver == "" {
		cfg.CgroupDriver = "cgroupfs"
	}
	if cfg.CgroupDriver != "cgroupfs" && cfg.CgroupDriver != "systemd" {
		return nil, fmt.Errorf("cgroup driver %q is neither cgroupfs nor systemd", cfg.CgroupDriver)
	}
	if !strings.HasPrefix(cfg.Listen, "unix://") {
		return nil, fmt.Errorf("listen address %q does not begin with unix://", cfg.Listen)
	}
	daemon, err := newDaemon(cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, logger: logger, daemon: daemon,
		images:     newImageService(cfg, daemon),
		network:    newNetwork(cfg, logger),
		sandboxes:  newIndex[*sandbox]("pod sandbox"),
		containers: newIndex[*container]("container"),
		events:     newEventHub(),
		ready:      make(chan struct{}),
	}
	s.streaming, err = newStreamServer(s)
	return s, err
}

// Ready is closed when everything that was running before has been found
// again and the socket answers.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run recovers, serves until the context ends, and lets go of everything
// without stopping a single container.
func (s *Server) Run(ctx context.Context) error {
	defer s.daemon.Close()
	var err error
	if s.host, err = readHostFacts(s.cfg.CgroupDriver); err != nil {
		return fmt.Errorf("look at this machine: %w", err)
	}
	for _, dir := range []string{s.cfg.Root, s.cfg.State, filepath.Dir(s.socket())} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := s.waitForDaemon(ctx); err != nil {
		return ignoreCancel(err)
	}
	if err := s.recover(ctx); err != nil {
		return fmt.Errorf("recover: %w", ignoreCancel(err))
	}
	defer s.letGo()

	streams, err := s.streaming.listen()
	if err != nil {
		return err
	}
	listener, err := listenUnix(s.socket())
	if err != nil {
		streams.Close()
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(s.intercept), grpc.WaitForHandlers(true),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	runtimeapi.RegisterRuntimeServiceServer(server, s)
	runtimeapi.RegisterImageServiceServer(server, s.images)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.watchTasks(ctx) })
	group.Go(func() error { return s.streaming.run(ctx, streams) })
	group.Go(func() error { return server.Serve(listener) })
	group.Go(func() error {
		<-ctx.Done()
		server.Stop()
		return ctx.Err()
	})
	close(s.ready)
	s.logger.Info("serving", "key", s.cfg.Listen)
	return ignoreCancel(group.Wait())
}

const (
	// maxMessage is the size that kubelet and containerd agree on.
	maxMessage = 16 << 20
	// teardownTimeout bounds clean-up that goes on after its caller gave up.
	teardownTimeout = time.Minute
)

func (s *Server) socket() string { return strings.TrimPrefix(s.cfg.Listen, "unix://") }

// listenUnix takes over the path from an earlier life of ours.
func listenUnix(path string) (net.Listener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%s: another server is answering there", path)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(path, 0o660)
}

// waitForDaemon polls until containerd answers: the two are started together.
func (s *Server) waitForDaemon(ctx context.Context) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for said := false; ; {
		if ok, err := s.daemon.IsServing(ctx); ok {
			return nil
		} else if !said {
			s.logger.Info("waiting for containerd", "key", s.cfg.Containerd, "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// letGo closes the readers of all containers' output. The shims keep the other
// ends, and the next Run continues.
func (s *Server) letGo() {
	for _, c := range s.containers.list() {
		if io := c.output(); io != nil {
			io.close()
		}
	}
}

// intercept turns containerd's error classes into gRPC codes, and logs what
// failed: the one place that does either.
func (s *Server) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	begin := time.Now()
	response, err := next(ctx, request)
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	if err != nil {
		s.logger.Warn("call failed", "key", method, "duration", time.Since(begin), "err", err)
		return nil, errgrpc.ToGRPC(err)
	}
	s.logger.Debug("call", "key", method, "duration", time.Since(begin))
	return response, nil
}

// detach returns a context for clean-up, which must not stop half-way because
// the caller hung up.
func detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
}

func ignoreCancel(err error) error {
	if errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
		return nil
	}
	return err
}
