package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"tinykube/internal/iptables"
)

// IPTables is the backend for iptables, of either flavour.
type IPTables struct {
	restorer
	renderer Renderer
}

// NewIPTables makes the backend.
func NewIPTables(runner iptables.Runner, log *slog.Logger) *IPTables {
	return &IPTables{restorer: restorer{runner: runner, log: log}}
}

// Sync writes the difference between what the kernel holds and the state.
func (b *IPTables) Sync(ctx context.Context, state State, options Options) (bool, error) {
	b.jumps = iptablesJumps(options)
	return b.write(ctx, b.renderer.Render(state, options))
}

func iptablesJumps(options Options) []jump {
	if options.LocalhostNodePorts {
		return append(slices.Clone(jumps), martianJumps...)
	}
	return jumps
}

// Text is what would be written on a node that has no rules of ours.
func (b *IPTables) Text(state State, options Options) string {
	return restoreText(nil, b.renderer.Render(state, options), entries{add: iptablesJumps(options)})
}

// restorer keeps the kernel's tables as Rules say.
type restorer struct {
	runner iptables.Runner
	log    *slog.Logger
	jumps  []jump
	// applied is what we last wrote; nil when we do not know what the kernel
	// holds: at first, after an error, and when somebody has meddled.
	applied Rules
	looks   int // calls of Intact
}

// write brings the kernel to what is wanted and says whether it had to change
// anything. Knowing what we wrote last, it neither reads the tables nor writes
// unchanged chains: one new endpoint among thousands costs three chains.
func (b *restorer) write(ctx context.Context, want Rules) (bool, error) {
	have, entries := b.applied, entries{}
	if have == nil {
		var err error
		if have, entries, err = b.observe(ctx); err != nil {
			return false, err
		}
	}
	text := restoreText(have, want, entries)
	if text == "" {
		return false, nil
	}
	b.applied = nil
	if err := b.runner.Restore(ctx, []byte(text)); err != nil {
		return false, fmt.Errorf("write rules: %w", err)
	}
	b.applied = want
	return true, nil
}

// unknown is the text of a chain that is there but was not read: it differs from
// any other. iptables prints rules in its own words, so theirs cannot be compared.
const unknown = "?"

// entries are what to do about the jumps from the kernel's chains into ours.
type entries struct {
	add    []jump
	remove map[string][]string // table → "-D" lines: they lead to chains of other modes
}

// observe reads which of our chains exist and which jumps are missing, or wrong.
func (b *restorer) observe(ctx context.Context) (Rules, entries, error) {
	save, err := b.runner.Save(ctx, "")
	if err != nil {
		return nil, entries{}, err
	}
	kernel := iptables.Parse(save)
	have, e := Rules{}, entries{remove: map[string][]string{}}
	for name, table := range kernel {
		have[name] = map[string]string{}
		for chain, rules := range table {
			if isOurChain(chain) {
				have[name][chain] = unknown
				continue
			}
			for _, rule := range rules {
				fields := strings.Fields(rule)
				to := fields[len(fields)-1]
				if isOurChain(to) && !slices.ContainsFunc(b.jumps, func(j jump) bool { return j.table == name && j.from == chain && j.to == to }) {
					e.remove[name] = append(e.remove[name], "-D "+chain+" "+rule+"\n")
				}
			}
		}
	}
	for _, j := range b.jumps {
		if !kernel[j.table].Jumps(j.from, j.to) {
			e.add = append(e.add, j)
		}
	}
	return have, e, nil
}

// jumpsEvery so many calls Intact also looks at the jumps.
const jumpsEvery = 5

// Intact looks at the canary in each table: `iptables -F` and `nft flush ruleset`
// empty it. At times it also looks at the jumps, which a careless firewall script
// may lose one by one. It asks for single chains; the nft flavour answers that
// in the same time with any number of Services.
func (b *restorer) Intact(ctx context.Context) bool {
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
	for _, j := range b.jumps {
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

func (b *restorer) lost(what, table string) {
	b.log.Warn(what+"; writing all of them again", "table", table)
	b.applied = nil
}

func (b *restorer) list(ctx context.Context, table, chain string) iptables.Table {
	text, err := b.runner.Run(ctx, "-t", table, "-S", chain)
	if err != nil {
		return iptables.Table{} // no such chain
	}
	return iptables.Parse("*" + table + "\n" + text)[table]
}

// Cleanup removes all that this proxy, or upstream's, has written. The ipvs
// backend's chains are ours as well.
func (b *restorer) Cleanup(ctx context.Context) error {
	b.applied, b.jumps = nil, nil
	have, entries, err := b.observe(ctx)
	if err != nil {
		return err
	}
	if text := restoreText(have, nil, entries); text != "" {
		return b.runner.Restore(ctx, []byte(text))
	}
	return nil
}

// frameChains are the chains that the backends make whatever the state.
var frameChains = append([]string{servicesChain, externalServicesChain, nodePortsChain, postroutingChain, markMasqChain,
	forwardChain, firewallChain, canaryChain}, ipvsChains...)

func isOurChain(chain string) bool {
	return slices.Contains(frameChains, chain) ||
		slices.ContainsFunc(portChains, func(p string) bool { return strings.HasPrefix(chain, p) })
}
