package kubelet

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// patient is a timeout that no healthy local server needs.
const patient = 30 * time.Second

func TestHTTPProbe(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a b/c?d":
			if r.URL.RawQuery != "e=f" || r.Host != "virtual" || r.UserAgent() != probeUserAgent {
				t.Errorf("asked for %s of %s by %s", r.URL, r.Host, r.UserAgent())
			}
		case "/elsewhere":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/around":
			http.Redirect(w, r, "/around", http.StatusFound)
		case "/endless":
			for _, err := w.Write(make([]byte, 4096)); err == nil; _, err = w.Write(make([]byte, 4096)) {
			}
		case "/never":
			<-r.Context().Done()
		case "/header":
			for conn := hijack(t, w, "HTTP/1.1 200 OK\r\n"); ; {
				if _, err := conn.Write([]byte("X: " + strings.Repeat("y", 4096) + "\r\n")); err != nil {
					break
				}
			}
		case "/body":
			hijack(t, w, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").Read(make([]byte, 1))
		default:
			http.NotFound(w, r)
		}
	})
	for scheme, server := range map[corev1.URIScheme]*httptest.Server{"HTTP": httptest.NewServer(handler), "HTTPS": httptest.NewTLSServer(handler)} {
		defer server.Close()
		address := server.Listener.Addr().(*net.TCPAddr)
		for path, want := range map[string]struct {
			result probeResult
			text   string
		}{
			"a%20b/c%3Fd?e=f": {probeSuccess, ""}, "/missing": {probeFailure, "HTTP probe failed with statuscode: 404"},
			"/elsewhere": {probeWarning, "Probe terminated redirects, Response body: <a href="}, "/around": {probeFailure, "stopped after 10 redirects"},
			"/endless": {probeSuccess, ""}, "/never": {probeFailure, "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"},
			"/header": {probeFailure, "server response headers exceeded"}, "/body": {probeBroken, "context deadline exceeded (Client.Timeout or context cancellation while reading body)"},
		} {
			timeout := patient
			if path == "/never" || path == "/body" {
				timeout = 50 * time.Millisecond
			}
			request, err := (&Kubelet{}).httpTarget(nil, nil, &corev1.HTTPGetAction{Scheme: scheme, Host: address.IP.String(),
				Port: intstr.FromInt(address.Port), Path: path, HTTPHeaders: []corev1.HTTPHeader{{Name: "Host", Value: "virtual"}}}, probeUserAgent)
			if err != nil {
				t.Fatal(err)
			}
			if result, text := httpProbe(t.Context(), request, timeout); result != want.result || !strings.Contains(text, want.text) {
				t.Errorf("%s %s: %v %q, want %v %q", scheme, path, result, text, want.result, want.text)
			}
		}
	}
}

// hijack takes a connection over and begins an answer of its own.
func hijack(t *testing.T, w http.ResponseWriter, begin string) net.Conn {
	t.Helper()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write([]byte(begin)); err != nil {
		t.Error(err)
	}
	return conn
}

func TestGRPCProbe(t *testing.T) {
	serve := func(register func(*grpc.Server)) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server, done := grpc.NewServer(), make(chan error, 1)
		register(server)
		go func() { done <- server.Serve(listener) }()
		t.Cleanup(func() { server.Stop(); <-done })
		return listener.Addr().String()
	}
	states := health.NewServer()
	states.SetServingStatus("good", healthpb.HealthCheckResponse_SERVING)
	states.SetServingStatus("bad", healthpb.HealthCheckResponse_NOT_SERVING)
	healthy := serve(func(s *grpc.Server) { healthpb.RegisterHealthServer(s, states) })
	unaware := serve(func(*grpc.Server) {})
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	for _, c := range []struct {
		address, service string
		timeout          time.Duration
		result           probeResult
		text             string
	}{
		{healthy, "", patient, probeSuccess, ""},
		{healthy, "good", patient, probeSuccess, ""},
		{healthy, "bad", patient, probeFailure, `service unhealthy (responded with "NOT_SERVING")`},
		{healthy, "unknown", patient, probeFailure, "error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"},
		{unaware, "", patient, probeFailure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health"},
		{deaf.Addr().String(), "", 100 * time.Millisecond, probeFailure, `timeout: failed to connect service "` + deaf.Addr().String() + `" within 100ms: context deadline exceeded`},
	} {
		if result, text := grpcProbe(t.Context(), c.address, c.service, c.timeout); result != c.result || text != c.text {
			t.Errorf("%s of %s: %v %q, want %v %q", c.service, c.address, result, text, c.result, c.text)
		}
	}
}
