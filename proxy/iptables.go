package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"tinykube/internal/iptables"
)

// Backend makes the kernel do what a State says. Each Sync is atomic and
// idempotent.
type Backend interface {
	Sync(ctx context.Context, state State) error
	// Intact says whether the kernel still holds what Sync wrote; if not, the
	// next Sync starts from nothing.
	Intact(ctx context.Context) bool
}

// IPTables is the backend for iptables, of either flavour.
type IPTables struct {
	Runner  iptables.Runner
	Options RuleOptions
	Logger  *slog.Logger

	renderer Renderer
	// applied is what we last wrote; nil when we do not know what the kernel
	// holds: at first, after an error, and when somebody has meddled.
	applied Rules
	looks   int // calls of Intact
	// Writes counts the restores that changed something.
	Writes int
}

// Sync writes the difference between what the kernel holds and the state. Knowing
// what we wrote last, it neither reads the tables nor writes unchanged chains:
// one new endpoint among thousands costs three chains.
func (b *IPTables) Sync(ctx context.Context, state State) error {
	want := b.renderer.Render(state, b.Options)
	have, missing := b.applied, []jump(nil)
	if have == nil {
		var err error
		if have, missing, err = b.observe(ctx); err != nil {
			return err
		}
	}
	text := restoreText(have, want, missing)
	if text == "" {
		return nil
	}
	b.applied = nil
	if err := b.Runner.Restore(ctx, []byte(text)); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	b.applied = want
	b.Writes++
	return nil
}

// unknown is the text of a chain that is there but was not read: it differs from
// any other. iptables prints rules in its own words, so theirs cannot be compared.
const unknown = "?"

// observe reads which of our chains exist and which jumps are missing.
func (b *IPTables) observe(ctx context.Context) (Rules, []jump, error) {
	save, err := b.Runner.Save(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	kernel := iptables.Parse(save)
	have := Rules{}
	for name, table := range kernel {
		have[name] = map[string]string{}
		for chain := range table {
			if name == "nat" && slices.ContainsFunc(portChains, func(p string) bool { return strings.HasPrefix(chain, p) }) {
				have[name][chain] = unknown
			}
		}
	}
	var missing []jump
	for _, j := range b.jumps() {
		if !kernel[j.table].Jumps(j.from, j.to) {
			missing = append(missing, j)
		}
	}
	return have, missing, nil
}

func (b *IPTables) jumps() []jump {
	if b.Options.LocalhostNodePorts {
		return append(slices.Clone(jumps), martianJumps...)
	}
	return jumps
}

// FirstRestore is what would be written on a node that has no rules of ours.
func FirstRestore(rules Rules) string { return restoreText(nil, rules, jumps) }

// jumpsEvery so many calls Intact also looks at the jumps.
const jumpsEvery = 5

// Intact looks at the canary in each table: `iptables -F` and `nft flush ruleset`
// empty it. At times it also looks at the jumps, which a careless firewall script
// may lose one by one. It asks for single chains; the nft flavour answers that
// in the same time with any number of Services.
func (b *IPTables) Intact(ctx context.Context) bool {
	if b.applied == nil {
		return false
	}
	kernel := map[string]iptables.Table{}
	for _, table := range tables {
		kernel[table] = b.list(ctx, table, canaryChain)
		if len(kernel[table][canaryChain]) == 0 {
			b.lost("Somebody has flushed our rules", table)
			return false
		}
	}
	b.looks++
	if b.looks%jumpsEvery != 0 {
		return true
	}
	for _, j := range b.jumps() {
		table := kernel[j.table]
		if _, listed := table[j.from]; !listed {
			table[j.from] = b.list(ctx, j.table, j.from)[j.from]
		}
		if !table.Jumps(j.from, j.to) {
			b.lost("Somebody has removed the jump to "+j.to, j.table)
			return false
		}
	}
	return true
}

func (b *IPTables) lost(what, table string) {
	b.Logger.Warn(what+"; writing all of them again", "table", table)
	b.applied = nil
}

func (b *IPTables) list(ctx context.Context, table, chain string) iptables.Table {
	text, err := b.Runner.Run(ctx, "-t", table, "-S", chain)
	if err != nil {
		return iptables.Table{} // no such chain
	}
	return iptables.Parse("*" + table + "\n" + text)[table]
}

// CleanupIPTables removes all that this proxy, or upstream's, has written.
func CleanupIPTables(ctx context.Context, runner iptables.Runner) error {
	save, err := runner.Save(ctx, "")
	if err != nil {
		return err
	}
	if text := cleanupText(iptables.Parse(save)); text != "" {
		return runner.Restore(ctx, []byte(text))
	}
	return nil
}

// frameChains are the chains that Render makes whatever the state.
var frameChains = []string{servicesChain, externalServicesChain, nodePortsChain, postroutingChain, markMasqChain,
	forwardChain, firewallChain, canaryChain}

func isOurChain(chain string) bool {
	return slices.Contains(frameChains, chain) ||
		slices.ContainsFunc(portChains, func(p string) bool { return strings.HasPrefix(chain, p) })
}

func cleanupText(kernel map[string]iptables.Table) string {
	var text strings.Builder
	for _, name := range tables {
		var ours, leave []string
		for chain, rules := range kernel[name] {
			if isOurChain(chain) {
				ours = append(ours, chain)
				continue
			}
			for _, rule := range rules {
				if fields := strings.Fields(rule); isOurChain(fields[len(fields)-1]) {
					leave = append(leave, "-D "+chain+" "+rule+"\n")
				}
			}
		}
		if len(ours)+len(leave) == 0 {
			continue
		}
		slices.Sort(ours)
		fmt.Fprintf(&text, "*%s\n", name)
		for _, chain := range ours {
			fmt.Fprintf(&text, ":%s - [0:0]\n", chain)
		}
		text.WriteString(strings.Join(leave, ""))
		for _, chain := range ours {
			fmt.Fprintf(&text, "-X %s\n", chain)
		}
		text.WriteString("COMMIT\n")
	}
	return text.String()
}
