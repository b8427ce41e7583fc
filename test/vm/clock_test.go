package vm

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tinykube/internal/reference"
)

// jumps makes the clock leap three minutes ahead, back to one minute before it was,
// and to where it would be, again and again, as a bad time server does, or a person
// with date(1). By no more than the five minutes that certificates are made older.
const jumps = `(while sleep 4; do for by in 200 -260 60; do date -s @$(($(date +%s) + by)); sleep 4; done; done) > /dev/null &
`

// Leases, rules and what they remember of clients do not care what time it is.
func TestClockJumps(t *testing.T) {
	checkout := reference.Checkout(t)
	out := Run(t, Machine{
		Timeout:  20 * time.Minute,
		Programs: network,
		Files: map[string]string{
			"/checkout/go.mod":                 filepath.Join(checkout, "go.mod"),
			"/checkout/flannel/etcd/etcd.test": build(t, "./flannel/etcd", ""),
			"/checkout/proxy/proxy.test":       build(t, "./proxy", ""),
			"/checkout/proxy/testdata":         filepath.Join(checkout, "proxy/testdata"),
		},
		Script: prepare + "modprobe -a xt_statistic xt_recent xt_conntrack xt_addrtype xt_mark xt_nat xt_multiport\n" + jumps +
			"cd /checkout/flannel/etcd && ./etcd.test -test.v -test.run 'TestSubnets|TestExpiry' &&\n" +
			"cd /checkout/proxy && ./proxy.test -test.v -test.run 'TestSessionAffinity|TestUDPEndpointMoves'",
	})
	t.Log(out)
	for _, name := range []string{"TestExpiry", "TestSessionAffinity", "TestUDPEndpointMoves"} {
		if !strings.Contains(out, "--- PASS: "+name) {
			t.Errorf("%s did not run", name)
		}
	}
}
