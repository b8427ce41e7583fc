package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	kubeproxy "k8s.io/kube-proxy/config/v1alpha1"
)

// connectionTable is where the kernel tells of its table of connections.
const connectionTable = "/proc/sys/net/netfilter/nf_conntrack_"

// connectionsFull is a warning, once each time that the kernel's table of connections
// fills up: it then drops whatever is new, and only its own log says why.
func (p *Proxy) connectionsFull(table string) {
	read := func(name string) (n int) {
		text, _ := os.ReadFile(table + name)
		n, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return n
	}
	count, most := read("count"), read("max")
	full := most > 0 && count > most-most/20
	if full && !p.full {
		p.log.Warn("The table of connections is nearly full; when it is, the kernel drops new ones: raise conntrack.maxPerCore, or find who opens so many", "count", count, "max", most)
	}
	p.full = full
}

// localAddresses are the node's, of one family, in order. What is local to a
// link, or was put on kube-ipvs0 by ourselves, says nothing about the node.
func localAddresses(family Family) (ips []netip.Addr, err error) {
	links, err := net.Interfaces()
	for _, link := range links {
		list, err := link.Addrs()
		if err != nil || link.Name == ipvsLink {
			continue // it has just gone
		}
		for _, a := range list {
			if p, err := netip.ParsePrefix(a.String()); err == nil && family.has(p.Addr()) && !p.Addr().IsLinkLocalUnicast() {
				ips = append(ips, p.Addr())
			}
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return ips, err
}

// Prepare sets the kernel's values that only root may set; whoever runs the proxy
// afterwards may write rules and nothing else.
func Prepare(config Config) error {
	setDefaults(&config.KubeProxyConfiguration)
	if err := validate(&config.KubeProxyConfiguration); err != nil {
		return err
	}
	err := setSysctls(IPv4, &config.KubeProxyConfiguration)
	if _, missing := os.Stat("/proc/sys/net/ipv6"); missing == nil {
		err = errors.Join(err, setSysctls(IPv6, &config.KubeProxyConfiguration))
	}
	return err
}

// setSysctls makes the kernel forward, and remember connections for as long as
// upstream wants. What cannot be written is reported, not fatal: in a container
// or a namespace some values belong to the whole machine.
func setSysctls(family Family, c *kubeproxy.KubeProxyConfiguration) error {
	want := map[string]int{family.either("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"): 1}
	if c.Mode == modeIPVS {
		maps.Copy(want, ipvsSysctls(c.IPVS.StrictARP))
	}
	if localhostNodePorts(family, c) {
		want["net/ipv4/conf/all/route_localnet"] = 1
	}
	t := c.Conntrack
	seconds := func(name string, d time.Duration) {
		if d > 0 {
			want["net/netfilter/nf_conntrack_"+name] = int(d.Seconds())
		}
	}
	established, closeWait := 24*time.Hour, time.Hour
	if t.TCPEstablishedTimeout != nil {
		established = t.TCPEstablishedTimeout.Duration
	}
	if t.TCPCloseWaitTimeout != nil {
		closeWait = t.TCPCloseWaitTimeout.Duration
	}
	seconds("tcp_timeout_established", established)
	seconds("tcp_timeout_close_wait", closeWait)
	seconds("udp_timeout", t.UDPTimeout.Duration)
	seconds("udp_timeout_stream", t.UDPStreamTimeout.Duration)
	if t.TCPBeLiberal {
		want["net/netfilter/nf_conntrack_tcp_be_liberal"] = 1
	}
	if perCore := int(valueOr(t.MaxPerCore, 32*1024)); perCore > 0 {
		want["net/netfilter/nf_conntrack_max"] = max(perCore*runtime.NumCPU(), int(valueOr(t.Min, 128*1024)))
	}
	var errs []error
	for name, v := range want {
		errs = append(errs, setSysctl(name, v))
	}
	return errors.Join(errs...)
}

// setSysctl writes only what differs; the table's size is only ever raised.
func setSysctl(name string, want int) error {
	path := filepath.Join("/proc/sys", name)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", name, err)
	}
	have, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	if have == want || strings.HasSuffix(name, "_max") && have > want {
		return nil
	}
	if err := os.WriteFile(path, []byte(strconv.Itoa(want)), 0o644); err != nil {
		return fmt.Errorf("sysctl %s=%d: %w", name, want, err)
	}
	return nil
}

// bridgeNetfilter says whether bridged packets pass iptables. Without it a pod
// that reaches another pod of the same node by a Service address gets answers
// from an address that it never asked.
func bridgeNetfilter() bool {
	text, err := os.ReadFile("/proc/sys/net/bridge/bridge-nf-call-iptables")
	return err == nil && strings.TrimSpace(string(text)) == "1"
}
