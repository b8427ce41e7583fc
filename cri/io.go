package cri

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/fifo"
)

// Between a process and us stand the shim and named pipes:
//
//	program ─pipe─▶ shim ─FIFO─▶ pipes ─▶ sink: log file and attached clients,
//	                                            or an exec's client
//
// so that either side may die alone. For a container's own process the shim
// keeps both ends of each FIFO open: while we are away its output fills the
// FIFO (64 KiB) and then waits, and when we open the same path again we go on
// where we stopped. The names depend on nothing but the container's id, so
// there is nothing to remember.
type pipes struct {
	paths  ioPaths
	stdin  io.WriteCloser // nil without
	output []io.Closer
	copies sync.WaitGroup
}

// openPipes makes the FIFOs, or finds those of our earlier life, and passes
// what is read to the sink, chunk by chunk, until close or the end.
func openPipes(ctx context.Context, dir string, stdin, terminal bool, sink func(stream string, chunk []byte)) (*pipes, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &pipes{paths: fifoPaths(dir, stdin, terminal)}
	for stream, path := range map[string]string{streamStdout: p.paths.stdout, streamStderr: p.paths.stderr} {
		if path == "" {
			continue // a terminal has only one output
		}
		from, err := openFIFO(ctx, path, syscall.O_RDONLY)
		if err != nil {
			p.close()
			return nil, err
		}
		p.output = append(p.output, from)
		p.copies.Go(func() {
			chunk := make([]byte, 2*maxLogLine)
			for {
				n, err := from.Read(chunk)
				if n > 0 {
					sink(stream, chunk[:n])
				}
				if err != nil {
					return
				}
			}
		})
	}
	if !stdin {
		return p, nil
	}
	var err error
	if p.stdin, err = openFIFO(ctx, p.paths.stdin, syscall.O_WRONLY); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// fifoPaths names the FIFOs below a container's or exec's directory.
func fifoPaths(dir string, stdin, terminal bool) ioPaths {
	paths := ioPaths{terminal: terminal, stdout: filepath.Join(dir, "stdout")}
	if stdin {
		paths.stdin = filepath.Join(dir, "stdin")
	}
	if !terminal {
		paths.stderr = filepath.Join(dir, "stderr")
	}
	return paths
}

// openFIFO returns at once; the first read or write waits for the other end,
// until Close or the end of the context.
func openFIFO(ctx context.Context, path string, mode int) (io.ReadWriteCloser, error) {
	return fifo.OpenFifo(ctx, path, mode|syscall.O_CREAT|syscall.O_NONBLOCK, 0o600)
}

// close lets go of the FIFOs, which stay, and joins the readers.
func (p *pipes) close() {
	for _, end := range p.output {
		end.Close()
	}
	if p.stdin != nil {
		p.stdin.Close()
	}
	p.copies.Wait()
}

// containerIO is the output of a container's own process: its log, and the
// clients that are attached to it.
type containerIO struct {
	*pipes
	log    *logFile
	logger *slog.Logger
	// endInput tells the shim that no more input will come. It holds a writing
	// end of the FIFO itself, so closing ours is not enough.
	endInput func(context.Context)

	mu      sync.Mutex // guards what follows
	clients map[*client]struct{}
	spoke   bool // there has been output
	ended   bool
}

func openContainerIO(ctx context.Context, dir string, stdin, terminal bool, log *logFile, logger *slog.Logger, endInput func(context.Context)) (*containerIO, error) {
	c := &containerIO{log: log, logger: logger, endInput: endInput, clients: map[*client]struct{}{}}
	var err error
	c.pipes, err = openPipes(ctx, dir, stdin, terminal, func(stream string, chunk []byte) {
		if err := log.write(stream, chunk); err != nil {
			logger.Error("container log is not written", "key", log.path, "err", err)
		}
		c.broadcast(stream, chunk)
	})
	return c, err
}

// client is one attach session. Its queue is bounded in space by being
// unbuffered and in time by attachPatience.
type client struct {
	chunks chan clientChunk
	left   chan struct{} // closed by the session
	ended  chan struct{} // closed by us: no more output
}

type clientChunk struct {
	stream string
	data   []byte
}

// attachPatience is how long a client that does not read may hold up the
// container before it is dropped.
const attachPatience = 10 * time.Second

func (c *containerIO) broadcast(stream string, chunk []byte) {
	c.mu.Lock()
	c.spoke = true
	clients := slices.Collect(maps.Keys(c.clients))
	c.mu.Unlock()
	if len(clients) == 0 {
		return
	}
	// Copied once: the client may still write it out when we read again.
	data := slices.Clone(chunk)
	for _, cl := range clients {
		patience := time.NewTimer(attachPatience)
		select {
		case cl.chunks <- clientChunk{stream, data}:
		case <-cl.left:
		case <-patience.C:
			c.drop(cl)
		}
		patience.Stop()
	}
}

func (c *containerIO) drop(cl *client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.clients[cl]; ok {
		delete(c.clients, cl)
		close(cl.ended)
	}
}

// errLate is for who came after all the output: kubectl run takes an error for
// a reason to print the log.
var errLate = errors.New("the container has ended; what it said was before this session, and is in its log")

// attach joins a session until the container ends, the client goes, or its
// input is exhausted with no output wanted.
func (c *containerIO) attach(ctx context.Context, in io.Reader, out, errOut io.Writer, stdinOnce bool) error {
	cl := &client{chunks: make(chan clientChunk), left: make(chan struct{}), ended: make(chan struct{})}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return errors.New("the container's output has ended")
	}
	c.clients[cl] = struct{}{}
	late := c.spoke && stdinOnce
	c.mu.Unlock()
	defer func() { close(cl.left); c.drop(cl) }()

	inputDone := make(chan struct{})
	if in != nil && c.stdin != nil {
		// This goroutine ends when the stream server closes the connection,
		// which it does as soon as we return.
		go func() {
			defer close(inputDone)
			io.Copy(c.stdin, in)
			if stdinOnce {
				c.stdin.Close()
				c.endInput(ctx)
			}
		}()
	}
	for {
		select {
		case chunk := <-cl.chunks:
			late = false
			to := out
			if chunk.stream == streamStderr {
				to = errOut
			}
			if to == nil {
				continue
			}
			if _, err := to.Write(chunk.data); err != nil {
				return nil // the client hung up
			}
		case <-inputDone:
			inputDone = nil
			if out == nil && errOut == nil {
				return nil
			}
		case <-cl.ended:
			if late && out != nil {
				return errLate
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain waits for the end of the output, but not for ever: a grandchild may
// have inherited the pipe and live on.
func (c *containerIO) drain(patience time.Duration) {
	done := make(chan struct{})
	go func() { c.copies.Wait(); close(done) }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	c.close()
}

// close ends the readers, the log and all sessions.
func (c *containerIO) close() {
	c.pipes.close()
	c.log.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	for cl := range c.clients {
		delete(c.clients, cl)
		close(cl.ended)
	}
}
