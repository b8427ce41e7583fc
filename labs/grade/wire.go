package grade

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"tinykube/client"
)

// wire stands between the reader's program and an API server that is not the
// reader's. It notes what is written, and can keep answers, or all that
// watches say, for as long as a check likes: so the check decides what happens
// during what, and never luck.
type wire struct {
	server *http.Server
	host   string
	joined sync.WaitGroup

	mu      sync.Mutex // guards the rest
	changed *sync.Cond // mu; what is kept has changed
	writes  []string   // "POST namespace/pods", in the order of their answers
	keep    map[string]bool
	frozen  bool // watches say nothing
	closed  bool
}

// openWire listens, and passes everything on as if it were an administrator's:
// who is asking is no part of such an exercise.
func openWire(config *client.Config) (*wire, error) {
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	admin, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{host: "http://" + listener.Addr().String(), keep: map[string]bool{}}
	w.changed = sync.NewCond(&w.mu)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{admin}}, ForceAttemptHTTP2: true, DisableCompression: true},
		FlushInterval: -1, ModifyResponse: w.answer,
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, _ error) { rw.WriteHeader(http.StatusBadGateway) },
	}
	w.server = &http.Server{Handler: proxy}
	w.joined.Go(func() { w.server.Serve(listener) })
	return w, nil
}

// answer sees each answer before the reader's program does.
func (w *wire) answer(response *http.Response) error {
	request := response.Request
	if request.URL.Query().Get("watch") != "" {
		response.Body = &watched{response.Body, w}
		return nil
	}
	if request.Method == http.MethodGet || response.StatusCode >= http.StatusBadRequest {
		return nil
	}
	write := request.Method + " " + placeOf(request.URL.Path)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writes = append(w.writes, write)
	for w.keep[write] && !w.closed {
		w.changed.Wait()
	}
	return nil
}

// placeOf is the namespace and the rest: /api/v1/namespaces/x/pods/y is x/pods/y.
func placeOf(path string) string {
	if _, rest, ok := strings.Cut(path, "/namespaces/"); ok {
		return rest
	}
	return path
}

// watched is the body of a watch.
type watched struct {
	io.ReadCloser
	wire *wire
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.wire.mu.Lock()
	defer b.wire.mu.Unlock()
	for b.wire.frozen && !b.wire.closed {
		b.wire.changed.Wait()
	}
	return n, err
}

// set changes what is kept.
func (w *wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	w.changed.Broadcast()
}

// hold keeps the answers to such writes, and release lets them go.
func (w *wire) hold(writes ...string) {
	w.set(func() {
		for _, write := range writes {
			w.keep[write] = true
		}
	})
}

func (w *wire) release(writes ...string) {
	w.set(func() {
		for _, write := range writes {
			delete(w.keep, write)
		}
	})
}

// freeze makes watches silent, thaw has them say what they could not.
func (w *wire) freeze() { w.set(func() { w.frozen = true }) }
func (w *wire) thaw()   { w.set(func() { w.frozen = false }) }

// wrote are the writes so far that begin so.
func (w *wire) wrote(prefix string) (found []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, write := range w.writes {
		if strings.HasPrefix(write, prefix) {
			found = append(found, write)
		}
	}
	return found
}

// awaits waits for a number of writes that begin so.
func (b *bench) awaits(ctx context.Context, prefix string, n int) error {
	return b.until(ctx, func() error {
		if got := len(b.wire.wrote(prefix)); got != n {
			return fmt.Errorf("%d times %s, and should be %d", got, prefix, n)
		}
		return nil
	})
}

func (w *wire) close() {
	w.set(func() { w.closed = true })
	w.server.Close()
	w.joined.Wait()
}
