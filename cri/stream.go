package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"tinykube/internal/linger"
)

// streamServer serves exec, attach and port-forward over HTTP upgrades
// (WebSocket and SPDY; the protocol code is cri-streaming's). The gRPC calls
// only hand out a URL with a one-time token; the kubelet relays the client's
// connection there. It listens on loopback, since the kubelet is our neighbour.
type streamServer struct {
	streaming.Server
	base *url.URL
}

// streamIdle is upstream's limit for a connection on which nothing moves.
const streamIdle = 4 * time.Hour

func newStreamServer(s *Server) (*streamServer, error) {
	config := streaming.DefaultConfig
	config.StreamIdleTimeout = streamIdle
	config.BaseURL = &url.URL{Scheme: "http"} // the host is known when run listens
	server, err := streaming.NewServer(config, &streamRuntime{s})
	return &streamServer{Server: server, base: config.BaseURL}, err
}

// listen must come before the gRPC server hands out URLs.
func (s *streamServer) listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.base.Host = listener.Addr().String()
	return linger.Listen(listener), nil
}

func (s *streamServer) run(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

func (s *Server) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	r.ContainerId = c.ID
	return s.streaming.GetExec(r)
}

func (s *Server) Attach(_ context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	c, err := s.runningContainer(r.GetContainerId())
	if err != nil {
		return nil, err
	}
	r.ContainerId = c.ID
	return s.streaming.GetAttach(r)
}

func (s *Server) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	sb, err := s.sandboxes.get(r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if sb.process() == 0 {
		return nil, fmt.Errorf("sandbox %s is not running: %w", sb.ID, errdefs.ErrFailedPrecondition)
	}
	r.PodSandboxId = sb.ID
	return s.streaming.GetPortForward(r)
}

func (s *Server) runningContainer(id string) (*container, error) {
	c, err := s.containers.get(id)
	if err != nil {
		return nil, err
	}
	if _, running := c.running(); !running {
		return nil, fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// streamRuntime is what the stream server calls once a client is connected.
type streamRuntime struct{ *Server }

func (r *streamRuntime) Exec(ctx context.Context, id string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := r.runningContainer(id)
	if err != nil {
		return err
	}
	code, err := r.exec(ctx, c, execution{command: command, terminal: tty, stdin: in, stdout: writerOrNil(out), stderr: writerOrNil(errOut), resize: resize})
	if err == nil && code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: int(code)}
	}
	return err
}

func (r *streamRuntime) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	c, err := r.runningContainer(id)
	if err != nil {
		return err
	}
	io := c.output()
	if io == nil {
		return fmt.Errorf("container %s has no output: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	if resize != nil {
		// The channel closes when the client hangs up: the only sign of it
		// while the container is silent.
		attached, hangUp := context.WithCancel(ctx)
		defer hangUp()
		ctx = attached
		go func() { r.resize(attached, c, "", resize); hangUp() }()
	}
	return io.attach(ctx, in, writerOrNil(out), writerOrNil(errOut), c.Config.GetStdinOnce())
}

// PortForward connects to a port as a process of the pod would: on the pod's
// loopback, IPv4 first.
func (r *streamRuntime) PortForward(ctx context.Context, id string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	sb, err := r.sandboxes.get(id)
	if err != nil {
		return err
	}
	var conn net.Conn
	dial := func() (err error) {
		var dialer net.Dialer
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			address := net.JoinHostPort(loopback, strconv.Itoa(int(port)))
			var failed error
			if conn, failed = dialer.DialContext(ctx, "tcp", address); failed == nil {
				return nil
			}
			err = errors.Join(err, failed)
		}
		return err
	}
	if sb.NetNS != "" {
		err = inNetNS(sb.NetNS, dial)
	} else {
		err = dial()
	}
	if err != nil {
		return fmt.Errorf("forward port %d of pod %s: %w", port, sb.ID, err)
	}
	return relay(ctx, stream, conn.(*net.TCPConn))
}

// relay copies both ways until the pod's side is done. The client's end of
// input is passed on as a half-close, since protocols exist that answer it.
func relay(ctx context.Context, stream io.ReadWriteCloser, conn *net.TCPConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var input sync.WaitGroup
	input.Go(func() {
		io.Copy(conn, stream)
		conn.CloseWrite()
	})
	_, err := io.Copy(stream, conn)
	conn.Close()
	stream.Close() // ends the other copy
	input.Wait()
	return err
}

// writerOrNil keeps a nil interface nil when its type changes.
func writerOrNil(w io.WriteCloser) io.Writer {
	if w == nil {
		return nil
	}
	return w
}
