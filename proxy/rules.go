package proxy

import (
	"fmt"
	"slices"
	"strings"
)

// Rules is a whole configuration as text: table → chain → its rules in the form
// that iptables-restore reads. Same state, same text: comparing is all it takes
// to know what to write.
type Rules map[string]map[string]string

// tables in the order in which they are written.
var tables = []string{"filter", "nat", "mangle"}

// Chains that always exist. Upstream: kubernetes pkg/proxy/iptables/proxier.go
const (
	servicesChain         = "KUBE-SERVICES"
	externalServicesChain = "KUBE-EXTERNAL-SERVICES"
	nodePortsChain        = "KUBE-NODEPORTS"
	postroutingChain      = "KUBE-POSTROUTING"
	markMasqChain         = "KUBE-MARK-MASQ"
	forwardChain          = "KUBE-FORWARD"
	firewallChain         = "KUBE-PROXY-FIREWALL"
	martianChain          = "KUBE-FIREWALL"
	canaryChain           = "KUBE-PROXY-CANARY"
)

// portChains are the prefixes of the chains that come and go with Services.
var portChains = []string{"KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-"}

// jump leads from a chain of the kernel's into one of ours.
type jump struct{ table, from, to, match string }

// jumps are inserted at the top of their chains, so in each chain the last of
// them ends up first.
var jumps = []jump{
	{"filter", "INPUT", externalServicesChain, `-m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals"`},
	{"filter", "INPUT", nodePortsChain, `-m comment --comment "kubernetes health check service ports"`},
	{"filter", "INPUT", firewallChain, `-m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall"`},
	{"filter", "FORWARD", externalServicesChain, `-m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals"`},
	{"filter", "FORWARD", servicesChain, `-m conntrack --ctstate NEW -m comment --comment "kubernetes service portals"`},
	{"filter", "FORWARD", forwardChain, `-m comment --comment "kubernetes forwarding rules"`},
	{"filter", "FORWARD", firewallChain, `-m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall"`},
	{"filter", "OUTPUT", servicesChain, `-m conntrack --ctstate NEW -m comment --comment "kubernetes service portals"`},
	{"filter", "OUTPUT", firewallChain, `-m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall"`},
	{"nat", "PREROUTING", servicesChain, `-m comment --comment "kubernetes service portals"`},
	{"nat", "OUTPUT", servicesChain, `-m comment --comment "kubernetes service portals"`},
	{"nat", "POSTROUTING", postroutingChain, `-m comment --comment "kubernetes postrouting rules"`},
}

// martianJumps are needed only with LocalhostNodePorts.
var martianJumps = []jump{
	{"filter", "INPUT", martianChain, ""},
	{"filter", "OUTPUT", martianChain, ""},
}

// part is what one Service port, or the frame, adds to one chain.
type part struct{ table, chain, text string }

// renderer collects the parts of one port.
type renderer struct {
	Options
	family Family
	large  bool // see largeCluster
	chains []*growing
	index  map[[2]string]*growing // by table and chain
	last   *growing               // asked for last, and so probably next
}

// growing is a part while rules are added to it.
type growing struct {
	part
	text strings.Builder
}

// Render writes the state as rules.
func Render(state State, options Options) Rules {
	return new(Renderer).Render(state, options)
}

// Renderer is Render with a memory: a port that has not changed keeps its text.
// With thousands of Services that is nearly all of them, nearly always.
type Renderer struct {
	options Options
	large   bool
	ports   map[*ServicePort][]part
}

// Render writes the state as rules.
func (r *Renderer) Render(state State, options Options) Rules {
	if large := largeCluster(state); !r.options.equal(options) || large != r.large {
		r.options, r.large, r.ports = options, large, nil
	}
	collect := func(render func(*renderer)) []part { return collect(state.Family, options, r.large, render) }
	ports := make(map[*ServicePort][]part, len(state.Ports))
	all := newCollection(3 * len(state.Ports)) // a chain for itself and, usually, two endpoints
	all.add(collect(func(r *renderer) { r.renderFrame() }))
	for _, p := range state.sorted() {
		parts, known := r.ports[p]
		if !known {
			parts = collect(func(r *renderer) { r.renderPort(p) })
		}
		ports[p] = parts
		all.add(parts)
	}
	all.add(collect(func(r *renderer) { r.renderNodePortsJump() }))
	r.ports = ports
	return all.rules()
}

