package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"tinykube/internal/iptables"
)

// Explain walks the first packet of a connection through the rules, as the kernel
// would, and writes down every rule that matched. It reads the rules' text, be it
// what the kernel holds or what render prints, so it knows nothing that a person
// who reads them would not.
//
//	from a pod or from outside: prerouting ─▶ (who is it for?) ─▶ forward ─▶ postrouting
//	                                                        └───▶ input
//	from the node itself:       output ─▶ postrouting
//
// Where rules draw a lot, the walk forks; there is a Fate for every end.
//
// Simplified: a client is taken to be new (no affinity is remembered), matches
// that no kube-proxy writes are taken not to match, and are listed as such.

// Packet is the first of a connection.
type Packet struct {
	Source      netip.Addr
	Destination netip.AddrPort
	Protocol    string // tcp, udp
}

// Step is a rule that matched.
type Step struct{ Hook, Chain, Rule, Effect string }

// Fate is how a walk ended.
type Fate struct {
	Steps       []Step
	Verdict     string // delivered, refused, dropped
	Destination netip.AddrPort
	Masqueraded bool // the destination sees the node, not the client
}

// String is the end in a few words.
func (f Fate) String() string {
	if f.Verdict != "delivered" {
		return f.Verdict
	}
	if f.Masqueraded {
		return fmt.Sprintf("delivered to %s, which sees an address of this node", f.Destination)
	}
	return fmt.Sprintf("delivered to %s, which sees the client's own address", f.Destination)
}

// Ruleset is rules in one of their languages.
type Ruleset interface {
	// base are the chains that a hook leads to, in order.
	base(hook string) []string
	rules(chain string) []string
	// apply says what a rule does to the walk's packet; "" if it does not match.
	// Else the verdict: next, accept, drop, reject, return, or jump CHAIN, goto CHAIN.
	apply(w *walk, chain, rule string) (verdict, effect string)
	// holds says whether an address is the node's because of the rules (ipvs).
	holds(ip netip.Addr) bool
}

// walk is one packet on its way.
type walk struct {
	Packet
	rules Ruleset
	local map[netip.Addr]bool // the node's addresses

	mark        uint32
	rewritten   bool
	masqueraded bool
	hook        string
	steps       []Step
	lots        []int // what is drawn, where it is decided already
	sizes       []int // of the lots drawn so far
	notes       map[string]bool
}

// mostFates bounds the forks: a Service may have thousands of endpoints.
const mostFates = 64

// Explain answers all fates, up to a bound, and what it did not understand.
func Explain(rules Ruleset, packet Packet, local []netip.Addr) (fates []Fate, notes []string) {
	here, unknown := map[netip.Addr]bool{}, map[string]bool{}
	for _, ip := range local {
		here[ip] = true
	}
	for lots := []int{}; lots != nil && len(fates) < mostFates; {
		w := &walk{Packet: packet, rules: rules, local: here, lots: lots, notes: unknown}
		fates = append(fates, w.run())
		lots = w.next()
		if lots != nil && len(fates) == mostFates {
			unknown[fmt.Sprintf("there are more ends than the %d that were walked to", mostFates)] = true
		}
	}
	return fates, sortedKeys(unknown)
}

// next counts the lots on, the last one first; nil when all have been drawn.
func (w *walk) next() []int {
	drawn := make([]int, len(w.sizes))
	copy(drawn, w.lots)
	for i := len(drawn) - 1; i >= 0; i-- {
		if drawn[i]++; drawn[i] < w.sizes[i] {
			return drawn[:i+1]
		}
	}
	return nil
}

// lot draws one of n.
func (w *walk) lot(n int) int {
	w.sizes = append(w.sizes, n)
	if i := len(w.sizes) - 1; i < len(w.lots) {
		return w.lots[i]
	}
	return 0
}

func (w *walk) run() Fate {
	first := "prerouting"
	if w.local[w.Source] {
		first = "output"
	}
	verdict := w.at(first)
	// Routing: is it for us? What leaves from here is asked that as well.
	if to := w.Destination.Addr(); verdict == "" && (w.local[to] || w.rules.holds(to)) {
		if verdict = w.at("input"); verdict == "" && w.Destination.Addr() == to {
			verdict = "delivered"
		}
	} else if verdict == "" && first == "prerouting" {
		verdict = w.at("forward")
	}
	if verdict == "" {
		verdict = w.at("postrouting")
	}
	if verdict == "" {
		verdict = "delivered"
	}
	return w.end(verdict)
}

