package kubelet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/internal/linger"
)

// The node API: what the API server asks a kubelet on behalf of kubectl logs,
// exec, attach and port-forward, and what monitoring reads. Everything on this
// port is authenticated and authorized (auth.go); only the health check on
// loopback is not.
func (k *Kubelet) routes(auth func(http.Handler) http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(auth)
	r.Get("/healthz", k.serveHealthz)
	r.Get("/healthz/{check}", k.serveHealthz)
	r.Get("/pods", k.servePods)
	r.Get("/runningpods", k.serveRunningPods)
	r.Get("/runningpods/", k.serveRunningPods)
	r.Get("/configz", k.serveConfigz)
	r.Get("/stats/summary", k.serveSummary)
	metrics := k.metrics()
	r.Handle("/metrics", metrics.kubelet)
	r.Handle("/metrics/resource", metrics.resource)
	r.Handle("/metrics/probes", metrics.probes)
	r.Handle("/metrics/cadvisor", metrics.cadvisor)
	if k.cfg.Server.EnableDebuggingHandlers {
		r.Get("/containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
		for _, path := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
			r.Get("/exec"+path, k.serveExec)
			r.Post("/exec"+path, k.serveExec)
			r.Get("/attach"+path, k.serveAttach)
			r.Post("/attach"+path, k.serveAttach)
		}
		for _, path := range []string{"/{namespace}/{pod}", "/{namespace}/{pod}/{uid}"} {
			r.Get("/portForward"+path, k.servePortForward)
			r.Post("/portForward"+path, k.servePortForward)
		}
	}
	r.Post("/checkpoint/*", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "checkpoints are not supported by this kubelet", http.StatusNotImplemented)
	})
	return r
}

// runServers serves the node API and the local health check until ctx ends.
func (k *Kubelet) runServers(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	s := k.cfg.Server
	if s.HealthzPort > 0 {
		local := chi.NewRouter()
		local.Get("/healthz", k.serveHealthz)
		local.Get("/healthz/{check}", k.serveHealthz)
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
			if err := selfSign(cert, key, k.cfg.NodeName, k.hostIPs()); err != nil {
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

// selfSign writes a certificate that only says who we claim to be.
func selfSign(certFile, keyFile, name string, ips []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(certFile), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}

// serveHealthz is healthy while the runtime answers.
func (k *Kubelet) serveHealthz(w http.ResponseWriter, _ *http.Request) {
	if err := k.relist.healthy(time.Now()); err != nil && k.relist.started() {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, "ok")
}

// servePods lists the pods of this node as the kubelet sees them.
func (k *Kubelet) servePods(w http.ResponseWriter, _ *http.Request) {
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for _, worker := range k.allWorkers() {
		pod, _, status := worker.view()
		shown := pod.DeepCopy()
		shown.Status = status
		list.Items = append(list.Items, *shown)
	}
	writeJSON(w, list)
}

// serveRunningPods lists what the runtime runs, whether or not anybody wants it.
func (k *Kubelet) serveRunningPods(w http.ResponseWriter, r *http.Request) {
	uids, err := k.runtime.podUIDs(r.Context())
	if err != nil {
		http.Error(w, message(err), http.StatusInternalServerError)
		return
	}
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{}}
	for uid := range uids {
		if seen, err := k.runtime.observe(r.Context(), uid); err == nil && seen.alive() {
			list.Items = append(list.Items, *orphan(seen))
		}
	}
	writeJSON(w, list)
}

func (k *Kubelet) serveConfigz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"kubeletconfig": k.cfg.Source})
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