// largeCluster says whether rules must be short: no comment but on the way in, from
// which the rest follows, and no match that matches nothing. The legacy flavour
// carries all rules to the kernel and back for each change, and a comment alone is
// 288 bytes of them.
//
// Upstream: kubernetes pkg/proxy/iptables/proxier.go largeClusterEndpointsThreshold,
// which keeps the comment where a packet is marked, and -m tcp.
func largeCluster(state State) bool {
	const most = 1000
	endpoints := 0
	for _, p := range state.Ports {
		endpoints += max(len(p.Cluster), len(p.Local))
	}
	return endpoints > most
}

func collect(family Family, options Options, large bool, render func(*renderer)) []part {
	r := &renderer{Options: options, family: family, large: large, index: map[[2]string]*growing{}, last: &growing{}}
	render(r)
	parts := make([]part, len(r.chains))
	for i, g := range r.chains {
		parts[i] = part{g.table, g.chain, g.text.String()}
	}
	return parts
}

// collection puts parts together: most chains are one part's alone, and their
// text is not even copied; a few, like KUBE-SERVICES, grow with every port.
type collection struct {
	alone  Rules
	shared map[string]map[string]*strings.Builder
}

func newCollection(chains int) *collection {
	c := &collection{Rules{"nat": make(map[string]string, chains)}, map[string]map[string]*strings.Builder{}}
	for _, table := range tables {
		if c.shared[table] = map[string]*strings.Builder{}; c.alone[table] == nil {
			c.alone[table] = map[string]string{}
		}
	}
	return c
}

func (c *collection) add(parts []part) {
	for _, p := range parts {
		if b := c.shared[p.table][p.chain]; b != nil {
			b.WriteString(p.text)
			continue
		}
		first, again := c.alone[p.table][p.chain]
		if !again {
			c.alone[p.table][p.chain] = p.text
			continue
		}
		b := &strings.Builder{}
		b.WriteString(first)
		b.WriteString(p.text)
		c.shared[p.table][p.chain] = b
	}
}

func (c *collection) rules() Rules {
	for table, chains := range c.shared {
		for chain, text := range chains {
			c.alone[table][chain] = text.String()
		}
	}
	return c.alone
}

// chain makes sure that a chain exists, be it empty.
func (r *renderer) chain(table, chain string) *strings.Builder {
	if r.last.chain == chain && r.last.table == table {
		return &r.last.text
	}
	g := r.index[[2]string{table, chain}]
	if g == nil {
		g = &growing{part: part{table: table, chain: chain}}
		g.text.Grow(usualChain)
		r.chains, r.index[[2]string{table, chain}] = append(r.chains, g), g
	}
	r.last = g
	return &g.text
}

// usualChain is the length of an endpoint's two rules.
const usualChain = 200

// rule appends to a chain. Parts are joined by spaces; empty ones vanish.
func (r *renderer) rule(table, chain string, parts ...string) {
	text := r.chain(table, chain)
	text.WriteString("-A ")
	text.WriteString(chain)
	for _, part := range parts {
		if part != "" {
			text.WriteByte(' ')
			text.WriteString(part)
		}
	}
	text.WriteByte('\n')
}

func comment(text string) string { return `-m comment --comment "` + text + `"` }

// note is a comment that a large cluster goes without.
func (r *renderer) note(words ...string) string {
	if r.large {
		return ""
	}
	return comment(strings.Join(words, ""))
}

// renderFrame is what does not depend on any Service.
func (r *renderer) renderFrame() {
	for _, chain := range []string{servicesChain, externalServicesChain, nodePortsChain, firewallChain} {
		r.chain("filter", chain)
	}
	r.chain("nat", servicesChain)
	r.chain("nat", nodePortsChain)
	r.renderMasquerade()
}

