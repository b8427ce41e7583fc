package apiserver

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// The life of the HTTP server, and its end, in which nobody is cut off who can
// be told:
//
//	told to stop   /readyz says no; everything else goes on for a while, since
//	               load balancers and clients need a moment to notice
//	drain          watches and streams end; connections are told to go away
//	wait           for the requests in progress
//	close          what is still there

const (
	// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/server/secure_serving.go
	readHeaderPatience = 32 * time.Second
	idlePatience       = 90 * time.Second
	maxHeader          = 1 << 20
	// defaultMaxStreams bounds what one connection can have in progress. Go
	// counts a stream that the client has reset until its handler has returned,
	// and cuts off who opens ever more (CVE-2023-44487).
	defaultMaxStreams = 100
	// uploadPerStream bounds what is buffered of one body before it is read.
	uploadPerStream = 256 << 10
)

func (s *Server) httpServer(tlsConfig *tls.Config) *http.Server {
	streams := int(s.cfg.MaxStreams)
	if streams == 0 {
		streams = defaultMaxStreams
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(!s.cfg.DisableHTTP2)
	return &http.Server{
		Handler: s, TLSConfig: tlsConfig, Protocols: protocols,
		ReadHeaderTimeout: readHeaderPatience, IdleTimeout: idlePatience, MaxHeaderBytes: maxHeader,
		ConnContext: withConnection,
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:      streams,
			MaxReceiveBufferPerStream: uploadPerStream, MaxReceiveBufferPerConnection: uploadPerStream * min(streams, 1000),
			// Pings find clients that went away without a word, so that their
			// watches end.
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second,
		},
	}
}

// sayGoaway now and then makes an HTTP/2 client connect anew, so that of several
// servers behind one address none keeps all the clients.
func (s *Server) sayGoaway(q *request) {
	if s.cfg.GoawayChance > 0 && q.ProtoMajor == 2 && rand.Float64() < s.cfg.GoawayChance {
		q.w.Header().Set("Connection", "close")
	}
}

// shutDown is the end of Run.
func (s *Server) shutDown(ctx context.Context, server *http.Server) {
	close(s.stopping)
	s.log.Info("Stopping", "delay", s.cfg.ShutdownDelay)
	<-time.After(s.cfg.ShutdownDelay)
	close(s.draining)
	s.streams.end()
	patience := s.cfg.ShutdownTimeout
	if patience == 0 {
		patience = s.cfg.RequestTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		server.Close()
	}
}

// streams are the requests that last as long as others like: logs that are
// followed, terminals, proxied connections. They end when the server drains.
type streams struct {
	mu    sync.Mutex // guards the fields below
	ended bool
	open  map[*context.CancelFunc]struct{}
}

// begin returns a context that ends with the server, and what to call at the
// end of the stream.
func (s *streams) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		cancel()
	}
	if s.open == nil {
		s.open = map[*context.CancelFunc]struct{}{}
	}
	s.open[&cancel] = struct{}{}
	return ctx, func() {
		s.mu.Lock()
		delete(s.open, &cancel)
		s.mu.Unlock()
		cancel()
	}
}

func (s *streams) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for cancel := range s.open {
		(*cancel)()
	}
}
