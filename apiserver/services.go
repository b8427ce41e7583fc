package apiserver

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// A Service's address and node ports must be its alone. Handing them out and
// storing the Service are therefore one transaction in etcd:
//
//	If   /registry/services/specs/default/web    does not exist
//	     /registry/ipaddresses/10.96.7.41        does not exist
//	     /registry/ranges/servicenodeports       is at revision 812
//	Then put all three
//
// so neither a crash nor another API server can leave an address taken by
// nobody, or by two. The records are upstream's: an IPAddress object for each
// address, a bitmap for the node ports; a real kube-apiserver can go on from
// them. What others may have damaged is repaired at start.

// nodePortsKey is where the bitmap of node ports is, below "ranges".
const nodePortsKey = "servicenodeports"

// rangesRow is a resource that no client sees.
var rangesRow = &resources.Row{
	Version: "v1", Kind: "RangeAllocation", Plural: "rangeallocations", Singular: "rangeallocation", Prefix: "ranges",
	New: func() resources.Object { return &corev1.RangeAllocation{} },
}

// allocator hands out cluster IPs and node ports.
type allocator struct {
	server        *Server
	cidr          netip.Prefix
	first, last   int // node ports
	portRangeText string
}

func newAllocator(s *Server) (*allocator, error) {
	a := &allocator{server: s, portRangeText: s.cfg.NodePortRange}
	if s.cfg.ServiceCIDR == "" {
		s.cfg.ServiceCIDR = "10.0.0.0/24" // upstream's default
	}
	// A second range, for the other IP family, is not served.
	text, _, _ := strings.Cut(s.cfg.ServiceCIDR, ",")
	var err error
	if a.cidr, err = netip.ParsePrefix(text); err != nil {
		return nil, fmt.Errorf("service CIDR: %w", err)
	}
	a.cidr = a.cidr.Masked()
	if a.portRangeText == "" {
		a.portRangeText = "30000-32767"
	}
	from, to, ok := strings.Cut(a.portRangeText, "-")
	a.first, err = strconv.Atoi(from)
	if err == nil && ok {
		a.last, err = strconv.Atoi(to)
	}
	if err != nil || !ok || a.first < 1 || a.last > 65535 || a.first > a.last {
		return nil, fmt.Errorf("node port range %q is not like 30000-32767", a.portRangeText)
	}
	return a, nil
}

// allocate completes an object with what must be unique in the cluster, and
// returns the writes that go with it. Either object may be nil.
func (s *Server) allocate(q *request, obj, old resources.Object) (resources.Object, []storage.Also, error) {
	service, _ := obj.(*corev1.Service)
	was, _ := old.(*corev1.Service)
	if service == nil && was == nil {
		return obj, nil, nil
	}
	if service != nil {
		service = service.DeepCopy() // a retry starts from what was asked for
	}
	addresses, err := s.services.addresses(q.Context(), service, was)
	if err != nil {
		return nil, nil, err
	}
	ports, err := s.services.ports(q.Context(), service, was)
	if err != nil || service == nil {
		return nil, append(addresses, ports...), err
	}
	return service, append(addresses, ports...), nil
}

// addresses plans the cluster IP.
func (a *allocator) addresses(ctx context.Context, service, was *corev1.Service) ([]storage.Also, error) {
	table := a.server.tableOf(networkingv1.GroupName, "ipaddresses")
	var also []storage.Also
	had := clusterIPs(was)
	if err := a.twoFamilies(service); err != nil {
		return nil, err
	}
	if service != nil && service.Spec.Type != corev1.ServiceTypeExternalName && service.Spec.ClusterIP == "" {
		ip, err := a.freeAddress(table)
		if err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("failed to allocate a serviceIP: %w", err))
		}
		service.Spec.ClusterIP, service.Spec.ClusterIPs = ip.String(), []string{ip.String()}
		also = append(also, storage.Also{Table: table, Key: ip.String(), Object: ipAddress(ip, service)})
		had = append(had, ip.String()) // as good as: the rest need not ask
	}
	want := clusterIPs(service)
	for _, ip := range want {
		if slices.Contains(had, ip) {
			continue
		}
		record, err := a.take(ctx, table, ip, service)
		if err != nil {
			return nil, err
		}
		if record != nil {
			also = append(also, *record)
		}
	}
	for _, ip := range had {
		if !slices.Contains(want, ip) {
			also = append(also, storage.Also{Table: table, Key: ip, IfRevision: storage.AnyRevision})
		}
	}
	return also, nil
}

// twoFamilies refuses a Service that insists on addresses of both if there are
// ranges of one only.
func (a *allocator) twoFamilies(service *corev1.Service) error {
	if service == nil || service.Spec.IPFamilyPolicy == nil || *service.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack ||
		service.Spec.ClusterIP == corev1.ClusterIPNone && len(service.Spec.Selector) == 0 {
		return nil
	}
	ranges := a.ranges()
	v4 := slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Addr().Is4() })
	if v4 && slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Addr().Is6() }) {
		return nil
	}
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), service.Name, field.ErrorList{
		field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), *service.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"),
	})
}