// renderMasquerade is what the ipvs backend needs as well: the mark, what it
// leads to, and what may be forwarded.
func (r *renderer) renderMasquerade() {
	for _, table := range tables {
		// One rule, so that a flush is noticed and not only a lost chain.
		r.rule(table, canaryChain, comment("gone when somebody flushes the tables"))
	}
	bit := r.markBit()
	r.rule("nat", markMasqChain, "-j MARK --or-mark", bit)
	r.rule("nat", postroutingChain, "-m mark ! --mark", bit+"/"+bit, "-j RETURN")
	// The mark has done its work; off with it, so that a packet that passes here
	// twice (a tunnel's inside and outside) is not masqueraded twice.
	r.rule("nat", postroutingChain, "-j MARK --xor-mark", bit)
	random := ""
	if r.RandomFully {
		random = "--random-fully"
	}
	r.rule("nat", postroutingChain, comment("kubernetes service traffic requiring SNAT"), "-j MASQUERADE", random)

	if !r.TCPBeLiberal {
		// Answers that connection tracking cannot place would leave with the pod's
		// own address, and the client would reset the connection.
		r.rule("filter", forwardChain, "-m conntrack --ctstate INVALID -j DROP")
	}
	r.rule("filter", forwardChain, comment("kubernetes forwarding rules"), "-m mark --mark", bit+"/"+bit, "-j ACCEPT")
	r.rule("filter", forwardChain, comment("kubernetes forwarding conntrack rule"), "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	if r.LocalhostNodePorts {
		// route_localnet is on, so the kernel no longer drops martians: we must
		// (CVE-2020-8558).
		r.rule("filter", martianChain, comment("block incoming localnet connections"),
			fmt.Sprintf("-d %s ! -s %[1]s -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP", r.family.loopback()))
	}
}

// renderNodePortsJump is the last rule of KUBE-SERVICES: a Service address that
// is an address of the node, too, must find its own rule first.
func (r *renderer) renderNodePortsJump() {
	const note = "kubernetes service nodeports; NOTE: this must be the last rule in this chain"
	if !r.AllAddresses {
		for _, ip := range r.NodePortAddresses {
			if !ip.IsLoopback() || r.LocalhostNodePorts {
				r.rule("nat", servicesChain, comment(note), "-d", ip.String(), "-j", nodePortsChain)
			}
		}
		return
	}
	notLocalhost := "! -d " + r.family.loopback()
	if r.LocalhostNodePorts {
		notLocalhost = ""
	}
	r.rule("nat", servicesChain, comment(note), "-m addrtype --dst-type LOCAL", notLocalhost, "-j", nodePortsChain)
}

// restoreText is iptables-restore's input that leads from have to want: chains
// whose text differs, chains to remove, jumps that are missing or wrong. It is
// empty if nothing is to be done.
func restoreText(have, want Rules, e entries) string {
	var text strings.Builder
	for _, table := range tables {
		var changed, gone []string
		for chain, rules := range want[table] {
			if old, ok := have[table][chain]; !ok || old != rules {
				changed = append(changed, chain)
			}
		}
		for chain := range have[table] {
			if _, ok := want[table][chain]; !ok {
				gone = append(gone, chain)
			}
		}
		var enter []jump
		for _, j := range e.add {
			if j.table == table {
				enter = append(enter, j)
			}
		}
		if leave := e.remove[table]; len(changed)+len(gone)+len(enter)+len(leave) > 0 {
			slices.Sort(changed)
			slices.Sort(gone)
			writeTable(&text, table, want[table], changed, gone, enter, leave)
		}
	}
	return text.String()
}

// manyChains are declared backwards, and few in the order in which people read.
const manyChains = 1000

// writeTable: naming a chain makes it, or empties it; only an empty one that
// nobody jumps to can be removed, so that comes last.
func writeTable(text *strings.Builder, table string, rules map[string]string, changed, gone []string, enter []jump, leave []string) {
	size := 0
	for _, chain := range changed {
		size += len(chain) + len(":  - [0:0]\n") + len(rules[chain])
	}
	text.Grow(size) // megabytes, with many Services
	fmt.Fprintf(text, "*%s\n", table)
	for _, list := range [][]string{changed, gone} {
		// The legacy flavour keeps its chains sorted, in a list with an index that it
		// renews now and then: a new chain that is the last of all is looked for
		// through hundreds, one that is the first is not.
		for i := range list {
			if len(list) > manyChains {
				i = len(list) - 1 - i
			}
			text.WriteString(":" + list[i] + " - [0:0]\n")
		}
	}
	text.WriteString(strings.Join(leave, ""))
	for _, j := range enter {
		fmt.Fprintf(text, "-I %s %s\n", j.from, strings.TrimSpace(j.match+" -j "+j.to))
	}
	for _, chain := range changed {
		text.WriteString(rules[chain])
	}
	for _, chain := range gone {
		fmt.Fprintf(text, "-X %s\n", chain)
	}
	text.WriteString("COMMIT\n")
}
