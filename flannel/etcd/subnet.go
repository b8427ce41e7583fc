package etcd

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"path"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"tinykube/flannel"
)

// reservation is a lease as etcd has it.
type reservation struct {
	flannel.Lease
	etcdLease clientv3.LeaseID // 0: for ever
}

// attributes are the value's form.
type attributes struct {
	PublicIP    string
	PublicIPv6  *string
	BackendType string          `json:",omitempty"`
	BackendData json.RawMessage `json:",omitempty"`
}

// subnetKey is 10.5.71.0-24.
func subnetKey(subnet netip.Prefix) string {
	return strings.Replace(subnet.Masked().String(), "/", "-", 1)
}

func encode(l flannel.Lease, vni int) string {
	text, _ := json.Marshal(attributes{PublicIP: l.PublicIP.String(), BackendType: l.Backend, BackendData: json.RawMessage(l.BackendData(vni))})
	return string(text)
}

// decode reads one key. A reservation may say nothing but an address.
func decode(kv *mvccpb.KeyValue) (r reservation, err error) {
	name := path.Base(string(kv.Key))
	// A key for two families continues with &, and the IPv6 subnet.
	v4, _, _ := strings.Cut(name, "&")
	if r.Subnet, err = netip.ParsePrefix(strings.Replace(v4, "-", "/", 1)); err != nil {
		return r, fmt.Errorf("key: %w", err)
	}
	var a attributes
	if err := json.Unmarshal(kv.Value, &a); err != nil {
		return r, err
	}
	if r.PublicIP, err = netip.ParseAddr(a.PublicIP); err != nil {
		return r, fmt.Errorf("PublicIP: %w", err)
	}
	r.Node, r.Backend, r.etcdLease = name, a.BackendType, clientv3.LeaseID(kv.Lease)
	var data struct{ VtepMAC string }
	if json.Unmarshal(a.BackendData, &data) == nil && data.VtepMAC != "" {
		if r.VTEP, err = flannel.ParseMAC(data.VtepMAC); err != nil {
			return r, fmt.Errorf("VtepMAC: %w", err)
		}
	}
	return r, nil
}

// candidates bounds how many free subnets are looked for before one is drawn:
// enough that nodes which start together seldom draw the same.
const candidates = 100

// choose answers the previous subnet if it fits and is free, else one by chance
// of those that are.
func choose(conf *flannel.NetConf, previous netip.Prefix, taken []reservation) (netip.Prefix, error) {
	free := func(subnet netip.Prefix) bool {
		for _, r := range taken {
			if r.Subnet.Overlaps(subnet) {
				return false
			}
		}
		return true
	}
	if previous.IsValid() && conf.Fits(previous.Masked()) && free(previous) {
		return previous.Masked(), nil
	}
	var found []netip.Prefix
	for subnet := range conf.Subnets() {
		if free(subnet) {
			if found = append(found, subnet); len(found) == candidates {
				break
			}
		}
	}
	if len(found) == 0 {
		return netip.Prefix{}, fmt.Errorf("out of subnets: all of %s to %s are taken", conf.SubnetMin, conf.SubnetMax)
	}
	return found[rand.IntN(len(found))], nil
}