// at walks a hook's chains; "" if the packet goes on.
func (w *walk) at(hook string) string {
	w.hook = hook
	for _, chain := range w.rules.base(hook) {
		switch w.chain(chain, 0) {
		case "drop":
			return "dropped"
		case "reject":
			return "refused"
		}
	}
	return ""
}

func (w *walk) end(verdict string) Fate {
	return Fate{w.steps, verdict, w.Destination, w.masqueraded}
}

// Bounds for rules that lead in a circle, and for those that fan out.
const (
	deepest   = 32
	mostSteps = 1_000
)

// chain answers accept, drop, reject, or return at its end.
func (w *walk) chain(name string, depth int) string {
	if depth > deepest || len(w.steps) > mostSteps {
		w.notes["chains lead in a circle, or far too long, at "+name] = true
		return "drop"
	}
	for _, rule := range w.rules.rules(name) {
		at := len(w.steps)
		verdict, effect := w.rules.apply(w, name, rule)
		if verdict == "" {
			continue
		}
		w.steps = append(w.steps[:at], Step{w.hook, name, rule, effect})
		how, target, leads := strings.Cut(verdict, " ")
		if leads {
			end := w.chain(target, depth+1)
			if end != "return" || how == "goto" {
				return end
			}
			continue
		}
		if verdict != "next" {
			return verdict
		}
	}
	return "return"
}

// dnat is what a DNAT rule does to a packet; to is where to, as "10.244.0.5:8080"
// or, which leaves the port as it is, "10.244.0.5". What comes after it (other
// hooks, routing, --ctstate DNAT) sees the packet as it is from now on. The first
// DNAT wins: the verdict ends the table's chains. What cannot be read is noted,
// and does not match.
//
// LAB 20 dnat: read the target, change w.Destination, remember in w.rewritten
// that connection tracking knows of it, and answer the verdict "accept" and, as
// the effect, "the destination becomes ADDRESS:PORT". netip.ParseAddrPort and
// netip.ParseAddr read both forms; w.notes takes what you cannot read.
func (w *walk) dnat(to string) (verdict, effect string) {
	address, err := netip.ParseAddrPort(to)
	if err != nil {
		ip, err := netip.ParseAddr(strings.Trim(to, "[]"))
		if err != nil {
			w.notes[fmt.Sprintf("not understood: DNAT to %q", to)] = true
			return "", ""
		}
		address = netip.AddrPortFrom(ip, w.Destination.Port())
	}
	w.Destination, w.rewritten = address, true
	return "accept", fmt.Sprintf("the destination becomes %s", address)
}

func (w *walk) masquerade() string {
	w.masqueraded = true
	return "the source becomes this node's address"
}

func (w *walk) setMark(mark uint32) string {
	w.mark = mark
	return fmt.Sprintf("the mark becomes %#x", mark)
}

// ParseRules reads what render prints, or what the kernel's tools list.
func ParseRules(mode, text string, family Family) Ruleset {
	if mode == modeNFTables {
		return parseNFTables(text, family)
	}
	return parseIPTables(text, family)
}

// KernelRules reads the rules of this machine, in the mode whose traces are there.
func KernelRules(ctx context.Context, root string, family Family) (Ruleset, string, error) {
	nft := &NFTables{root: root, family: family, log: slog.New(slog.DiscardHandler)}
	if text, err := nft.nft(ctx, "", "list", "table", family.nft(), nftTable); err == nil {
		return parseNFTables(text, family), modeNFTables, nil
	}
	text, err := iptables.Runner{Root: root, Family: iptables.Family(family)}.Save(ctx, "")
	if err != nil {
		return nil, "", err
	}
	if !strings.Contains(text, ":"+servicesChain) {
		return nil, "", fmt.Errorf("no rules of kube-proxy here: neither table %s nor chain %s", nftTable, servicesChain)
	}
	ipvs := &IPVS{root: root, family: family}
	if servers, err := ipvs.run(ctx, "", "ipvsadm", "-S", "-n"); strings.Contains(text, ":"+ipvsFilterChain) && err == nil {
		sets, err := ipvs.run(ctx, "", "ipset", "save")
		return parseIPTables(prefixLines("ipvsadm ", servers)+prefixLines("ipset ", sets)+text, family), modeIPVS, err
	}
	return parseIPTables(text, family), modeIPTables, nil
}

func prefixLines(prefix, text string) string {
	return strings.ReplaceAll("\n"+strings.TrimSpace(text), "\n", "\n"+prefix)[1:] + "\n"
}
