package apiserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"tinykube/apiserver/storage"
)

// The proxy subresources reach HTTP servers inside the cluster by way of the
// API server: /api/v1/namespaces/x/services/https:web:443/proxy/path. The name
// may carry a scheme and a port.
//
// An address that somebody wrote into a status is not to be trusted: it must
// not lead to this machine itself, nor to a cloud's metadata (CVE-2020-8555).
//
// Upstream: kubernetes@v1.36 pkg/registry/core/{node,pod,service} ResourceLocation

var errAddress = apierrors.NewBadRequest("address not allowed")

// proxyNode passes a request to a node: to its kubelet, as it is, or to another
// of its ports.
func (s *Server) proxyNode(q *request) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(q.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", q.name))
	}
	host, err := s.kubelets.locate(s, name)
	if err != nil {
		return err
	}
	address, kubeletPort, err := net.SplitHostPort(host)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if err := allowedHost(q.Context(), address); err != nil {
		return err
	}
	if port == "" || port == kubeletPort {
		return s.proxyTo(q, s.kubelets.transport, "https", host)
	}
	return s.proxyTo(q, s.kubelets.cluster, scheme, net.JoinHostPort(address, port))
}

// allowedHost refuses names and addresses that lead to where nobody should be
// led.
func allowedHost(ctx context.Context, host string) error {
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	if len(ips) == 0 || slices.ContainsFunc(ips, func(ip net.IPAddr) bool { return !ip.IP.IsGlobalUnicast() }) {
		return errAddress
	}
	return nil
}

// proxyPod passes a request to a pod's own address: to its first port, unless
// another is named.
func (s *Server) proxyPod(q *request) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(q.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", q.name))
	}
	pod, err := fresh[*corev1.Pod](q.Context(), s, "", "pods", storage.Key(q.namespace, name))
	if err != nil {
		return err
	}
	for _, c := range pod.Spec.Containers {
		if port == "" && len(c.Ports) > 0 {
			port = strconv.Itoa(int(c.Ports[0].ContainerPort))
		}
	}
	ip := net.ParseIP(pod.Status.PodIP)
	if ip == nil || !ip.IsGlobalUnicast() {
		return errAddress
	}
	host := pod.Status.PodIP
	switch {
	case port != "":
		host = net.JoinHostPort(host, port)
	case strings.Contains(host, ":"):
		host = "[" + host + "]"
	}
	return s.proxyTo(q, s.kubelets.cluster, scheme, host)
}

// proxyService passes a request to any ready endpoint of a Service.
func (s *Server) proxyService(q *request) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(q.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", q.name))
	}
	service, err := fresh[*corev1.Service](q.Context(), s, "", "services", storage.Key(q.namespace, name))
	if err != nil {
		return err
	}
	if number, err := strconv.ParseInt(port, 10, 64); err == nil {
		i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return int64(p.Port) == number })
		if i < 0 {
			return apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
		port = service.Spec.Ports[i].Name
	}
	hosts := s.endpointsOf(service, port, s.isPod)
	if len(hosts) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", q.name))
	}
	return s.proxyTo(q, s.kubelets.cluster, scheme, hosts[rand.N(len(hosts))])
}

// endpointsOf lists the ready endpoints of a Service's port, by the port's
// name, as far as they may be asked.
func (s *Server) endpointsOf(service *corev1.Service, port string, may func(namespace string, endpoint *discoveryv1.Endpoint) bool) []string {
	var hosts []string
	for _, slice := range allCached[*discoveryv1.EndpointSlice](s, discoveryv1.GroupName, "endpointslices", service.Namespace) {
		if slice.Labels[discoveryv1.LabelServiceName] != service.Name {
			continue
		}
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name != nil && *p.Name != port || p.Name == nil && port != "" {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				if ready := endpoint.Conditions.Ready; (ready == nil || *ready) && len(endpoint.Addresses) > 0 && may(service.Namespace, &endpoint) {
					hosts = append(hosts, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	return hosts
}

// isPod reports whether a pod of the namespace really has an endpoint's
// address: whoever may write endpoints could lead us anywhere with others.
func (s *Server) isPod(namespace string, endpoint *discoveryv1.Endpoint) bool {
	ref := endpoint.TargetRef
	if ref == nil || ref.Kind != "Pod" || ref.Namespace != namespace {
		return false
	}
	pod, ok := cached[*corev1.Pod](s, "", "pods", storage.Key(namespace, ref.Name))
	return ok && slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == endpoint.Addresses[0] })
}

// proxyTo passes the request on, and makes links in the answer lead back here.
func (s *Server) proxyTo(q *request, transport http.RoundTripper, scheme, host string) error {
	read := q.Method == http.MethodGet || q.Method == http.MethodHead
	if strings.HasSuffix(q.path, "/proxy") && read && q.Header.Get("Upgrade") == "" {
		// Without a slash, relative links would lead past the proxy.
		location := url.URL{Path: q.path + "/", RawQuery: q.URL.RawQuery}
		q.w.Header().Set("Location", location.String())
		q.w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	if scheme == "" {
		scheme = "http"
	}
	to := &url.URL{Scheme: scheme, Host: host, Path: q.rest, RawQuery: q.URL.RawQuery}
	return s.passThrough(q, passage{transport: transport, to: to, prefix: strings.TrimSuffix(q.path, q.rest)})
}

// refuseLocal keeps a proxied request inside the cluster, whatever a name was
// when it was looked up first.
func refuseLocal(_, address string, _ syscall.RawConn) error {
	host, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ip := host.Addr().Unmap(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("address %s is not allowed", ip)
	}
	return nil
}
