package proxy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// nftRules is one table: chains, and sets as key → value.
type nftRules struct {
	family Family
	chains map[string][]string
	sets   map[string]map[string]string
}

// parseNFTables reads commands ("add rule ip kube-proxy …") as well as what `nft
// list table` prints.
func parseNFTables(text string, family Family) *nftRules {
	r := &nftRules{family, map[string][]string{}, map[string]map[string]string{}}
	var chain, set string // that the lines belong to
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		switch {
		case len(f) > 5 && f[0] == "add" && f[1] == "rule":
			r.chains[f[4]] = append(r.chains[f[4]], strings.Join(f[5:], " "))
		case len(f) > 4 && f[0] == "add" && f[1] == "element":
			set = f[4]
		case len(f) > 0 && f[0] == "add" || len(f) == 0:
		case len(f) == 3 && f[2] == "{" && f[0] == "chain":
			chain, set = f[1], ""
		case len(f) == 3 && f[2] == "{" && (f[0] == "map" || f[0] == "set"):
			chain, set = "", f[1]
		case f[0] == "}":
			chain, set = "", ""
		case set != "":
			r.addElements(set, line)
		case chain != "" && f[0] != "type":
			r.chains[chain] = append(r.chains[chain], line)
		}
	}
	return r
}

func (r *nftRules) addElements(set, line string) {
	line = strings.TrimSuffix(strings.TrimPrefix(line, "elements = {"), "}")
	if r.sets[set] == nil {
		r.sets[set] = map[string]string{}
	}
	for _, entry := range strings.Split(line, ",") {
		key, value, _ := strings.Cut(entry, " : ")
		key, _, _ = strings.Cut(key, " expires ")
		if key = strings.TrimSpace(key); strings.Contains(key, ".") || strings.Contains(key, ":") {
			r.sets[set][key] = strings.TrimSpace(value)
		}
	}
}

func (r *nftRules) base(hook string) []string {
	return map[string][]string{
		"prerouting": {"filter-prerouting", "nat-prerouting"}, "input": {"filter-input"}, "forward": {"filter-forward"},
		"output": {"filter-output", "nat-output", "filter-output-post-dnat"}, "postrouting": {"nat-postrouting"},
	}[hook]
}

func (r *nftRules) rules(chain string) []string { return r.chains[chain] }

func (r *nftRules) holds(netip.Addr) bool { return false }

// apply reads a rule from left to right: conditions, then what to do. A key is
// fields of the packet joined by dots; what follows it says what it is for.
func (r *nftRules) apply(w *walk, _, rule string) (verdict, effect string) {
	words := append(strings.Fields(rule), make([]string, 8)...) // so that a rule may end anywhere
	for words[0] != "" {
		switch words[0] {
		case "accept", "drop", "reject", "return":
			return words[0], ""
		case "goto", "jump":
			return words[0] + " " + words[1], ""
		case "masquerade":
			return "accept", w.masquerade()
		case "dnat":
			key, rest := r.key(w, words[3:]) // after "dnat ip to"
			if len(rest) < 2 {
				return "", ""
			}
			to, ok := r.lookup(w, strings.TrimPrefix(rest[1], "@"), key)
			if !ok {
				return "", ""
			}
			return w.dnat(addressOf(to))
		}
		if strings.HasPrefix(rule, "meta mark set meta mark") {
			bits, _ := maskOf(words[6])
			if words[5] == "^" {
				return "next", w.setMark(w.mark ^ bits)
			}
			return "next", w.setMark(w.mark | bits)
		}
		key, rest := r.key(w, words)
		if len(rest) < 2 || key == "" {
			w.notes["not understood, taken not to match: "+rule] = true
			return "", ""
		}
		if rest[0] == "vmap" {
			value, _ := r.lookup(w, strings.TrimPrefix(rest[1], "@"), key)
			return value, ""
		}
		if words = r.matches(w, key, rest); words == nil {
			return "", ""
		}
	}
	return "", ""
}

// matches compares a key; it answers what follows, nil if the key differs.
func (r *nftRules) matches(w *walk, key string, rest []string) []string {
	equal := true
	if rest[0] == "!=" || rest[0] == "==" {
		equal, rest = rest[0] == "==", rest[1:]
	}
	var ok bool
	switch want := rest[0]; {
	case strings.HasPrefix(want, "@"):
		_, ok = r.lookup(w, want[1:], key)
	case strings.Contains(want, "/"):
		ip, err := netip.ParseAddr(key)
		ok = err == nil && within(ip, want)
	default:
		ok = slices.Contains(strings.Split(strings.Trim(want, `"`), ","), key)
	}
	if ok != equal {
		return nil
	}
	return rest[1:]
}

// key evaluates "ip daddr . meta l4proto . th dport" and answers what follows.
func (r *nftRules) key(w *walk, words []string) (string, []string) {
	var parts []string
	for len(words) > 6 && words[0] != "" {
		value, used := "", 2
		switch two := words[0] + " " + words[1]; {
		case two == "ip saddr" || two == "ip6 saddr":
			value = w.Source.String()
		case two == "ip daddr" || two == "ip6 daddr":
			value = w.Destination.Addr().String()
		case words[1] == "dport":
			if words[0] != "th" && words[0] != w.Protocol {
				return "another protocol", words[2:]
			}
			value = strconv.Itoa(int(w.Destination.Port()))
		case two == "meta l4proto":
			value = w.Protocol
		case two == "ct state":
			value = "new"
		case two == "meta mark" && words[2] == "&":
			bits, _ := maskOf(words[3])
			value, used = "0x"+strconv.FormatUint(1<<32+uint64(w.mark&bits), 16)[1:], 4
		case two == "fib saddr":
			value, used = "other", 3
			if w.local[w.Source] {
				value = "local"
			}
		case two == "numgen random":
			n, _ := strconv.Atoi(words[3])
			value, used = strconv.Itoa(w.lot(n)), 4
		case words[0] == "jhash": // jhash ip6 saddr mod 3 seed 0x…
			n, _ := strconv.Atoi(words[4])
			value, used = strconv.Itoa(w.lot(n)), 7
		default:
			return "", nil
		}
		parts, words = append(parts, value), words[used:]
		if len(words) == 0 || words[0] != "." {
			break
		}
		words = words[1:]
	}
	return strings.Join(parts, " . "), words
}

// lookup finds a key; in a set with ranges, the one that holds its last part.
func (r *nftRules) lookup(w *walk, set, key string) (string, bool) {
	if value, ok := r.sets[set][key]; ok || set != "allowed-sources" {
		return value, ok
	}
	i := strings.LastIndex(key, " . ")
	for member := range r.sets[set] {
		if j := strings.LastIndex(member, " . "); j == i && i > 0 && member[:j] == key[:i] && within(w.Source, member[j+3:]) {
			return "", true
		}
	}
	return "", false
}

// addressOf turns "10.244.0.5 . 8080" into an address and port.
func addressOf(text string) string {
	ip, port, _ := strings.Cut(text, " . ")
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return ip + ":" + port
}
