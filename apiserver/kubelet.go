package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/apiserver/storage"
)

// Logs, exec, attach and port-forward are answered by the kubelet of the pod's
// node. The API server checks who asks, finds the kubelet, and passes bytes:
// it neither knows nor cares whether they are text, WebSocket or SPDY.
//
//	kubectl ──HTTP/1.1 Upgrade──▶ apiserver ──own certificate──▶ kubelet
//
// A connection is only handed through after the kubelet has answered 101; any
// other answer is passed on as an answer, and nothing stays open that speaks
// with our certificate (CVE-2018-1002105).

const (
	defaultKubeletPort = 10250
	kubeletDialTimeout = 10 * time.Second
)

// kubeletProxy is how we reach kubelets, and what runs on nodes.
//
// Simplified: WebSocket is passed on as it is. Kubelets before 1.36 do not speak
// version 5, and upstream translates for them; here they refuse, and kubectl
// falls back to SPDY by itself.
type kubeletProxy struct {
	transport    http.RoundTripper
	unverified   http.RoundTripper // for logs --insecure-skip-tls-verify-backend
	cluster      http.RoundTripper // for pods and Services
	addressTypes []corev1.NodeAddressType
}

func newKubeletProxy(s *Server) (*kubeletProxy, error) {
	cfg := s.cfg.Kubelet
	k := &kubeletProxy{}
	for _, kind := range cfg.AddressTypes {
		k.addressTypes = append(k.addressTypes, corev1.NodeAddressType(kind))
	}
	if len(k.addressTypes) == 0 {
		k.addressTypes = []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName}
	}
	// Without a CA the kubelet's certificate is not checked, as upstream.
	tlsConfig := &tls.Config{InsecureSkipVerify: cfg.CAFile == "", MinVersion: tls.VersionTLS12}
	cas, err := openCAs(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("kubelet CA: %w", err)
	}
	tlsConfig.RootCAs = cas.current()
	if cfg.CertFile != "" {
		own := &reloader{certFile: cfg.CertFile, keyFile: cfg.KeyFile}
		if _, err := own.get(nil); err != nil {
			return nil, fmt.Errorf("certificate for kubelets: %w", err)
		}
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.get(nil) }
	}
	unverified := tlsConfig.Clone()
	unverified.InsecureSkipVerify = true
	dialer := &net.Dialer{Timeout: kubeletDialTimeout}
	guarded := &net.Dialer{Timeout: kubeletDialTimeout, Control: refuseLocal}
	k.transport = transportFor(tlsConfig, cfg.Dial, dialer)
	k.unverified = transportFor(unverified, cfg.Dial, dialer)
	// Whose certificate a pod has is between it and its users.
	k.cluster = transportFor(&tls.Config{InsecureSkipVerify: true}, cfg.Dial, guarded)
	return k, nil
}

// transportFor speaks HTTP/1.1: HTTP/2 cannot be upgraded.
func transportFor(config *tls.Config, dial func(ctx context.Context, network, address string) (net.Conn, error), dialer *net.Dialer) *http.Transport {
	if dial == nil {
		dial = dialer.DialContext
	}
	return &http.Transport{
		TLSClientConfig: config, DialContext: dial, TLSHandshakeTimeout: kubeletDialTimeout, IdleConnTimeout: idlePatience,
		DisableCompression: true, // bodies are passed on as they come
	}
}

// podOf returns the request's pod, as it is now.
func (s *Server) podOf(q *request) (*corev1.Pod, error) {
	return fresh[*corev1.Pod](q.Context(), s, "", "pods", q.key())
}

// podLog passes a container's log on.
func (s *Server) podLog(q *request) error {
	query, err := q.logOptions()
	if err != nil {
		return err
	}
	pod, err := s.podOf(q)
	if err != nil {
		return err
	}
	container, err := containerOf(pod, query.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" { // it has not said anything yet
		return q.send(http.StatusOK, "text/plain", nil)
	}
	host, err := s.kubelets.locate(s, pod.Spec.NodeName)
	if err != nil {
		return err
	}
	query.Del("container")
	through := passage{transport: s.kubelets.transport, check: kubeletError, dialError: func(to string, err error) error {
		return apierrors.NewInternalError(fmt.Errorf("Get %q: %w", to, err))
	}}
	if skip, _ := strconv.ParseBool(query.Get("insecureSkipTLSVerifyBackend")); skip {
		through.transport = s.kubelets.unverified
	}
	query.Del("insecureSkipTLSVerifyBackend")
	through.to = &url.URL{Scheme: "https", Host: host, Path: "/containerLogs/" + pod.Namespace + "/" + pod.Name + "/" + container, RawQuery: query.Encode()}
	return s.passThrough(q, through)
}

