package proxy

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"tinykube/internal/iptables"
)

// iptablesRules are chains by "table CHAIN", and for mode ipvs what else decides.
type iptablesRules struct {
	chains  map[string][]string
	sets    map[string]map[string]bool  // ipset → entries
	servers map[string][]netip.AddrPort // "-t 10.96.0.80:80" → real servers
}

func parseIPTables(text string, _ Family) *iptablesRules {
	r := &iptablesRules{map[string][]string{}, map[string]map[string]bool{}, map[string][]netip.AddrPort{}}
	for table, chains := range iptables.Parse(text) {
		for chain, rules := range chains {
			r.chains[table+" "+chain] = rules
		}
	}
	for line := range strings.Lines(text) {
		switch f := strings.Fields(line); {
		case len(f) == 4 && f[0] == "ipset" && f[1] == "add":
			if r.sets[f[2]] == nil {
				r.sets[f[2]] = map[string]bool{}
			}
			r.sets[f[2]][f[3]] = true
		case len(f) > 4 && f[0] == "ipvsadm" && f[1] == "-A":
			r.servers[f[2]+" "+f[3]] = nil
		case len(f) > 5 && f[0] == "ipvsadm" && f[1] == "-a":
			if real, err := netip.ParseAddrPort(f[5]); err == nil {
				r.servers[f[2]+" "+f[3]] = append(r.servers[f[2]+" "+f[3]], real)
			}
		}
	}
	return r
}

func (r *iptablesRules) base(hook string) []string {
	return map[string][]string{
		"prerouting": {"nat PREROUTING"}, "input": {"filter INPUT", ipvsStep}, "forward": {"filter FORWARD"},
		"output": {"nat OUTPUT", "filter OUTPUT"}, "postrouting": {"nat POSTROUTING"},
	}[hook]
}

func (r *iptablesRules) rules(chain string) []string {
	if chain == ipvsStep && len(r.servers) > 0 {
		return []string{"(a virtual server, if there is one for this address)"}
	}
	return r.chains[chain]
}

func (r *iptablesRules) holds(ip netip.Addr) bool {
	for server := range r.servers {
		if a, err := netip.ParseAddrPort(server[3:]); err == nil && a.Addr() == ip {
			return true
		}
	}
	return false
}

// ipvsStep is where IPVS waits, after the filter.
const ipvsStep = "ipvs"

// balance is what IPVS does: a lot stands for its scheduler.
func (r *iptablesRules) balance(w *walk) (verdict, effect string) {
	servers, ok := r.servers["-"+w.Protocol[:1]+" "+w.Destination.String()]
	switch {
	case !ok:
		return "", ""
	case len(servers) == 0:
		return "reject", "it has no real servers"
	}
	return w.dnat(servers[w.lot(len(servers))].String())
}

var words = regexp.MustCompile(`"[^"]*"|\S+`)

// apply reads a rule from left to right; the first match that fails ends it.
func (r *iptablesRules) apply(w *walk, chain, rule string) (verdict, effect string) {
	if chain == ipvsStep {
		return r.balance(w)
	}
	table, _, _ := strings.Cut(chain, " ")
	list := words.FindAllString(rule, -1)
	not := false
	for i := 0; i < len(list); i++ {
		arg := func(n int) string {
			return strings.Trim(strings.Join(list[min(i+n, len(list)):min(i+n+1, len(list))], ""), `"`)
		}
		if list[i] == "!" {
			not = true
			continue
		}
		ok, args := true, 1
		switch list[i] {
		case "-m", "--comment", "--mode", "--seconds", "--name", "--mask":
			i++
			continue
		case "--set", "--reap", "--rsource":
			continue
		case "-p":
			ok = arg(1) == w.Protocol
		case "-s":
			ok = within(w.Source, arg(1))
		case "-d":
			ok = within(w.Destination.Addr(), arg(1))
		case "--dport":
			ok = arg(1) == strconv.Itoa(int(w.Destination.Port()))
		case "--ctstate":
			states := strings.Split(arg(1), ",")
			ok = slices.Contains(states, "NEW") || w.rewritten && slices.Contains(states, "DNAT")
		case "--mark":
			value, mask := maskOf(arg(1))
			ok = w.mark&mask == value
		case "--dst-type":
			ok = w.local[w.Destination.Addr()] && arg(1) == "LOCAL"
		case "--src-type":
			ok = w.local[w.Source] && arg(1) == "LOCAL"
		case "--rcheck":
			ok, args = false, 0 // nobody is remembered
		case "--probability":
			ok = w.lot(2) == 0
		case "--match-set":
			ok, args = r.inSet(w, arg(1), arg(2)), 2
		case "-j":
			return r.target(w, table, list[i+1:])
		default:
			w.notes["not understood, taken not to match: "+rule] = true
			return "", ""
		}
		if ok == not {
			return "", ""
		}
		i, not = i+args, false
	}
	return "", "" // a rule without a target
}

func (r *iptablesRules) target(w *walk, table string, list []string) (verdict, effect string) {
	option := func(n int) string { return strings.Join(list[min(n, len(list)):min(n+1, len(list))], "") }
	switch option(0) {
	case "ACCEPT", "DROP", "REJECT", "RETURN":
		return strings.ToLower(list[0]), ""
	case "MARK":
		value, mask := maskOf(option(2))
		switch option(1) {
		case "--or-mark":
			return "next", w.setMark(w.mark | value)
		case "--xor-mark":
			return "next", w.setMark(w.mark ^ value)
		}
		return "next", w.setMark(w.mark&^mask ^ value)
	case "DNAT":
		return w.dnat(option(2))
	case "MASQUERADE":
		return "accept", w.masquerade()
	}
	if _, known := r.chains[table+" "+option(0)]; !known {
		w.notes["not understood: target "+option(0)] = true
		return "", ""
	}
	return "jump " + table + " " + option(0), ""
}

// inSet asks an ipset: each direction names a part of an entry.
func (r *iptablesRules) inSet(w *walk, name, directions string) bool {
	port := strconv.Itoa(int(w.Destination.Port()))
	dst, src := w.Destination.Addr().String(), w.Source.String()
	entry := map[string]string{"dst,dst": dst + "," + w.Protocol + ":" + port, "dst": port,
		"dst,dst,src": dst + "," + w.Protocol + ":" + port + "," + src}[directions]
	if strings.HasSuffix(name, "IPVS-IPS") {
		entry = dst
	}
	if r.sets[name][entry] {
		return true
	}
	for member := range r.sets[name] { // hash:ip,port,net
		i := strings.LastIndex(member, ",")
		if directions == "dst,dst,src" && i > 0 && strings.HasPrefix(entry, member[:i+1]) && within(w.Source, member[i+1:]) {
			return true
		}
	}
	return false
}

func within(ip netip.Addr, cidr string) bool {
	if p, err := netip.ParsePrefix(cidr); err == nil {
		return p.Contains(ip)
	}
	a, err := netip.ParseAddr(cidr)
	return err == nil && a == ip
}

// maskOf reads "0x4000/0x4000"; without a mask all bits count.
func maskOf(text string) (value, mask uint32) {
	v, m, masked := strings.Cut(text, "/")
	number, _ := strconv.ParseUint(v, 0, 32)
	bits, _ := strconv.ParseUint(m, 0, 32)
	if !masked {
		bits = 1<<32 - 1
	}
	return uint32(number), uint32(bits)
}
