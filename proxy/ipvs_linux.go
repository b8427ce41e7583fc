package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"tinykube/internal/iptables"
)

// IPVS is the backend for the kernel's load balancer. Its parts cannot be changed
// in one transaction, so they are in an order that no packet falls through: what
// leads to an address comes after the address has servers, and goes before.
type IPVS struct {
	restorer
	root   string
	family Family
	// Exclude are addresses whose virtual servers are somebody else's: there is
	// one list of them for the whole machine.
	Exclude []netip.Prefix
	// Timeouts are those of TCP, of TCP after a FIN, and of UDP; 0 leaves the kernel's.
	Timeouts [3]time.Duration

	ledger  ledger
	options Options
	// keepRules: the iptables backend has taken the chains over.
	keepRules bool
	known     bool // the kernel holds what the ledger says
	// draining are real servers that were removed while connections to them are
	// open: they get no new ones, and go when the last one closes.
	draining map[string]bool
}

// Sync writes what differs.
func (b *IPVS) Sync(ctx context.Context, state State, options Options) (bool, error) {
	b.jumps = ipvsJumps
	fresh := !b.known
	c := b.plan(&b.ledger, state, options)
	if fresh {
		if err := b.setTimeouts(ctx); err != nil {
			return false, err
		}
		have, err := b.look(ctx)
		if err != nil {
			return false, err
		}
		c = b.ledger.diff(have)
		b.draining = map[string]bool{}
	}
	b.known = false
	var sets bytes.Buffer
	if fresh {
		for _, name := range sortedKeys(ipSets) {
			fmt.Fprintf(&sets, "create %s %s %s\n", b.family.ipSet(name), ipSets[name], b.setOptions(ipSets[name]))
		}
	}
	for _, verb := range []string{"add", "del"} {
		elements := map[string]map[string][]element{"add": c.add, "del": c.remove}[verb]
		for _, set := range sortedKeys(elements) {
			for _, e := range elements[set] {
				if strings.HasPrefix(set, "KUBE-") {
					fmt.Fprintf(&sets, "%s %s %s\n", verb, set, e.key)
				}
			}
		}
	}
	if _, err := b.run(ctx, sets.String(), "ipset", "restore", "-exist"); sets.Len() > 0 && err != nil {
		return false, fmt.Errorf("write ipsets: %w", err)
	}
	wrote, err := b.write(ctx, b.rules(state, options))
	if err != nil {
		return false, err
	}
	err = errors.Join(b.setAddresses(c.remove[ipvsAddresses], netlink.AddrDel), b.setServers(ctx, c), b.setAddresses(c.add[ipvsAddresses], netlink.AddrReplace))
	b.known = err == nil
	return wrote || !c.empty(), err
}

func (b *IPVS) setTimeouts(ctx context.Context) error {
	if b.Timeouts == [3]time.Duration{} {
		return nil
	}
	args := []string{"--set"}
	for _, timeout := range b.Timeouts {
		args = append(args, fmt.Sprint(int(timeout.Seconds())))
	}
	_, err := b.run(ctx, "", "ipvsadm", args...)
	return err
}

func (b *IPVS) plan(l *ledger, state State, options Options) changes {
	all := !b.options.equal(options)
	b.options = options
	return l.update(state, nil, all, func(p *ServicePort) [][]element { return ipvsElements(b.family, options, p) })
}

func (b *IPVS) rules(state State, options Options) Rules {
	all := newCollection(0)
	all.add(collect(state.Family, options, false, func(r *renderer) { r.renderIPVS() }))
	return all.rules()
}

// Text is what three programs would read, one after the other.
func (b *IPVS) Text(state State, options Options) string {
	var text strings.Builder
	c := b.plan(&ledger{}, state, options)
	for _, set := range sortedKeys(c.add) {
		for _, e := range sortElements(c.add[set]) {
			switch set {
			case ipvsAddresses:
				fmt.Fprintf(&text, "ip address add %s dev %s\n", e.key, ipvsLink)
			case ipvsVirtual, ipvsReal:
			default:
				fmt.Fprintf(&text, "ipset add %s %s\n", set, e.key)
			}
		}
	}
	for _, line := range serverLines(c) {
		text.WriteString("ipvsadm " + line + "\n")
	}
	return text.String() + restoreText(nil, b.rules(state, options), entries{add: ipvsJumps})
}