// clusterIPs are the addresses that a Service holds.
func clusterIPs(service *corev1.Service) []string {
	if service == nil || service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	if len(service.Spec.ClusterIPs) > 0 {
		return service.Spec.ClusterIPs
	}
	return []string{service.Spec.ClusterIP}
}

// take plans the record of one address, or nil if it is there already.
func (a *allocator) take(ctx context.Context, table *storage.Table, ip string, service *corev1.Service) (*storage.Also, error) {
	refuse := func(format string, args ...any) error {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), service.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "clusterIPs"), service.Spec.ClusterIPs, "failed to allocate IP "+ip+": "+fmt.Sprintf(format, args...)),
		})
	}
	address, err := netip.ParseAddr(ip)
	within := func(r netip.Prefix) bool { return r.Contains(address) && address != r.Addr() }
	if err != nil || !slices.ContainsFunc(a.ranges(), within) {
		return nil, refuse("the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, a.cidr)
	}
	item, err := table.Get(ctx, ip, "")
	if apierrors.IsNotFound(err) {
		return &storage.Also{Table: table, Key: ip, Object: ipAddress(address, service)}, nil
	} else if err != nil {
		return nil, err
	}
	record, ok := decoded[*networkingv1.IPAddress](item)
	parent := parentOf(service)
	if !ok || record.Spec.ParentRef == nil || *record.Spec.ParentRef != *parent {
		return nil, refuse("provided IP is already allocated")
	}
	return nil, nil
}

func parentOf(service *corev1.Service) *networkingv1.ParentReference {
	return &networkingv1.ParentReference{Resource: "services", Namespace: service.Namespace, Name: service.Name}
}

func ipAddress(address netip.Addr, service *corev1.Service) *networkingv1.IPAddress {
	family := "IPv4"
	if address.Is6() {
		family = "IPv6"
	}
	record := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: address.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: family, networkingv1.LabelManagedBy: addressManager,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: parentOf(service)},
	}
	stampNew(record)
	return record
}

// freeAddress guesses an address that nobody has, as far as the cache knows;
// the transaction finds out. Ranges are used up one after the other.
func (a *allocator) freeAddress(table *storage.Table) (netip.Addr, error) {
	for _, r := range a.ranges() {
		if r.Addr().Is4() != a.cidr.Addr().Is4() {
			continue
		}
		if ip, ok := freeIn(r, func(ip netip.Addr) bool { return table.Cached(ip.String()) == nil }); ok {
			return ip, nil
		}
	}
	return netip.Addr{}, errors.New("range is full")
}

// freeIn looks for a free address, from a random place on. The lower part of
// the range is left to those who choose theirs themselves (DNS has .10 by
// custom), and comes last.
// Upstream: KEP-3070, reserve service IP ranges for dynamic and static allocation
func freeIn(r netip.Prefix, free func(netip.Addr) bool) (netip.Addr, bool) {
	hostBits := r.Addr().BitLen() - r.Bits()
	size := 1 << min(hostBits, 30)
	static := min(max(16, size/16), 256)
	if size <= static {
		static = 0
	}
	start := static + rand.N(size-static)
	for i := range size {
		offset := (start + i) % size
		if offset < 2 { // the network, and the API server's own
			continue
		}
		ip := addOffset(r.Addr(), offset)
		if hostBits <= 30 && offset == size-1 && ip.Is4() {
			continue // broadcast
		}
		if free(ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func addOffset(base netip.Addr, offset int) netip.Addr {
	sum := new(big.Int).Add(new(big.Int).SetBytes(base.AsSlice()), big.NewInt(int64(offset)))
	ip, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, len(base.AsSlice()))))
	return ip
}

// ports plans the node ports.
func (a *allocator) ports(ctx context.Context, service, was *corev1.Service) ([]storage.Also, error) {
	had := nodePorts(was)
	if service != nil && !needsPorts(service) && len(nodePorts(service)) == 0 || service == nil {
		if len(had) == 0 {
			return nil, nil
		}
	}
	if service != nil && needsPorts(service) == (was != nil && needsPorts(was)) && slices.Equal(nodePorts(service), had) && !missingPorts(service) {
		return nil, nil
	}
	bitmap, revision, err := a.readPorts(ctx)
	if err != nil {
		return nil, err
	}
	for _, port := range had {
		bitmap.SetBit(bitmap, port-a.first, 0)
	}
	if service != nil {
		if err := a.takePorts(service, had, bitmap); err != nil {
			return nil, err
		}
	}
	return []storage.Also{{Table: a.server.store.Table(rangesRow), Key: nodePortsKey, Object: a.portRecord(bitmap), IfRevision: revision}}, nil
}

