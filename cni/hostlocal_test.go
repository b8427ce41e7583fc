package cni

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"

	"tinykube/internal/iptables"
	"tinykube/internal/nstest"
)

func hostLocalConf(dir, ranges string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"host-local","ipam":{"type":"host-local","dataDir":%q,"ranges":%s}}`, dir, ranges)
}

// The files are upstream's, byte for byte.
func TestHostLocalFiles(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	conf := hostLocalConf(dir, `[[{"subnet":"10.2.0.0/29"}],[{"subnet":"fd00::/64"}]]`)
	r := m.result(m.must("ADD", "c1", "/x", conf))
	if len(r.Interfaces) != 0 || len(r.IPs) != 2 || r.IPs[0].Address.String() != "10.2.0.2/29" || r.IPs[1].Address.String() != "fd00::2/64" {
		t.Errorf("result %+v", r)
	}
	for file, want := range map[string]string{"10.2.0.2": "c1\r\neth0", "fd00::2": "c1\r\neth0", "last_reserved_ip.0": "10.2.0.2", "last_reserved_ip.1": "fd00::2"} {
		got, err := os.ReadFile(filepath.Join(dir, "net", file))
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", file, got, err, want)
		}
	}
	// ADD again, as after a crash: the same addresses, none more.
	if m.onlyOurs("ADD again is an error until DEL: duplicate allocation is not allowed") {
		again := m.result(m.must("ADD", "c1", "/x", conf))
		if again.IPs[0].String() != r.IPs[0].String() || again.IPs[1].String() != r.IPs[1].String() {
			t.Errorf("ADD again: %v", again.IPs)
		}
	}
	m.must("CHECK", "c1", "/x", conf)
	m.must("STATUS", "", "", conf)

	// .3 to .6 are left; after them the range is exhausted and nothing is kept.
	for i := range 4 {
		m.must("ADD", fmt.Sprintf("d%d", i), "/x", conf)
	}
	if _, err := m.call("ADD", "late", "/x", conf); err == nil || !strings.Contains(err.Error(), "no IP addresses available") {
		t.Errorf("an exhausted range: %v", err)
	}
	if files, _ := filepath.Glob(dir + "/net/fd00*"); len(files) != 5 {
		t.Errorf("the failed ADD kept an address: %v", files)
	}

	// A released address comes last: the search goes on behind the last one.
	m.must("DEL", "c1", "/x", conf)
	m.must("DEL", "d3", "/x", conf)
	if r := m.result(m.must("ADD", "e", "/x", conf)); r.IPs[0].Address.IP.String() != "10.2.0.2" {
		t.Errorf("after .6 comes .2, not %s", r.IPs[0].Address.IP)
	}

	if !m.onlyOurs("they have no GC: it succeeds and removes nothing") {
		return
	}
	// GC leaves what is still attached.
	m.must("GC", "", "", with(conf, "cni.dev/valid-attachments", []map[string]string{{"containerID": "e", "ifname": "eth0"}}))
	if files, _ := filepath.Glob(dir + "/net/10.*"); len(files) != 1 || filepath.Base(files[0]) != "10.2.0.2" {
		t.Errorf("after GC: %v", files)
	}
}

func TestHostLocalRequestedAddress(t *testing.T) {
	m, dir := newMachine(t), t.TempDir()
	conf := hostLocalConf(dir, `[[{"subnet":"10.2.0.0/24"}]]`)
	wish := func(ip string) string {
		return with(conf, "runtimeConfig", map[string]any{"ips": []string{ip}})
	}
	if r := m.result(m.must("ADD", "a", "/x", wish("10.2.0.77/24"))); r.IPs[0].Address.String() != "10.2.0.77/24" {
		t.Errorf("got %s", r.IPs[0].Address.String())
	}
	for _, ip := range []string{"10.2.0.77", "10.2.0.1", "10.3.0.5", "x"} {
		if _, err := m.call("ADD", "b", "/x", wish(ip)); err == nil {
			t.Errorf("%s was granted", ip)
		}
	}
}

// 200 pods added at once get 200 addresses and 200 ports of one bridge; when all
// have gone, at once again, nothing is left.
func TestParallel(t *testing.T) {
	m := newMachine(t)
	const all = 200
	var pods [all]*nstest.NS
	for i := range pods {
		pods[i] = nstest.New(t, fmt.Sprint("p", i))
	}
	var mu sync.Mutex
	seen := map[string]int{}
	atOnce := func(do func(i int)) {
		var group sync.WaitGroup
		for i := range all {
			group.Go(func() { do(i) })
		}
		group.Wait()
	}
	ports := func() int { return strings.Count(m.node.Run("bridge link show"), "master cni0") }
	atOnce(func(i int) {
		out, err := m.call("ADD", fmt.Sprint("c", i), pods[i].Path, bridgeConf)
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		seen[m.result(out).IPs[0].Address.String()]++
		mu.Unlock()
	})
	files, _ := filepath.Glob("/var/lib/cni/networks/test/10.*")
	if len(seen) != all || len(files) != all || ports() != all {
		t.Errorf("%d different addresses, %d files, %d ports", len(seen), len(files), ports())
	}
	atOnce(func(i int) {
		if _, err := m.call("DEL", fmt.Sprint("c", i), pods[i].Path, bridgeConf); err != nil {
			t.Error(err)
		}
	})
	files, _ = filepath.Glob("/var/lib/cni/networks/test/10.*")
	if len(files) != 0 || ports() != 0 {
		t.Errorf("left: %v, %d ports", files, ports())
	}
}

func TestRange(t *testing.T) {
	for _, c := range []struct{ subnet, start, end, gateway, want string }{
		{"10.0.0.0/24", "", "", "", "10.0.0.1-10.0.0.254 gw 10.0.0.1"},
		{"10.244.1.1/24", "", "", "", "10.244.1.1-10.244.1.254 gw 10.244.1.1"},
		{"10.0.0.0/24", "10.0.0.9", "10.0.0.10", "10.0.0.254", "10.0.0.9-10.0.0.10 gw 10.0.0.254"},
		{"fd00::/120", "", "", "", "fd00::1-fd00::ff gw fd00::1"},
		{"10.0.0.0/30", "", "", "", "10.0.0.1-10.0.0.2 gw 10.0.0.1"},
		{"10.0.0.0/31", "", "", "", "error"},
		{"10.0.0.0/24", "10.0.1.1", "", "", "error"},
		{"10.0.0.0/24", "10.0.0.9", "10.0.0.8", "", "error"},
		{"10.0.0.0/24", "", "", "x", "error"},
		{"rubbish", "", "", "", "error"},
	} {
		r, err := parseRange(rangeJSON{c.subnet, c.start, c.end, c.gateway})
		got := fmt.Sprintf("%s-%s gw %s", r.first, r.last, r.gateway)
		if err != nil {
			got = "error"
		}
		if got != c.want {
			t.Errorf("%v: %s", c, got)
		}
	}
	if _, err := parseRangeSet([]rangeJSON{{Subnet: "10.0.0.0/24"}, {Subnet: "10.0.0.0/25"}}); err == nil {
		t.Error("overlapping ranges were accepted")
	}
}

// after visits every address but the gateways once, from anywhere.
func TestAfter(t *testing.T) {
	set, err := parseRangeSet([]rangeJSON{{Subnet: "10.0.0.0/29"}, {Subnet: "10.0.1.0/29", RangeStart: "10.0.1.3", Gateway: "10.0.1.5"}})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.1.3", "10.0.1.4", "10.0.1.6"}
	for _, start := range append([]string{"10.0.0.1", "10.0.1.5", "1.2.3.4"}, all...) {
		last := netip.MustParseAddr(start)
		var got []string
		for ip := range set.after(last) {
			got = append(got, ip.String())
		}
		seen := map[string]bool{}
		for _, ip := range got {
			seen[ip] = true
		}
		if len(got) != len(all) || len(seen) != len(all) {
			t.Errorf("after %s: %v", start, got)
		}
		for i, ip := range all {
			if ip == start && got[0] != all[(i+1)%len(all)] {
				t.Errorf("after %s comes %s", start, got[0])
			}
		}
	}
}

// Parsers take anything and never panic.
func FuzzConfig(f *testing.F) {
	f.Add(bridgeConf)
	f.Add(hostLocalConf("/x", `[[{"subnet":"10.2.0.0/29","rangeStart":"10.2.0.3"}]]`))
	f.Add("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n")
	f.Add("nameserver 10.96.0.10\nsearch a b\noptions ndots:5\n")
	f.Add(`{"cniVersion":"1.1.0","name":"x","markMasqBit":3,"conditionsV4":["-d","10.0.0.1"],"runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,"hostIP":"10.0.0.1","protocol":"udp"}]},
		"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/x"}],"ips":[{"address":"10.1.0.2/24","interface":0}],"routes":[{"dst":"0.0.0.0/0"}]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		args := skelArgs(text)
		if r, err := parseHostLocal(args); err == nil {
			for _, set := range r.sets {
				for ip := range set.after(netip.Addr{}) {
					if !set.contains(ip) {
						t.Fatalf("%s is not in %s", ip, set)
					}
					break
				}
			}
		}
		_, _ = parseBridge(args)
		if c, result, err := parsePortmap(args); err == nil && result != nil {
			for _, ip := range result.IPs {
				c.rules("c", ip.Address)
				elsewhere(result, ip, "eth0")
			}
			c.jumps("c", iptables.IPv6)
			_ = checkAttachment(result, args)
		}
		resolvConf(text)
		if c, err := parseFlannel(args); err == nil {
			_ = c.delegate(subnetEnv{}).json()
		}
		_, _ = parseSubnetEnv(text)
	})
}

func skelArgs(text string) *skel.CmdArgs {
	return &skel.CmdArgs{ContainerID: "c", IfName: "eth0", StdinData: []byte(text), Args: text}
}
