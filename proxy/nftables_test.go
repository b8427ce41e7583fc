package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"tinykube/internal/nstest"
)

// Elements of every set, written by us and written by nft, are the same ones.
func TestElementWriter(t *testing.T) {
	for _, family := range []Family{IPv4, IPv6} {
		w := &world{testMode: testMode{modeNFTables, family}, t: t}
		services, slices := loadYAML(t, "testdata/services.yaml")
		one := NewState(Node{Name: "node-0", Family: family}, rewrite(w, services), rewrite(w, slices))
		moved := strings.NewReplacer("10.244.", "10.245.", "10.96.", "10.97.", "192.0.2.7", "192.0.2.17", ":30080", ":30090")
		two := NewState(Node{Name: "node-0", Family: family}, rewrite(w, move[*corev1.Service](services, moved)), rewrite(w, move[*discoveryv1.EndpointSlice](slices, moved)))
		options := Options{Local: LocalTraffic{CIDR: netip.MustParsePrefix(w.ip("10.244.0.0/16"))}, MasqueradeBit: 14}
		ours, theirs := nstest.New(t, "ours"), nstest.New(t, "theirs")
		b := w.backend().(*NFTables)
		var empty string
		ours.Must(func() error {
			if _, err := b.Sync(context.Background(), one, options); err != nil {
				return err
			}
			empty = w.what(ours)
			return b.elements.write(family, b.plan(&b.ledger, two, options))
		})
		theirs.Must(func() error {
			_, err := w.backend().Sync(context.Background(), two, options)
			return err
		})
		got, want := w.what(ours), w.what(theirs)
		if got != want || got == empty {
			t.Errorf("written by us:\n%s\nby nft:\n%s", got, want)
		}
		// All or nothing: the second of these is there already, with another value.
		at := map[string]string{"ip": "10.97.0.1 . tcp . 443", "ip6": "fd00::10:97:0:1 . tcp . 443"}[family.nft()]
		ours.Must(func() error {
			bad := changes{add: map[string][]element{"service-ips": {{"service-ips", strings.Replace(at, "443", "444", 1), "drop"}, {"service-ips", at, "drop"}}}}
			if err := b.elements.write(family, bad); err == nil || errors.Is(err, errNotElements) {
				t.Errorf("two values for one key: %v", err)
			}
			if err := b.elements.write(family, changes{add: map[string][]element{nftChains: {{nftChains, "a", ""}}}}); !errors.Is(err, errNotElements) {
				t.Errorf("a chain: %v", err)
			}
			return nil
		})
		if now := w.what(ours); now != got {
			t.Errorf("half of a transaction:\n%s", now)
		}
	}
}

// move rewrites objects.
func move[T any](in []T, with *strings.Replacer) (out []T) {
	data, _ := json.Marshal(in)
	if err := json.Unmarshal([]byte(with.Replace(string(data))), &out); err != nil {
		panic(err)
	}
	return out
}
