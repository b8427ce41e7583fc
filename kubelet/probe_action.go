package kubelet

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

type probeResult int

const (
	probeSuccess probeResult = iota
	probeFailure
	probeUnknown // the question could not even be asked
	probeBroken  // the answer ended before its end
	probeWarning // good, but not as it should be
)

// counts says whether the container can be judged by the result.
func (r probeResult) counts() bool { return r != probeUnknown && r != probeBroken }

// What a probe reads of an answer, however long it is.
const (
	maxProbeBody   = 10 << 10
	maxProbeHeader = 1 << 20
	// maxProbeAttempts is how often a question is asked that cannot be asked.
	maxProbeAttempts = 3
)

// Who asks, by the request's own words.
const (
	probeUserAgent = "kube-probe/1.36"
	hookUserAgent  = "kube-lifecycle/1.36"
)

// attempt asks the container once.
func (p *prober) attempt(ctx context.Context) (probeResult, string) {
	timeout := time.Duration(p.probe.TimeoutSeconds) * time.Second
	k := p.probes.k
	pod, _, podStatus := p.worker.view()
	switch h := p.probe.ProbeHandler; {
	case h.Exec != nil:
		env := map[string]string{} // as the spec has it, without what comes from elsewhere
		for _, e := range p.container.Env {
			env[e.Name] = e.Value
		}
		return k.execProbe(ctx, p.id, expandAll(h.Exec.Command, env), timeout)
	case h.HTTPGet != nil:
		target, err := k.httpTarget(pod, p.container, h.HTTPGet, probeUserAgent)
		if err != nil {
			return probeUnknown, err.Error()
		}
		return httpProbe(ctx, target, timeout)
	case h.TCPSocket != nil:
		port, err := portNumber(h.TCPSocket.Port, p.container)
		if err != nil {
			return probeUnknown, err.Error()
		}
		host := cmp.Or(h.TCPSocket.Host, podStatus.PodIP)
		return tcpProbe(ctx, net.JoinHostPort(host, strconv.Itoa(port)), timeout)
	case h.GRPC != nil:
		return grpcProbe(ctx, net.JoinHostPort(podStatus.PodIP, strconv.Itoa(int(h.GRPC.Port))), ptr.Deref(h.GRPC.Service, ""), timeout)
	}
	return probeUnknown, "missing probe handler"
}

func (k *Kubelet) execProbe(ctx context.Context, id string, command []string, timeout time.Duration) (probeResult, string) {
	ctx, cancel := context.WithTimeout(ctx, timeout+5*time.Second)
	defer cancel()
	answer, err := k.runtime.exec(ctx, id, command, timeout)
	switch {
	case status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded):
		return probeFailure, fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(command, " "), timeout)
	case err != nil:
		return probeUnknown, message(err)
	case answer.ExitCode != 0:
		output := answer.both()
		return probeFailure, string(output[:min(len(output), maxProbeBody)])
	}
	return probeSuccess, ""
}

// httpTarget makes the request of an HTTP probe or hook.
func (k *Kubelet) httpTarget(pod *corev1.Pod, c *corev1.Container, get *corev1.HTTPGetAction, userAgent string) (*http.Request, error) {
	port, err := portNumber(get.Port, c)
	if err != nil {
		return nil, err
	}
	host := get.Host
	if host == "" {
		host = k.podIP(pod)
	}
	u, err := url.Parse(get.Path)
	if err != nil { // nobody has checked it; the server shall say what it thinks
		u = &url.URL{Path: get.Path}
	}
	u.Scheme, u.Host = strings.ToLower(cmp.Or(string(get.Scheme), "HTTP")), net.JoinHostPort(host, strconv.Itoa(port))
	request, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", userAgent)
	request.Header.Set("Accept", "*/*")
	given := map[string]bool{}
	for _, h := range get.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			request.Host = h.Value
			continue
		}
		if name := http.CanonicalHeaderKey(h.Name); !given[name] { // instead of ours
			request.Header.Del(name)
			given[name] = true
		}
		if h.Value != "" || h.Name != "Accept" { // an empty Accept means: none
			request.Header.Add(h.Name, h.Value)
		}
	}
	return request, nil
}

// probeTransport keeps no connections: a probe shall find out whether a new
// one works. Certificates are not checked, the name would never fit.
var probeTransport = &http.Transport{
	TLSClientConfig:        &tls.Config{InsecureSkipVerify: true},
	ForceAttemptHTTP2:      true,
	DisableKeepAlives:      true,
	DisableCompression:     true,
	Proxy:                  nil,
	MaxResponseHeaderBytes: maxProbeHeader,
}

// probeClient follows redirects on the same host only: another one's health is
// not this container's. A timeout of zero means as long as the request's context.
func probeClient(timeout time.Duration) *http.Client {
	return &http.Client{Transport: probeTransport, Timeout: timeout, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
}

// httpProbe passes on 200–399, though not without a word when it was sent away.
//
// Upstream: kubernetes@v1.36 pkg/probe/http.
func httpProbe(ctx context.Context, request *http.Request, timeout time.Duration) (probeResult, string) {
	answer, err := probeClient(timeout).Do(request.WithContext(ctx))
	if err != nil {
		return probeFailure, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxProbeBody))
	switch code := answer.StatusCode; {
	case err != nil:
		return probeBroken, err.Error()
	case code < http.StatusOK || code >= http.StatusBadRequest:
		return probeFailure, fmt.Sprintf("HTTP probe failed with statuscode: %d", code)
	case code >= http.StatusMultipleChoices:
		return probeWarning, fmt.Sprintf("Probe terminated redirects, Response body: %s", body)
	}
	return probeSuccess, ""
}

func tcpProbe(ctx context.Context, address string, timeout time.Duration) (probeResult, string) {
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return probeFailure, err.Error()
	}
	conn.Close()
	return probeSuccess, ""
}

// grpcProbe asks the standard health service.
func grpcProbe(ctx context.Context, address, service string, timeout time.Duration) (probeResult, string) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUserAgent(probeUserAgent))
	if err != nil {
		return probeUnknown, err.Error()
	}
	defer conn.Close()
	// To connect first tells a port on which nobody listens from a service that
	// does not answer.
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return probeFailure, fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, timeout, ctx.Err())
		}
	}
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return probeFailure, "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): " + message(err)
	case status.Code(err) == codes.DeadlineExceeded:
		return probeFailure, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout)
	case err != nil:
		return probeFailure, fmt.Sprintf("error: health rpc probe failed: %v", err)
	case answer.Status != healthpb.HealthCheckResponse_SERVING:
		return probeFailure, fmt.Sprintf("service unhealthy (responded with %q)", answer.Status)
	}
	return probeSuccess, ""
}

// portNumber resolves a port given by number or by the name of a declared one.
func portNumber(port intstr.IntOrString, c *corev1.Container) (int, error) {
	number := port.IntValue()
	if port.Type == intstr.String {
		for _, p := range c.Ports {
			if p.Name == port.StrVal {
				number = int(p.ContainerPort)
			}
		}
	}
	if number <= 0 || number > 65535 {
		return 0, fmt.Errorf("invalid port: %q", port.String())
	}
	return number, nil
}
