package etcd

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"tinykube/flannel"
	"tinykube/internal/etcdtest"
)

func TestMain(m *testing.M) { etcdtest.Main(m) }

const config = `{"Network":"10.5.0.0/16","SubnetLen":24,"SubnetMin":"10.5.1.0","SubnetMax":"10.5.3.0","Backend":{"Type":"vxlan"}}`

// open is a node's way to the store.
func open(t *testing.T, endpoint string) *Source {
	t.Helper()
	s, _, err := Open(t.Context(), Config{Endpoints: []string{endpoint}, Prefix: "/coreos.com/network", RenewMargin: time.Hour}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func self(ip string) flannel.Lease {
	return flannel.Lease{Backend: "vxlan", PublicIP: netip.MustParseAddr(ip)}
}

// The life of subnets: taken, found again, reserved, lost, lost to somebody else.
func TestSubnets(t *testing.T) {
	endpoint := etcdtest.Start(t, t.TempDir()).Endpoint
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Put(ctx, "/coreos.com/network/config", config); err != nil {
		t.Fatal(err)
	}
	// The administrator promises the third of three subnets to a node.
	if _, err := admin.Put(ctx, "/coreos.com/network/subnets/10.5.3.0-24", `{"PublicIP":"172.30.9.3"}`); err != nil {
		t.Fatal(err)
	}
	s := open(t, endpoint)
	mine := func(l flannel.Lease) flannel.Lease {
		t.Helper()
		got, err := s.Mine(ctx, l)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	reserved := mine(self("172.30.9.3"))
	if reserved.Subnet.String() != "10.5.3.0/24" {
		t.Errorf("the reserved subnet: %+v", reserved)
	}
	previous := self("172.30.9.2")
	previous.Subnet = netip.MustParsePrefix("10.5.2.1/24")
	second := mine(previous)
	if second.Subnet.String() != "10.5.2.0/24" || second.VTEP.IsZero() {
		t.Errorf("the subnet of the earlier life: %+v", second)
	}
	first := mine(self("172.30.9.1"))
	if first.Subnet.String() != "10.5.1.0/24" {
		t.Errorf("the only free subnet: %+v", first)
	}
	if again := mine(self("172.30.9.1")); again != first {
		t.Errorf("asked again: %+v, then %+v", first, again)
	}
	full, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	if _, err := s.Mine(full, self("172.30.9.4")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a fourth node: %v", err)
	}

	// Publish says more about a reservation, and leaves it one.
	if err := s.Publish(ctx, reserved); err != nil {
		t.Fatal(err)
	}
	known, _, err := s.list(ctx)
	if r := known[s.key(reserved)]; err != nil || r.etcdLease != 0 || r.Backend != "vxlan" {
		t.Errorf("the reservation became %+v, %v", r, err)
	}
	// A lease that is lost is taken again; one that somebody else has now is not.
	if _, err := admin.Delete(ctx, s.key(first)); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(ctx, first); err != nil {
		t.Error(err)
	}
	known, _, _ = s.list(ctx)
	if r := known[s.key(first)]; r.Lease != first || r.etcdLease == 0 {
		t.Errorf("taken again: %+v", r)
	}
	if _, err := admin.Put(ctx, s.key(first), `{"PublicIP":"172.30.9.9","BackendType":"vxlan"}`); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(ctx, first); !errors.Is(err, flannel.ErrMoved) {
		t.Errorf("somebody else has the subnet: %v", err)
	}
}

// Of two nodes one falls silent: etcd ends its lease by itself, and whoever
// watches forgets it. The other says in time that it is still there.
func TestExpiry(t *testing.T) {
	endpoint := etcdtest.Start(t, t.TempDir()).Endpoint
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Put(ctx, "/coreos.com/network/config", config); err != nil {
		t.Fatal(err)
	}
	s, _, err := Open(ctx, Config{Endpoints: []string{endpoint}, Prefix: "/coreos.com/network", TTL: 5 * time.Second, RenewMargin: 4500 * time.Millisecond}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	alive, err := s.Mine(ctx, self("172.30.9.1"))
	if err != nil {
		t.Fatal(err)
	}
	silent, err := s.Mine(ctx, self("172.30.9.2"))
	if err != nil {
		t.Fatal(err)
	}
	watched, stop := context.WithCancel(ctx)
	defer stop()
	go func() { // what flannel.Run does
		for tick := time.NewTicker(s.Renewal()); watched.Err() == nil; <-tick.C {
			_ = s.Publish(watched, alive)
		}
	}()
	seen := 0
	if err := s.Watch(watched, func(leases []flannel.Lease) {
		switch {
		case len(leases) == 2 && seen == 0:
			seen++
		case len(leases) == 1 && leases[0].Subnet == alive.Subnet && seen == 1:
			seen++
			stop()
		case len(leases) < 2:
			t.Errorf("after %d changes: %v", seen, leases)
			stop()
		}
	}); err != nil || seen != 2 {
		t.Errorf("seen %d: %v", seen, err)
	}
	// The subnet is free again.
	if next, err := s.Mine(ctx, self("172.30.9.9")); err != nil || next.Subnet == alive.Subnet {
		t.Errorf("%v %v; %s was free", next, err, silent.Subnet)
	}
}

func TestNetConf(t *testing.T) {
	for text, want := range map[string]string{
		`{"Network":"10.5.0.0/16","SubnetLen":31,"Backend":{"Type":"vxlan"}}`:           "less than /31",
		`{"Network":"10.5.0.0/16","SubnetLen":17,"Backend":{"Type":"vxlan"}}`:           "four subnets",
		`{"Network":"10.5.0.0/29","Backend":{"Type":"vxlan"}}`:                          "too small",
		`{"Network":"10.5.0.0/16","SubnetMin":"10.6.0.0","Backend":{"Type":"vxlan"}}`:   "not in network",
		`{"Network":"10.5.0.0/16","SubnetMax":"10.5.9.7","Backend":{"Type":"vxlan"}}`:   "not the first address",
		`{"Network":"10.5.0.0/16","SubnetMax":"fd00::1","Backend":{"Type":"host-gw"}}`:  "not in network",
		`{"Network":"10.5.0.0/16","SubnetMin":"nonsense","Backend":{"Type":"host-gw"}}`: "nonsense",
		`{"Network":"10.5.0.0/16","SubnetLen":-1,"Backend":{"Type":"vxlan"}}`:           "four subnets",
	} {
		if _, err := flannel.ParseEtcdNetConf([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	small, err := flannel.ParseEtcdNetConf([]byte(`{"Network":"10.5.0.0/26","Backend":{"Type":"vxlan"}}`))
	if err != nil || small.SubnetLen != 28 || small.SubnetMin.String() != "10.5.0.16" || small.SubnetMax.String() != "10.5.0.48" {
		t.Errorf("%+v, %v", small, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("/coreos.com/network/subnets/10.5.71.0-24", `{"PublicIP":"172.30.9.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0e:f1:ac:1e:09:02"}}`)
	f.Add("/x/10.5.71.0-24&fd00::-64", `{"PublicIP":"172.30.9.2","BackendType":"host-gw"}`)
	f.Fuzz(func(t *testing.T, key, value string) {
		r, err := decode(&mvccpb.KeyValue{Key: []byte(key), Value: []byte(value)})
		if err == nil {
			again, err := decode(&mvccpb.KeyValue{Key: []byte("/" + r.Node), Value: []byte(encode(r.Lease, 1))})
			if err != nil || r.Backend == "vxlan" && again.Lease != r.Lease {
				t.Errorf("%+v became %+v, %v", r.Lease, again.Lease, err)
			}
		}
	})
}
