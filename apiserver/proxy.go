package apiserver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/apiserver/storage"
)

// The proxy subresources reach HTTP servers inside the cluster by way of the
// API server: /api/v1/namespaces/x/services/https:web:443/proxy/path. The name
// may carry a scheme and a port.
//
// An address that somebody wrote into a status is not to be trusted: it must
// not lead to this machine itself, nor to a cloud's metadata (CVE-2020-8555).

var clusterTransport = &http.Transport{
	DialContext:     (&net.Dialer{Timeout: kubeletDialTimeout, Control: refuseLocal}).DialContext,
	IdleConnTimeout: 90 * time.Second,
}

// proxyNode passes a request to the kubelet's API as it is.
func (s *Server) proxyNode(q *request) error {
	return s.toKubelet(q, q.name, q.rest, q.URL.Query())
}

// proxyPod passes a request to a pod's own address.
func (s *Server) proxyPod(q *request) error {
	scheme, name, port := splitProxyName(q.name)
	pod, err := fresh[*corev1.Pod](q.Context(), s, "", "pods", storage.Key(q.namespace, name))
	if err != nil {
		return err
	}
	if pod.Status.PodIP == "" {
		return apierrors.NewServiceUnavailable("the pod has no address yet")
	}
	if port == "" {
		port = "80"
		if ports := pod.Spec.Containers[0].Ports; len(ports) > 0 {
			port = strconv.Itoa(int(ports[0].ContainerPort))
		}
	}
	return s.proxyTo(q, scheme, net.JoinHostPort(pod.Status.PodIP, port))
}

// proxyService passes a request to any ready endpoint of a Service.
func (s *Server) proxyService(q *request) error {
	scheme, name, port := splitProxyName(q.name)
	service, err := fresh[*corev1.Service](q.Context(), s, "", "services", storage.Key(q.namespace, name))
	if err != nil {
		return err
	}
	portName, found := "", false
	for _, p := range service.Spec.Ports {
		if port == "" && len(service.Spec.Ports) == 1 || port == p.Name || port == strconv.Itoa(int(p.Port)) {
			portName, found = p.Name, true
			break
		}
	}
	if !found {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, name))
	}
	hosts := s.endpointsOf(service, portName)
	if len(hosts) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", q.name))
	}
	return s.proxyTo(q, scheme, hosts[rand.N(len(hosts))])
}

// endpointsOf lists the ready endpoints of a Service's port.
func (s *Server) endpointsOf(service *corev1.Service, port string) []string {
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
				if ready := endpoint.Conditions.Ready; (ready == nil || *ready) && len(endpoint.Addresses) > 0 {
					hosts = append(hosts, net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*p.Port))))
				}
			}
		}
	}
	return hosts
}

func (s *Server) proxyTo(q *request, scheme, host string) error {
	s.passThrough(q, clusterTransport, &url.URL{Scheme: scheme, Host: host, Path: q.rest, RawQuery: q.URL.RawQuery}, nil)
	return nil
}

// splitProxyName takes scheme:name:port apart, of which only name must be there.
func splitProxyName(name string) (scheme, base, port string) {
	parts := strings.Split(name, ":")
	switch len(parts) {
	case 3:
		scheme, base, port = parts[0], parts[1], parts[2]
	case 2:
		base, port = parts[0], parts[1]
	default:
		base = name
	}
	if scheme != "https" {
		scheme = "http"
	}
	return scheme, base, port
}

// refuseLocal keeps a proxied request inside the cluster.
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
