package proxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"tinykube/internal/iptables"
)

// NFTables is the backend for nftables. It owns one table, and every change is
// one transaction, of the machine's own nft or, where it is a few elements, of
// ours: all of it or nothing, and no packet sees half.
type NFTables struct {
	root   string
	family Family
	log    *slog.Logger

	ledger  ledger
	options Options
	// written is what the kernel holds of ours but for elements, as nft lists it;
	// empty when we do not know: at first, after an error, after a meddling.
	written string
	sticky  map[*ServicePort]bool // of the last state

	elements elementWriter
}

// Sync writes the elements that differ.
func (b *NFTables) Sync(ctx context.Context, state State, options Options) (bool, error) {
	fresh := b.written == ""
	if fresh {
		b.ledger = ledger{}
	}
	c := b.plan(&b.ledger, state, options)
	text := b.transaction(c)
	if fresh {
		// In one transaction with what follows: at no time is there no table.
		table := b.family.nft() + " " + nftTable
		text = fmt.Sprintf("add table %s\ndelete table %[1]s\nadd table %[1]s\n%s%s", table, text, b.keptAffinity(ctx, state, c))
	}
	if !fresh && c.empty() {
		return false, nil
	}
	known := b.written
	// What it cannot write, nft can, or says why not.
	if !fresh && b.elements.write(b.family, c) == nil {
		return true, b.forgetAffinity(ctx, state, fresh)
	}
	b.written = ""
	if _, err := b.nft(ctx, text, "-f", "-"); err != nil {
		return false, fmt.Errorf("write rules: %w", err)
	}
	if len(c.add[nftChains])+len(c.remove[nftChains]) > 0 {
		var err error
		if known, err = b.frame(ctx); err != nil {
			return true, err
		}
	}
	b.written = known
	return true, b.forgetAffinity(ctx, state, fresh)
}

func (b *NFTables) plan(l *ledger, state State, options Options) changes {
	all := !b.options.equal(options)
	b.options = options
	return l.update(state, nftFrame(b.family, options), all, func(p *ServicePort) [][]element {
		return nftElements(b.family, options, p)
	})
}

// Text is the first transaction.
func (b *NFTables) Text(state State, options Options) string {
	return "add table " + b.family.nft() + " " + nftTable + "\n" + b.transaction(b.plan(&ledger{}, state, options))
}

// transaction is nft's input for the changes. What is named must exist: sets
// before chains, chains before elements that lead to them; and away in the other
// order.
func (b *NFTables) transaction(c changes) string {
	var text bytes.Buffer
	table := b.family.nft() + " " + nftTable
	for _, e := range sortElements(c.add[nftSets]) {
		kind, declaration, _ := strings.Cut(e.value, " ")
		fmt.Fprintf(&text, "add %s %s %s %s\n", kind, table, e.key, declaration)
	}
	for _, e := range sortElements(c.add[nftChains]) {
		hook, _, _ := strings.Cut(e.value, "\n")
		if !strings.HasPrefix(hook, "{") {
			hook = ""
		}
		fmt.Fprintf(&text, "add chain %s %s %s\n", table, e.key, hook)
	}
	for _, e := range sortElements(c.remove[nftChains]) {
		fmt.Fprintf(&text, "flush chain %s %s\n", table, e.key)
	}
	for _, e := range c.add[nftChains] {
		for rule := range strings.SplitSeq(e.value, "\n") {
			if !strings.HasPrefix(rule, "{") {
				fmt.Fprintf(&text, "add rule %s %s %s\n", table, e.key, rule)
			}
		}
	}
	writeElements(&text, "delete", table, c.remove)
	writeElements(&text, "add", table, c.add)
	for _, kind := range []string{nftChains, nftSets} {
		for _, e := range sortElements(c.remove[kind]) {
			if !slices.ContainsFunc(c.add[kind], func(a element) bool { return a.key == e.key }) {
				fmt.Fprintf(&text, "delete %s %s %s\n", strings.Fields(kind + " " + e.value)[0], table, e.key)
			}
		}
	}
	return text.String()
}

func writeElements(text *bytes.Buffer, verb, table string, elements map[string][]element) {
	for _, set := range sortedKeys(elements) {
		if set == nftSets || set == nftChains {
			continue
		}
		fmt.Fprintf(text, "%s element %s %s {", verb, table, set)
		for i, e := range sortElements(elements[set]) {
			if i > 0 {
				text.WriteByte(',')
			}
			text.WriteString("\n\t")
			text.WriteString(e.key)
			if e.value != "" {
				text.WriteString(" : ")
				text.WriteString(e.value)
			}
		}
		text.WriteString(" }\n")
	}
}

func (b *NFTables) nft(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd, err := iptables.Command(ctx, b.root, "nft", args...)
	if err != nil {
		return "", err
	}
	out, err := iptables.Run(cmd, []byte(stdin))
	return string(out), err
}

