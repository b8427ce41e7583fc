package apiserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

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

// kubeletProxy is how we reach kubelets.
type kubeletProxy struct {
	transport    http.RoundTripper
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
	var err error
	if tlsConfig.RootCAs, err = readPool(cfg.CAFile); err != nil {
		return nil, fmt.Errorf("kubelet CA: %w", err)
	}
	if cfg.CertFile != "" {
		own := &reloader{certFile: cfg.CertFile, keyFile: cfg.KeyFile}
		if _, err := own.get(nil); err != nil {
			return nil, fmt.Errorf("certificate for kubelets: %w", err)
		}
		tlsConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.get(nil) }
	}
	k.transport = &http.Transport{ // no HTTP/2: it cannot be upgraded
		TLSClientConfig:     tlsConfig,
		DialContext:         (&net.Dialer{Timeout: kubeletDialTimeout}).DialContext,
		TLSHandshakeTimeout: kubeletDialTimeout,
		IdleConnTimeout:     90 * time.Second,
	}
	return k, nil
}

// podOf returns the request's pod, as it is now.
func (s *Server) podOf(q *request) (*corev1.Pod, error) {
	return fresh[*corev1.Pod](q.Context(), s, "", "pods", q.key())
}

// podLog passes a container's log on.
func (s *Server) podLog(q *request) error {
	pod, err := s.podOf(q)
	if err != nil {
		return err
	}
	query := q.URL.Query()
	container, err := containerOf(pod, query.Get("container"))
	if err != nil {
		return err
	}
	if pod.Spec.NodeName == "" { // it has not said anything yet
		return q.send(http.StatusOK, "text/plain", nil)
	}
	query.Del("container")
	return s.toKubelet(q, pod.Spec.NodeName, "/containerLogs/"+pod.Namespace+"/"+pod.Name+"/"+container, query)
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

// containerOf is the container that is meant: the named one, the default, or
// the only one.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var all []string
	for _, c := range pod.Spec.Containers {
		all = append(all, c.Name)
	}
	var others []string
	for _, c := range pod.Spec.InitContainers {
		others = append(others, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		others = append(others, c.Name)
	}
	if name == "" {
		name = pod.Annotations["kubectl.kubernetes.io/default-container"]
	}
	switch {
	case name != "" && !slices.Contains(all, name) && !slices.Contains(others, name):
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	case name != "":
		return name, nil
	case len(all) == 1:
		return all[0], nil
	}
	text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, strings.Join(all, " "))
	if len(pod.Spec.InitContainers) > 0 {
		text += fmt.Sprintf(" or one of the init containers: [%s]", strings.Join(others[:len(pod.Spec.InitContainers)], " "))
	}
	return "", apierrors.NewBadRequest(text)
}

// toKubelet passes the request to a node's kubelet.
func (s *Server) toKubelet(q *request, node, path string, query url.Values) error {
	host, err := s.kubelets.locate(s, node)
	if err != nil {
		return err
	}
	var check func(*http.Response) error
	if strings.HasPrefix(path, "/containerLogs/") {
		check = kubeletError
	}
	s.passThrough(q, s.kubelets.transport, &url.URL{Scheme: "https", Host: host, Path: path, RawQuery: query.Encode()}, check)
	return nil
}

// passThrough lets another server answer, with or without an upgrade, unless
// check makes an error of its answer.
func (s *Server) passThrough(q *request, transport http.RoundTripper, to *url.URL, check func(*http.Response) error) {
	proxy := &httputil.ReverseProxy{
		Transport:      transport,
		ModifyResponse: check,
		FlushInterval:  -1, // a followed log is read line by line
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL, r.Out.Host = to, to.Host
			r.Out.Header.Del("Authorization") // the user's token is for us alone
		},
		ErrorLog: slogLogger(s.log),
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			if status := apierrors.APIStatus(nil); errors.As(err, &status) {
				q.fail(err)
				return
			}
			q.fail(apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", err)))
		},
	}
	proxy.ServeHTTP(q.w, q.Request)
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
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has no address that the API server could use", name))
}