// logOptions checks what is asked of a log.
//
// Upstream: kubernetes@v1.36 pkg/apis/core/validation/validation.go ValidatePodLogOptions
func (q *request) logOptions() (url.Values, error) {
	query := q.URL.Query()
	var errs field.ErrorList
	number := func(name string, least int64, text string) {
		value := query.Get(name)
		if value == "" {
			return
		}
		if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < least {
			errs = append(errs, field.Invalid(field.NewPath(name), value, text))
		}
	}
	number("tailLines", 0, "must be greater than or equal to 0")
	number("limitBytes", 1, "must be greater than 0")
	number("sinceSeconds", 1, "must be greater than 0")
	if query.Get("sinceSeconds") != "" && query.Get("sinceTime") != "" {
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	}
	if query.Get("stream") != "" {
		errs = append(errs, field.Forbidden(field.NewPath("stream"), "may not be specified"))
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, q.name, errs)
	}
	return query, nil
}

// execPod, attachPod and forwardPort are the three streams.
func (s *Server) execPod(q *request) error     { return s.podStream(q, "exec") }
func (s *Server) attachPod(q *request) error   { return s.podStream(q, "attach") }
func (s *Server) forwardPort(q *request) error { return s.podStream(q, "portForward") }

// podStream passes a stream through. All of them change
// things, so create is needed, even if a WebSocket must begin with GET.
func (s *Server) podStream(q *request, path string) error {
	asked := q.target
	asked.verb = "create"
	if err := s.authorize(q.Context(), q.user, asked); err != nil {
		return err
	}
	pod, err := s.podOf(q)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	query := q.URL.Query()
	location := "/" + path + "/" + pod.Namespace + "/" + pod.Name
	if path != "portForward" {
		container, err := containerOf(pod, query.Get("container"))
		if err != nil {
			return err
		}
		location += "/" + container
		query = streamQuery(query)
	}
	return s.toKubelet(q, pod.Spec.NodeName, location, query)
}

// streamQuery renames the options of exec and attach to the kubelet's.
// Upstream: kubernetes@v1.36 pkg/registry/core/pod/strategy.go streamParams
func streamQuery(query url.Values) url.Values {
	out := url.Values{"command": query["command"]}
	for name, kubelet := range map[string]string{"stdin": "input", "stdout": "output", "stderr": "error", "tty": "tty"} {
		if on, err := strconv.ParseBool(query.Get(name)); err == nil && on {
			out.Set(kubelet, "1")
		}
	}
	return out
}

// containerOf is the container that is meant: the named one, or the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var all []string
	for _, c := range pod.Spec.InitContainers {
		all = append(all, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		all = append(all, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		all = append(all, c.Name)
	}
	switch {
	case name != "" && !slices.Contains(all, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	case name != "":
		return name, nil
	case len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, all))
}

// toKubelet passes a stream to a node's kubelet.
func (s *Server) toKubelet(q *request, node, path string, query url.Values) error {
	host, err := s.kubelets.locate(s, node)
	if err != nil {
		return err
	}
	if q.Header.Get("Upgrade") == "" {
		return apierrors.NewBadRequest("Upgrade request required")
	}
	to := &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: query.Encode()}
	return s.passThrough(q, passage{transport: s.kubelets.transport, to: to})
}

// maxKubeletError bounds what is read of a kubelet's complaint.
const maxKubeletError = 50 << 10

// kubeletError turns a kubelet's refusal, which is plain text, into a Status:
// kubectl prints its message.
//
// Upstream: kubernetes@v1.36 staging apiserver/pkg/registry/generic/rest/response_checker.go Check
func kubeletError(answer *http.Response) error {
	if answer.StatusCode < http.StatusBadRequest {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxKubeletError))
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	text := strings.TrimSpace(string(body))
	switch answer.StatusCode {
	case http.StatusInternalServerError:
		return apierrors.NewInternalError(errors.New(text))
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	}
	return apierrors.NewGenericServerResponse(answer.StatusCode, "", corev1.Resource("pods"), "", text, 0, false)
}

// locate finds host and port of a node's kubelet.
func (k *kubeletProxy) locate(s *Server, name string) (string, error) {
	node, ok := cached[*corev1.Node](s, "", "nodes", storage.Key("", name))
	if !ok {
		return "", apierrors.NewNotFound(corev1.Resource("nodes"), name)
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = defaultKubeletPort
	}
	for _, kind := range k.addressTypes {
		for _, address := range node.Status.Addresses {
			if address.Type == kind && address.Address != "" {
				return net.JoinHostPort(address.Address, strconv.Itoa(port)), nil
			}
		}
	}
	return "", &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("no preferred addresses found; known addresses: %v", node.Status.Addresses)}}
}
