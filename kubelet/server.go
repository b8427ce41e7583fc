package kubelet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/errgroup"

	"tinykube/internal/linger"
	"tinykube/internal/selfsigned"
)

// runServers serves the node API, and those ports that have no authentication:
// the health check on loopback and, if it is asked for, the read-only port.
func (k *Kubelet) runServers(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	s := k.cfg.Server
	if s.HealthzPort > 0 {
		local := chi.NewRouter()
		k.healthRoutes(local, "ping")
		server := &http.Server{Handler: local}
		address := net.JoinHostPort(s.HealthzAddress, strconv.Itoa(int(s.HealthzPort)))
		group.Go(func() error { return serve(ctx, server, address, false) })
	}
	if s.Enabled {
		authenticator, err := k.newAuthenticator()
		if err != nil {
			return err
		}
		certificate, err := k.servingCertificate()
		if err != nil {
			return fmt.Errorf("serving certificate: %w", err)
		}
		server := &http.Server{Handler: k.routes(authenticator.wrap), TLSConfig: &tls.Config{
			MinVersion: s.TLSMinVersion, CipherSuites: s.TLSCipherSuites, GetCertificate: certificate,
			ClientAuth: tls.RequestClientCert, // auth.go verifies it, and answers 401 in HTTP
			NextProtos: []string{"h2", "http/1.1"},
		}}
		address := net.JoinHostPort(s.Address, strconv.Itoa(int(s.Port)))
		group.Go(func() error { return serve(ctx, server, address, true) })
	}
	if s.ReadOnlyPort > 0 {
		server := &http.Server{Handler: k.readOnlyRoutes()}
		address := net.JoinHostPort(s.Address, strconv.Itoa(int(s.ReadOnlyPort)))
		group.Go(func() error { return serve(ctx, server, address, false) })
	}
	return group.Wait()
}

// serve runs one HTTP server until ctx ends. Streams are cut then: their
// containers outlive us, and kubectl asks again.
func serve(ctx context.Context, server *http.Server, address string, secure bool) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server.ReadHeaderTimeout = 30 * time.Second
	server.IdleTimeout = 90 * time.Second
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug) // handshakes of strangers
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	listener = linger.Listen(listener)
	if secure {
		err = server.ServeTLS(listener, "", "")
	} else {
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// servingCertificate returns how to find the certificate: read again at every
// handshake, so that a renewed one needs no restart. Without one configured a
// self-signed pair is kept, as upstream keeps one.
func (k *Kubelet) servingCertificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if k.serving != nil {
		return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if held := k.serving.current(); held != nil {
				return held, nil
			}
			return nil, errors.New("no serving certificate available for the kubelet")
		}, nil
	}
	cert, key := k.cfg.Server.CertFile, k.cfg.Server.KeyFile
	if cert == "" {
		cert, key = filepath.Join(k.cfg.CertDir, "kubelet.crt"), filepath.Join(k.cfg.CertDir, "kubelet.key")
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			var ips []net.IP
			for _, ip := range k.hostIPs() {
				ips = append(ips, net.ParseIP(ip))
			}
			if err := selfsigned.Write(cert, key, k.cfg.NodeName, ips...); err != nil {
				return nil, err
			}
		}
	}
	load := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(cert, key)
		return &pair, err
	}
	_, err := load(nil)
	return load, err
}