// frame is our table without the elements of its sets, cut out of a listing of
// all tables: asked for one table, nft reads every element before it prints none.
func (b *NFTables) frame(ctx context.Context) (string, error) {
	all, err := b.nft(ctx, "", "-t", "list", "ruleset", b.family.nft())
	_, text, found := strings.Cut("\n"+all, "\ntable "+b.family.nft()+" "+nftTable+" {\n")
	if text, _, _ = strings.Cut(text, "\n}\n"); err == nil && !found {
		err = fmt.Errorf("there is no table %s", nftTable)
	}
	return text, err
}

// Intact compares the table's chains with those that we wrote.
//
// Simplified: elements are not compared; who removes one of ours without a trace
// elsewhere is noticed when that Service changes.
func (b *NFTables) Intact(ctx context.Context) bool {
	if b.written == "" {
		return false
	}
	text, err := b.frame(ctx)
	if err == nil && text == b.written || ctx.Err() != nil {
		return true
	}
	b.log.Warn("Somebody has changed our table; writing all of it again", "table", nftTable)
	b.written = ""
	return false
}

// Cleanup removes the table: it is upstream's name for its own as well.
func (b *NFTables) Cleanup(ctx context.Context) error {
	b.written = ""
	table := b.family.nft() + " " + nftTable
	_, err := b.nft(ctx, fmt.Sprintf("add table %s\ndelete table %[1]s\n", table), "-f", "-")
	return err
}

// remembered are the entries of one affinity map, as nft lists them:
//
//	10.244.2.7 . 10.96.0.80 . tcp . 80 expires 9m58s : 10.244.1.4 . 8080
func (b *NFTables) remembered(ctx context.Context, name string) []string {
	text, err := b.nft(ctx, "", "list", "map", b.family.nft(), nftTable, name)
	_, text, found := strings.Cut(text, "elements = {")
	text, _, ends := strings.Cut(text, "}")
	if err != nil || !found || !ends {
		return nil
	}
	return strings.Split(strings.Join(strings.Fields(text), " "), ", ")
}

// allowed says which entries still lead to an endpoint: way in + endpoint.
func (b *NFTables) allowed(state State) map[string]bool {
	allowed := map[string]bool{}
	for _, p := range state.Ports {
		if p.AffinitySeconds > 0 {
			for _, w := range p.ways(b.options.NodePortAddresses) {
				for _, e := range slices.Concat(w.endpoints, p.Cluster) {
					allowed[nftKey(w.address.Addr(), p.Protocol, w.address.Port())+" : "+nftAddress(e.Address)] = true
				}
			}
		}
	}
	return allowed
}

// isAllowed takes an entry apart.
func isAllowed(allowed map[string]bool, entry string) (key string, ok bool) {
	left, endpoint, _ := strings.Cut(entry, " : ")
	fields := strings.Fields(left) // client . service . protocol . port [expires …]
	if len(fields) < 7 {
		return "", false
	}
	return strings.Join(fields[:7], " "), allowed[strings.Join(fields[2:7], " ")+" : "+endpoint]
}

// keptAffinity is what a new process takes over from the table that it replaces:
// clients keep their endpoints.
func (b *NFTables) keptAffinity(ctx context.Context, state State, c changes) string {
	var text strings.Builder
	allowed := b.allowed(state)
	for _, e := range sortElements(c.add[nftSets]) {
		if !strings.HasPrefix(e.key, "affinity-") {
			continue
		}
		for _, entry := range b.remembered(ctx, e.key) {
			if _, ok := isAllowed(allowed, entry); ok {
				fmt.Fprintf(&text, "add element %s %s %s { %s }\n", b.family.nft(), nftTable, e.key, entry)
			}
		}
	}
	return text.String()
}

// forgetAffinity removes the entries of endpoints that are gone, when there may
// be any: a Service with affinity has changed.
func (b *NFTables) forgetAffinity(ctx context.Context, state State, fresh bool) error {
	last := b.sticky
	b.sticky = map[*ServicePort]bool{}
	names := map[string]bool{}
	for _, p := range state.Ports {
		if p.AffinitySeconds > 0 {
			b.sticky[p] = true
			names[fmt.Sprintf("affinity-%d", p.AffinitySeconds)] = true
		}
	}
	if fresh || maps.Equal(last, b.sticky) {
		return nil
	}
	var text strings.Builder
	allowed := b.allowed(state)
	for _, name := range sortedKeys(names) {
		for _, entry := range b.remembered(ctx, name) {
			if key, ok := isAllowed(allowed, entry); !ok && key != "" {
				fmt.Fprintf(&text, "delete element %s %s %s { %s }\n", b.family.nft(), nftTable, name, key)
			}
		}
	}
	if text.Len() == 0 {
		return nil
	}
	// An entry may have expired meanwhile, and then all of this fails: it is
	// asked for again at the next change, and an entry never outlives its time.
	_, err := b.nft(ctx, text.String(), "-f", "-")
	return err
}
