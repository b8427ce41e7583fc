package flannel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// DefaultAnnotationPrefix begins the names of the annotations that nodes tell
// each other through.
const DefaultAnnotationPrefix = "flannel.alpha.coreos.com"

// KubeSource takes leases from Node objects: the subnet from spec.podCIDR, which
// the node IPAM controller assigns, and the rest from annotations, which each
// node's flanneld writes.
//
// Upstream: flannel-io/flannel pkg/subnet/kube; the same annotations, so nodes
// of both kinds understand each other.
type KubeSource struct {
	Client *client.Client
	Node   string
	Prefix string
	// SetCondition also sets NetworkUnavailable=False on our Node.
	SetCondition bool
	VNI          int
	Logger       *slog.Logger
}

func (s *KubeSource) annotation(name string) string { return s.Prefix + "/" + name }

// retryInterval: the API server may be away, or not reachable before kube-proxy
// has written its rules.
const retryInterval = 250 * time.Millisecond

// Mine waits for our Node to have a podCIDR.
func (s *KubeSource) Mine(ctx context.Context, _ Lease) (Lease, error) {
	nodes := client.For(s.Client, client.Nodes)
	last := ""
	ticker := time.NewTicker(retryInterval)
	defer ticker.Stop()
	for {
		node, err := nodes.Get(ctx, "", s.Node)
		if err == nil {
			var lease Lease
			if lease, err = s.early(node); err == nil {
				return lease, nil
			}
		}
		if ctx.Err() != nil {
			return Lease{}, ctx.Err()
		}
		// Once per reason, not once per second.
		if err.Error() != last {
			last = err.Error()
			s.Logger.Warn("Waiting for this node's subnet", "node", s.Node, "err", err)
		}
		select {
		case <-ctx.Done():
			return Lease{}, ctx.Err()
		case <-ticker.C:
		}
	}
}

// early reads our own Node as we find it.
func (s *KubeSource) early(node *corev1.Node) (Lease, error) {
	lease := Lease{Node: node.Name}
	subnet, err := podCIDR(node)
	if err != nil {
		return lease, err
	}
	lease.Subnet = subnet
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && ip.Is4() {
			lease.PublicIP = ip
			break
		}
	}
	// An earlier life's MAC, if any: with it nothing changes for the others.
	lease.VTEP, _ = s.storedMAC(node)
	return lease, nil
}

// podCIDR is the node's IPv4 subnet.
func podCIDR(node *corev1.Node) (netip.Prefix, error) {
	for _, cidr := range append(node.Spec.PodCIDRs, node.Spec.PodCIDR) {
		if cidr == "" {
			continue
		}
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return p, fmt.Errorf("node %s: podCIDR: %w", node.Name, err)
		}
		if p.Addr().Is4() {
			return p.Masked(), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("node %s has no IPv4 podCIDR (is the node IPAM controller running, with --allocate-node-cidrs?)", node.Name)
}

func (s *KubeSource) storedMAC(node *corev1.Node) (MAC, error) {
	var data backendData
	if err := json.Unmarshal([]byte(node.Annotations[s.annotation("backend-data")]), &data); err != nil {
		return MAC{}, fmt.Errorf("node %s: backend-data: %w", node.Name, err)
	}
	return ParseMAC(data.VtepMAC)
}

// leaseOf reads another node. A node whose flanneld has not spoken yet has no
// lease, and that is no problem.
func (s *KubeSource) leaseOf(node *corev1.Node) (lease Lease, ok bool, err error) {
	if node.Annotations[s.annotation("kube-subnet-manager")] != "true" {
		return lease, false, nil
	}
	lease = Lease{Node: node.Name, Backend: node.Annotations[s.annotation("backend-type")]}
	if lease.Subnet, err = podCIDR(node); err != nil {
		return lease, false, err
	}
	if lease.PublicIP, err = netip.ParseAddr(node.Annotations[s.annotation("public-ip")]); err != nil {
		return lease, false, fmt.Errorf("node %s: public-ip: %w", node.Name, err)
	}
	if lease.Backend == vxlanBackend {
		lease.VTEP, err = s.storedMAC(node)
	}
	return lease, err == nil, err
}

// Publish writes our annotations, if they are not there already, and the
// condition. Both go to nodes/status, which is all that flannel may patch.
func (s *KubeSource) Publish(ctx context.Context, mine Lease) error {
	nodes := client.For(s.Client, client.Nodes)
	node, err := nodes.Get(ctx, "", s.Node)
	if err != nil {
		return err
	}
	want := map[string]string{
		s.annotation("backend-data"):        mine.BackendData(s.VNI),
		s.annotation("backend-type"):        mine.Backend,
		s.annotation("public-ip"):           mine.PublicIP.String(),
		s.annotation("kube-subnet-manager"): "true",
	}
	for name, value := range want {
		if node.Annotations[name] == value {
			delete(want, name)
		}
	}
	var errs []error
	if len(want) > 0 {
		errs = append(errs, s.patch(ctx, map[string]any{"metadata": map[string]any{"annotations": want}}))
	}
	if s.SetCondition && !networkAvailable(node) {
		now := metav1.Now()
		errs = append(errs, s.patch(ctx, map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{
			Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse,
			Reason: "FlannelIsUp", Message: "Flannel is running on this node",
			LastHeartbeatTime: now, LastTransitionTime: now,
		}}}}))
	}
	return errors.Join(errs...)
}

func networkAvailable(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			return c.Status == corev1.ConditionFalse
		}
	}
	return false
}

func (s *KubeSource) patch(ctx context.Context, change any) error {
	data, err := json.Marshal(change)
	if err != nil {
		return err
	}
	_, err = client.For(s.Client, client.Nodes).Patch(ctx, "", s.Node, types.StrategicMergePatchType, data, "status")
	return err
}

// Watch follows all Nodes.
func (s *KubeSource) Watch(ctx context.Context, changed func([]Lease)) error {
	inf := client.NewInformer(client.For(s.Client, client.Nodes), client.InformerOptions[*corev1.Node]{Logger: s.Logger})
	complained := map[string]string{} // node → last problem, to log it once
	tell := func() {
		var leases []Lease
		for _, node := range inf.List() {
			lease, ok, err := s.leaseOf(node)
			if ok {
				leases = append(leases, lease)
			}
			if err == nil {
				delete(complained, node.Name)
			} else if complained[node.Name] != err.Error() {
				complained[node.Name] = err.Error()
				s.Logger.Warn("Left a node out", "err", err)
			}
		}
		changed(byNode(leases))
	}
	// Before the first full list a node that we have not heard of is not a node
	// that is gone: nothing may be removed.
	inf.OnChange(func(_, _ *corev1.Node) {
		if inf.HasSynced() {
			tell()
		}
	})
	done := make(chan error, 1)
	go func() { done <- inf.Run(ctx) }()
	select {
	case <-inf.Synced():
		tell()
	case <-ctx.Done():
	}
	return <-done
}
