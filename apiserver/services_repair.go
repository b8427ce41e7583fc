package apiserver

import (
	"context"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/storage"
)

// Nothing of ours gets the records of addresses and ports out of step with the
// Services; a restored backup, an edited IPAddress or another program may. So
// every few minutes they are compared and mended:
//
//	Service with an address that has no record     the record is made
//	record of an address that no Service has       it goes
//	bitmap of node ports                           becomes what the Services hold
//
// The order of looking makes that safe beside others who allocate: first the
// records, then the Services, which are then at least as new; and what is
// mended must still be as it was when we looked.

const (
	repairEvery = 3 * time.Minute
	// A real kube-apiserver makes the record before the Service.
	// Upstream: kubernetes@v1.36 pkg/registry/core/service/ipallocator/controller/repairip.go gracePeriod
	youngRecord = time.Minute
)

// errMoved says that somebody else was faster; there is a next time.
var errMoved = errors.New("changed meanwhile")

// repair makes the records say what the Services say.
func (a *allocator) repair(ctx context.Context) error {
	if err := a.repairPorts(ctx); err != nil && !errors.Is(err, errMoved) && !apierrors.IsAlreadyExists(err) {
		return err
	}
	return a.repairAddresses(ctx)
}

func (a *allocator) repairPorts(ctx context.Context) error {
	table := a.server.store.Table(rangesRow)
	bitmap, revision, err := a.readPorts(ctx)
	if err != nil {
		return err
	}
	if err := a.server.tableOf("", "services").CatchUp(ctx); err != nil {
		return err
	}
	used := a.portsInUse()
	if revision == 0 {
		_, err := table.Create(ctx, nodePortsKey, a.portRecord(used))
		return err
	}
	if used.Cmp(bitmap) == 0 {
		return nil
	}
	a.server.log.Warn("Node ports were recorded that no Service has, or the other way round; mended",
		"key", nodePortsKey, "err", new(big.Int).Xor(used, bitmap).Text(16))
	_, err = table.Update(ctx, nodePortsKey, func(current *storage.Item) (*storage.Change, error) {
		if current.Revision != revision {
			return nil, errMoved
		}
		return &storage.Change{Object: a.portRecord(used)}, nil
	})
	return err
}

func (a *allocator) repairAddresses(ctx context.Context) error {
	table := a.server.tableOf(networkingv1.GroupName, "ipaddresses")
	records := table.All("")
	if err := a.server.tableOf("", "services").CatchUp(ctx); err != nil {
		return err
	}
	owners := map[string]*corev1.Service{}
	for _, service := range allCached[*corev1.Service](a.server, "", "services", "") {
		for _, ip := range clusterIPs(service) {
			if other := owners[ip]; other != nil { // which is right, only people know
				a.server.log.Error("Two Services have one address", "key", service.Namespace+"/"+service.Name+" "+other.Namespace+"/"+other.Name, "err", ip)
			}
			owners[ip] = service
			address, err := netip.ParseAddr(ip)
			if err != nil || table.Cached(ip) != nil {
				continue
			}
			a.server.log.Warn("A Service's address was not recorded; mended", "key", ip)
			if _, err := table.Create(ctx, ip, ipAddress(address, service)); err != nil && !apierrors.IsAlreadyExists(err) {
				return err
			}
		}
	}
	for _, item := range records {
		if err := a.repairRecord(ctx, table, item, owners[item.Key]); err != nil {
			return err
		}
	}
	return nil
}

// addressManager marks the records that are ours; others are none of our business.
const addressManager = "ipallocator.k8s.io"

// repairRecord removes a record whose Service is gone, and corrects one that
// names another Service.
func (a *allocator) repairRecord(ctx context.Context, table *storage.Table, item *storage.Item, owner *corev1.Service) error {
	record, ok := decoded[*networkingv1.IPAddress](item)
	if !ok || record.Labels[networkingv1.LabelManagedBy] != addressManager || record.Spec.ParentRef == nil {
		return nil
	}
	change := &storage.Change{}
	if owner != nil {
		if *record.Spec.ParentRef == *parentOf(owner) {
			return nil
		}
		right := record.DeepCopy()
		right.Spec.ParentRef = parentOf(owner)
		change.Object = right
	} else if time.Since(record.CreationTimestamp.Time) < youngRecord {
		return nil
	}
	a.server.log.Warn("An address was recorded for a Service that does not have it; mended", "key", item.Key)
	_, err := table.Update(ctx, item.Key, func(current *storage.Item) (*storage.Change, error) {
		if current.Revision != item.Revision {
			return nil, errMoved
		}
		return change, nil
	})
	if errors.Is(err, errMoved) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// ranges are where addresses come from: that of the command line, and those
// that somebody has added as ServiceCIDR objects, as long as they are not on
// their way out.
func (a *allocator) ranges() []netip.Prefix {
	out := []netip.Prefix{a.cidr}
	for _, object := range allCached[*networkingv1.ServiceCIDR](a.server, networkingv1.GroupName, "servicecidrs", "") {
		notReady := slices.ContainsFunc(object.Status.Conditions, func(c metav1.Condition) bool {
			return c.Type == networkingv1.ServiceCIDRConditionReady && c.Status == "False"
		})
		if object.DeletionTimestamp != nil || notReady {
			continue
		}
		for _, text := range object.Spec.CIDRs {
			r, err := netip.ParsePrefix(text)
			if err == nil && !slices.Contains(out, r.Masked()) {
				out = append(out, r.Masked())
			}
		}
	}
	return out
}
