// Package healthz serves what a static pod's probes and Prometheus ask of a
// component that has no API of its own (scheduler, controller manager):
//
//	GET /livez, /healthz   200 while the process can answer
//	GET /readyz            200 once the component is Ready, before that 500
//	                       naming the check, as upstream words it
//	GET /metrics           to callers on this machine only
//	GET /configz           the configuration in force, likewise
//
// over HTTPS, with a certificate of its own making unless one is given: probes
// do not verify it, and nothing secret is told.
//
// Simplified: upstream lets anybody read the metrics whom the API server
// authenticates and authorizes (TokenReview, SubjectAccessReview).
package healthz

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"tinykube/internal/selfsigned"
)

// Server is the little server.
type Server struct {
	// Address is host:port. Port 0 means no server at all, as upstream's
	// --secure-port=0.
	Address string
	// CertFile and KeyFile are used when both are set.
	CertFile, KeyFile string
	// Ready is closed when the component is.
	Ready <-chan struct{}
	// Metrics and Config may be nil.
	Metrics, Config http.Handler
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	if _, port, err := net.SplitHostPort(s.Address); err != nil || port == "0" {
		return err
	}
	certificate, err := s.certificate()
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.Address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Handler is the server without the network.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	alive := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }
	mux.HandleFunc("GET /healthz", alive)
	mux.HandleFunc("GET /livez", alive)
	mux.HandleFunc("GET /readyz", s.readyz)
	if s.Metrics != nil {
		mux.Handle("GET /metrics", fromThisMachine(s.Metrics))
	}
	if s.Config != nil {
		mux.Handle("GET /configz", fromThisMachine(s.Config))
	}
	return mux
}

func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-s.Ready:
		fmt.Fprint(w, "ok")
	default:
		http.Error(w, "[-]informer-sync failed: not all caches are filled\nreadyz check failed", http.StatusInternalServerError)
	}
}

func fromThisMachine(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			http.Error(w, "Forbidden: only for callers on this machine", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) certificate() (tls.Certificate, error) {
	if s.CertFile != "" && s.KeyFile != "" {
		return tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	}
	return selfsigned.New("localhost", net.IPv4(127, 0, 0, 1), net.IPv6loopback)
}