// takePorts claims the ports a Service names and finds the others.
func (a *allocator) takePorts(service *corev1.Service, had []int, bitmap *big.Int) error {
	claim := func(path *field.Path, port int32) error {
		if int(port) < a.first || int(port) > a.last {
			return a.badPort(service, path, port, "provided port is not in the valid range. The range of valid ports is "+a.portRangeText)
		}
		if bitmap.Bit(int(port)-a.first) == 1 {
			return a.badPort(service, path, port, "provided port is already allocated")
		}
		return nil
	}
	named := map[int32]bool{} // one number serves several protocols
	for i, port := range service.Spec.Ports {
		if port.NodePort == 0 || named[port.NodePort] {
			continue
		}
		if err := claim(field.NewPath("spec", "ports").Index(i).Child("nodePort"), port.NodePort); err != nil {
			return err
		}
		named[port.NodePort] = true
	}
	if health := service.Spec.HealthCheckNodePort; health != 0 {
		if err := claim(field.NewPath("spec", "healthCheckNodePort"), health); err != nil {
			return err
		}
		named[health] = true
	}
	for port := range named {
		bitmap.SetBit(bitmap, int(port)-a.first, 1)
	}
	if !needsPorts(service) {
		return nil
	}
	for i := range service.Spec.Ports {
		if service.Spec.Ports[i].NodePort != 0 {
			continue
		}
		port, err := a.freePort(bitmap)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a nodePort: %w", err))
		}
		service.Spec.Ports[i].NodePort = port
	}
	if wantsHealthPort(service) && service.Spec.HealthCheckNodePort == 0 {
		port, err := a.freePort(bitmap)
		if err != nil {
			return apierrors.NewInternalError(fmt.Errorf("failed to allocate a healthCheckNodePort: %w", err))
		}
		service.Spec.HealthCheckNodePort = port
	}
	return nil
}

func (a *allocator) badPort(service *corev1.Service, path *field.Path, port int32, text string) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), service.Name,
		field.ErrorList{field.Invalid(path, port, text)})
}

func (a *allocator) freePort(bitmap *big.Int) (int32, error) {
	size := a.last - a.first + 1
	start := rand.N(size)
	for i := range size {
		if offset := (start + i) % size; bitmap.Bit(offset) == 0 {
			bitmap.SetBit(bitmap, offset, 1)
			return int32(a.first + offset), nil
		}
	}
	return 0, errors.New("range is full")
}

func needsPorts(service *corev1.Service) bool {
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return service.Spec.AllocateLoadBalancerNodePorts == nil || *service.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

func wantsHealthPort(service *corev1.Service) bool {
	return service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func missingPorts(service *corev1.Service) bool {
	return needsPorts(service) && slices.ContainsFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == 0 }) ||
		wantsHealthPort(service) && service.Spec.HealthCheckNodePort == 0
}

// nodePorts are the ports that a Service holds, each once, in order.
func nodePorts(service *corev1.Service) []int {
	if service == nil {
		return nil
	}
	var out []int
	for _, port := range service.Spec.Ports {
		if port.NodePort != 0 {
			out = append(out, int(port.NodePort))
		}
	}
	if service.Spec.HealthCheckNodePort != 0 {
		out = append(out, int(service.Spec.HealthCheckNodePort))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// readPorts returns the bitmap, and the revision it is at; 0 if it is not
// there yet.
func (a *allocator) readPorts(ctx context.Context) (*big.Int, int64, error) {
	item, err := a.server.store.Table(rangesRow).Get(ctx, nodePortsKey, "")
	if apierrors.IsNotFound(err) {
		return new(big.Int), 0, nil
	} else if err != nil {
		return nil, 0, err
	}
	record, ok := decoded[*corev1.RangeAllocation](item)
	if !ok {
		return nil, 0, apierrors.NewInternalError(errors.New("the record of node ports cannot be read"))
	}
	if record.Range != a.portRangeText { // the flag has changed: begin anew
		return a.portsInUse(), item.Revision, nil
	}
	return new(big.Int).SetBytes(record.Data), item.Revision, nil
}

func (a *allocator) portRecord(bitmap *big.Int) *corev1.RangeAllocation {
	return &corev1.RangeAllocation{Range: a.portRangeText, Data: bitmap.Bytes()}
}

// portsInUse is the bitmap as the Services themselves say it should be.
func (a *allocator) portsInUse() *big.Int {
	bitmap := new(big.Int)
	for _, service := range allCached[*corev1.Service](a.server, "", "services", "") {
		for _, port := range nodePorts(service) {
			if port >= a.first && port <= a.last {
				bitmap.SetBit(bitmap, port-a.first, 1)
			}
		}
	}
	return bitmap
}