func (b *IPVS) setOptions(kind string) string {
	if kind == "bitmap:port" {
		return "range 0-65535"
	}
	return "family " + b.family.either("inet", "inet6") + " maxelem 1048576"
}

func (b *IPVS) run(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd, err := iptables.Command(ctx, b.root, name, args...)
	if err != nil {
		return "", err
	}
	out, err := iptables.Run(cmd, []byte(stdin))
	return string(out), err
}

// serverLines is ipvsadm's input: servers go before their virtual server, and
// come after it. A virtual server that changes keeps its servers.
func serverLines(c changes) (lines []string) {
	removed, added := map[string]bool{}, map[string]bool{}
	for _, set := range []string{ipvsReal, ipvsVirtual} {
		for _, e := range c.add[set] {
			added[e.key] = true
		}
	}
	for _, set := range []string{ipvsReal, ipvsVirtual} {
		for _, e := range sortElements(c.remove[set]) {
			removed[e.key] = true
			if !added[e.key] {
				lines = append(lines, map[string]string{ipvsReal: "-d ", ipvsVirtual: "-D "}[set]+e.key)
			}
		}
	}
	for _, set := range []string{ipvsVirtual, ipvsReal} {
		for _, e := range sortElements(c.add[set]) {
			verb := map[string]string{ipvsReal: "-a ", ipvsVirtual: "-A "}[set]
			if removed[e.key] {
				verb = map[string]string{ipvsReal: "-e ", ipvsVirtual: "-E "}[set]
			}
			lines = append(lines, verb+e.key+" "+e.value)
		}
	}
	return lines
}

// setServers brings the virtual servers to what is wanted. A real server with
// open connections is not cut off: its weight becomes 0.
func (b *IPVS) setServers(ctx context.Context, c changes) error {
	lines := serverLines(c)
	var open map[string]bool
	if slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "-d -t") }) {
		var err error
		if open, err = b.openServers(ctx); err != nil {
			return err
		}
	}
	for i, line := range lines {
		verb, key, _ := strings.Cut(line, " ")
		server, _, _ := strings.Cut(key, " -m")
		switch {
		case verb == "-d" && open[key]:
			b.draining[key] = true
			lines[i] = "-e " + key + " -m -w 0"
		case verb == "-a" && b.draining[server]: // it is back
			delete(b.draining, server)
			lines[i] = "-e " + key
		}
	}
	return b.servers(ctx, lines)
}

func (b *IPVS) servers(ctx context.Context, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	if _, err := b.run(ctx, strings.Join(lines, "\n")+"\n", "ipvsadm", "-R"); err != nil {
		return fmt.Errorf("write virtual servers: %w", err)
	}
	return nil
}

// openServers are the TCP servers with open connections, as keys of ipvsReal. The
// listing is
//
//	TCP  10.96.0.80:80 rr
//	  -> 10.244.0.5:8080              Masq    1      3          0
func (b *IPVS) openServers(ctx context.Context) (map[string]bool, error) {
	text, err := b.run(ctx, "", "ipvsadm", "-L", "-n")
	open, virtual := map[string]bool{}, ""
	for line := range strings.Lines(text) {
		switch f := strings.Fields(line); {
		case len(f) >= 3 && (f[0] == "TCP" || f[0] == "UDP"):
			virtual = "-" + strings.ToLower(f[0][:1]) + " " + f[1]
		case len(f) == 6 && f[0] == "->" && f[4] != "0":
			open[virtual+" -r "+f[1]] = true
		}
	}
	return open, err
}

// setAddresses puts addresses on kube-ipvs0 or takes them away. The link is
// down: the addresses are local all the same, and nobody asks it anything.
func (b *IPVS) setAddresses(list []element, how func(netlink.Link, *netlink.Addr) error) error {
	link, err := netlink.LinkByName(ipvsLink)
	if err != nil {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = ipvsLink
		if err := netlink.LinkAdd(&netlink.Dummy{LinkAttrs: attributes}); err != nil {
			return fmt.Errorf("make %s: %w", ipvsLink, err)
		}
		if link, err = netlink.LinkByName(ipvsLink); err != nil {
			return err
		}
	}
	var errs []error
	for _, e := range list {
		ip := netip.MustParseAddr(e.key)
		mask := net.CIDRMask(ip.BitLen(), ip.BitLen())
		if err := how(link, &netlink.Addr{IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: mask}}); err != nil {
			errs = append(errs, fmt.Errorf("address %s: %w", ip, err))
		}
	}
	return errors.Join(errs...)
}

