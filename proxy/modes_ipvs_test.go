//go:build ipvs

package proxy

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// go test -tags ipvs is for kernels that have IPVS: the table of tests runs in
// that mode, too.
func init() { testModes = append(testModes, testMode{modeIPVS, IPv4}) }

// What people look at: the columns are ipvsadm's, the schedulers the configuration's.
func TestIPVSListing(t *testing.T) {
	w := newWorld(t, testMode{modeIPVS, IPv4})
	for i := range w.options {
		w.options[i].Scheduler = "lc"
	}
	sticky := func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }
	w.sync([]*corev1.Service{makeService("web", "10.96.0.80", nodePort(30080)), makeService("sticky", "10.96.0.5", sticky)},
		makeSlice("web", corev1.ProtocolTCP, 8080, "10.244.0.5@node-0", "10.244.1.5@node-1"),
		makeSlice("sticky", corev1.ProtocolTCP, 8080, "10.244.0.6@node-0"))
	w.nodes[0].Must(func() error {
		ipvs := w.backend().(*IPVS)
		ipvs.Timeouts = [3]time.Duration{10 * time.Minute, 0, 30 * time.Second}
		return ipvs.setTimeouts(context.Background())
	})
	if got := w.nodes[0].Run("ipvsadm -l --timeout"); !strings.Contains(got, ": 600 120 30\n") {
		t.Error(got)
	}
	var lines []string
	for line := range strings.Lines(w.nodes[0].Run("ipvsadm -ln")) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	got := strings.Join(lines, "\n") + "\n"
	for _, want := range []string{
		"Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n",
		"TCP  172.30.9.1:30080 lc\n  -> 10.244.0.5:8080              Masq    1      0          0\n  -> 10.244.1.5:8080              Masq    1      0          0\n",
		"TCP  10.96.0.80:80 lc\n  -> 10.244.0.5:8080              Masq    1      0          0\n",
		"TCP  10.96.0.5:80 lc persistent 10800\n  -> 10.244.0.6:8080              Masq    1      0          0\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("not in ipvsadm -ln:\n%s", want)
		}
	}
	t.Logf("\n%s", got)
}
