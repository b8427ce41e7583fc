package apiserver

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// Pods reach the API server by a Service like any other, default/kubernetes,
// with the first address of the range. It has no selector, since the server
// need not be a pod; the server itself writes its endpoints.
// If there are several servers, each announces itself in etcd and writes the
// addresses of all who do (storage/presence.go).

const publishedPort = 443

// publish makes the Service and its endpoints say where we are.
func (s *Server) publish(ctx context.Context) error {
	if err := s.ensure(ctx, s.services.serviceCIDR()); err != nil {
		return err
	}
	if err := s.ensure(ctx, s.ownService()); err != nil {
		return err
	}
	trust, err := s.trustConfigMap()
	if err != nil {
		return err
	}
	if err := s.put(ctx, trust); err != nil {
		return err
	}
	address := s.advertised()
	if address == "" {
		return nil // nobody but this machine can reach us
	}
	if err := s.store.Announce(ctx, address); err != nil {
		return err
	}
	return s.publishEndpoints(ctx)
}

// publishEndpoints writes who is there. Nobody is no answer: rather leave the
// last ones, who may be back.
func (s *Server) publishEndpoints(ctx context.Context) error {
	addresses, err := s.store.Announced(ctx)
	if err != nil || len(addresses) == 0 {
		return err
	}
	if err := s.put(ctx, s.ownEndpoints(addresses)); err != nil {
		return err
	}
	return s.put(ctx, s.ownSlice(addresses))
}

const withdrawPatience = 2 * time.Second

// withdraw is called when the server stops, so that nobody is sent to it any
// more. The last one leaves its endpoints: it will be back, and nobody else
// could answer.
func (s *Server) withdraw(ctx context.Context) {
	address := s.advertised()
	if address == "" || !s.seeded.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawPatience)
	defer cancel()
	err := s.store.Withdraw(ctx, address)
	if err == nil {
		err = s.publishEndpoints(ctx)
	}
	if err != nil {
		s.log.Warn("Cannot withdraw from the endpoints of the kubernetes Service", "err", err)
	}
}

// put creates an object of ours, or makes it what it should be.
func (s *Server) put(ctx context.Context, obj resources.Object) error {
	q := s.internal(ctx, s.rowFor(obj), obj.GetNamespace(), obj.GetName())
	_, err := s.updateObject(q, func(old resources.Object) (resources.Object, error) {
		changed := old.DeepCopyObject().(resources.Object)
		copyContent(changed, obj)
		if equality.Semantic.DeepEqual(changed, old) {
			return old.DeepCopyObject().(resources.Object), nil
		}
		return changed, nil
	})
	if apierrors.IsNotFound(err) {
		return s.ensure(ctx, obj)
	}
	return err
}

func copyContent(to, from resources.Object) {
	switch to := to.(type) {
	case *corev1.Endpoints:
		to.Subsets = from.(*corev1.Endpoints).Subsets
	case *discoveryv1.EndpointSlice:
		slice := from.(*discoveryv1.EndpointSlice)
		to.Endpoints, to.Ports = slice.Endpoints, slice.Ports
	case *corev1.ConfigMap:
		to.Data = from.(*corev1.ConfigMap).Data
	}
	to.SetLabels(from.GetLabels())
}

// advertised is the address that pods shall use.
func (s *Server) advertised() string {
	for _, text := range []string{s.cfg.AdvertiseAddress, s.cfg.BindAddress} {
		if ip, err := netip.ParseAddr(text); err == nil && !ip.IsUnspecified() && !ip.IsLoopback() {
			return ip.String()
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil || s.cfg.BindAddress != "" && net.ParseIP(s.cfg.BindAddress).IsLoopback() {
		return ""
	}
	for _, address := range addresses {
		prefix, err := netip.ParsePrefix(address.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() && prefix.Addr().Is4() {
			return prefix.Addr().String()
		}
	}
	return ""
}

// serviceCIDR is the range as an object, from which others read it.
func (a *allocator) serviceCIDR() *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{a.cidr.String()}},
	}
}

func (s *Server) ownService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Namespace: "default",
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: addOffset(s.services.cidr.Addr(), 1).String(),
			Ports:     []corev1.ServicePort{{Name: "https", Protocol: corev1.ProtocolTCP, Port: publishedPort, TargetPort: portOf(s.port())}},
		},
	}
}

func (s *Server) ownEndpoints(addresses []string) *corev1.Endpoints {
	var list []corev1.EndpointAddress
	for _, ip := range addresses {
		list = append(list, corev1.EndpointAddress{IP: ip})
	}
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Namespace: "default",
			// The slice is written here as well; nobody need mirror it.
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
		},
		Subsets: []corev1.EndpointSubset{{
			Addresses: list,
			Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(s.port()), Protocol: corev1.ProtocolTCP}},
		}},
	}
}

func (s *Server) ownSlice(addresses []string) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if ip, err := netip.ParseAddr(addresses[0]); err == nil && ip.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	ready, name, port, protocol := true, "https", int32(s.port()), corev1.ProtocolTCP
	var list []discoveryv1.Endpoint
	for _, ip := range addresses {
		list = append(list, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: "kubernetes", Namespace: "default",
			Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"},
		},
		AddressType: family,
		Endpoints:   list,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
}

// trustConfigMap tells other servers whose certificates and headers we believe,
// so that they can believe the same.
func (s *Server) trustConfigMap() (*corev1.ConfigMap, error) {
	data := map[string]string{}
	for key, file := range map[string]string{
		"client-ca-file": s.cfg.ClientCAFile, "requestheader-client-ca-file": s.cfg.RequestHeader.CAFile,
	} {
		if file == "" {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		data[key] = string(text)
	}
	if header := &s.cfg.RequestHeader; header.CAFile != "" {
		for key, list := range map[string][]string{
			"requestheader-allowed-names": header.AllowedNames, "requestheader-username-headers": header.UsernameHeaders,
			"requestheader-group-headers": header.GroupHeaders, "requestheader-extra-headers-prefix": header.ExtraPrefixes,
		} {
			text, err := json.Marshal(list)
			if err != nil {
				return nil, err
			}
			data[key] = string(text)
		}
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication", Namespace: "kube-system"}, Data: data,
	}, nil
}