// look reads what the kernel holds of ours; what we know of and the kernel
// does not hold is there with nothing wanted, for diff to see.
func (b *IPVS) look(ctx context.Context) (map[elementID]holding, error) {
	have := map[elementID]holding{}
	for id := range b.ledger.held {
		have[id] = holding{}
	}
	there := func(set, key, value string) { have[elementID{set, key}] = holding{value, 1} }
	servers, err := b.run(ctx, "", "ipvsadm", "-S", "-n")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(servers) { // -A -t 10.96.0.1:443 -s rr   -a -t 10.96.0.1:443 -r 10.0.0.1:6443 -m -w 1
		f := strings.Fields(line)
		if len(f) < 5 || b.excluded(f[2]) {
			continue
		}
		if f[0] == "-A" {
			there(ipvsVirtual, strings.Join(f[1:3], " "), strings.Join(f[3:], " "))
		} else if key := strings.Join(f[1:5], " "); !b.draining[key] {
			there(ipvsReal, key, strings.Join(f[5:], " "))
		}
	}
	sets, err := b.run(ctx, "", "ipset", "save")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(sets) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "add" && b.ours(f[1]) {
			there(f[1], f[2], "")
		}
	}
	if link, err := netlink.LinkByName(ipvsLink); err == nil {
		list, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range list {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && b.family.has(ip.Unmap()) && !ip.IsLinkLocalUnicast() {
				there(ipvsAddresses, ip.Unmap().String(), "")
			}
		}
	}
	return have, nil
}

// excluded says whether a virtual server is none of ours.
func (b *IPVS) excluded(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err != nil || !b.family.has(a.Addr()) ||
		slices.ContainsFunc(b.Exclude, func(p netip.Prefix) bool { return p.Contains(a.Addr()) })
}

func (b *IPVS) ours(set string) bool {
	return slices.ContainsFunc(sortedKeys(ipSets), func(name string) bool { return b.family.ipSet(name) == set })
}

// Intact compares all that there is with what we wrote, and lets go of servers
// that have no connections any more.
func (b *IPVS) Intact(ctx context.Context) bool {
	if !b.known || !b.restorer.Intact(ctx) {
		return false
	}
	if len(b.draining) > 0 {
		open, err := b.openServers(ctx)
		var lines []string
		for _, server := range sortedKeys(b.draining) {
			if err == nil && !open[server] {
				lines = append(lines, "-d "+server)
				delete(b.draining, server)
			}
		}
		if err := b.servers(ctx, lines); err != nil {
			b.log.Warn("Could not remove servers without connections", "err", err)
			b.known = false
			return false
		}
	}
	have, err := b.look(ctx)
	if err != nil || ctx.Err() != nil {
		return err == nil || ctx.Err() != nil
	}
	if b.ledger.diff(have).empty() {
		return true
	}
	b.log.Warn("Somebody has changed our virtual servers, ipsets or addresses; writing them again")
	b.known = false
	return false
}

// Cleanup removes rules, virtual servers, sets and the link; where there is no
// link of ours, nothing has been written.
func (b *IPVS) Cleanup(ctx context.Context) error {
	b.known = false
	link, err := netlink.LinkByName(ipvsLink)
	if err != nil {
		return nil
	}
	have, err := b.look(ctx)
	if err != nil {
		return err
	}
	c := (&ledger{}).diff(have)
	sets := ""
	for _, name := range sortedKeys(ipSets) {
		sets += "destroy " + b.family.ipSet(name) + "\n"
	}
	if !b.keepRules {
		err = b.restorer.Cleanup(ctx)
	}
	err = errors.Join(err, b.servers(ctx, serverLines(c)), netlink.LinkDel(link))
	_, setsErr := b.run(ctx, sets, "ipset", "restore")
	return errors.Join(err, setsErr)
}
