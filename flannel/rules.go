package flannel

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"tinykube/internal/iptables"
)

// Rules that let pods speak to the world: their addresses mean nothing out
// there, so packets that leave the pod network get the node's.
//
// Upstream: flannel-io/flannel pkg/trafficmngr/iptables: the same chains.

const (
	masqChain    = "FLANNEL-POSTRTG"
	forwardChain = "FLANNEL-FWD"
	masqNote     = "flanneld masq"
	forwardNote  = "flanneld forward"
)

// masqRules, in order:
//
//   - what kube-proxy has marked it will masquerade itself;
//   - inside the pod network everybody keeps their own address;
//   - so does what comes from outside to a pod of this node;
//   - pods' traffic to the world is masqueraded (multicast is not traffic);
//   - and so is what this node forwards from outside to pods of other nodes:
//     their answers must come back through here.
func masqRules(network, subnet netip.Prefix, randomFully bool) []string {
	masquerade := "MASQUERADE"
	if randomFully {
		masquerade += " --random-fully"
	}
	return []string{
		"-m mark --mark 0x4000/0x4000 -j RETURN",
		fmt.Sprintf("-s %s -d %s -j RETURN", subnet, network),
		fmt.Sprintf("-s %s -d %s -j RETURN", network, subnet),
		fmt.Sprintf("! -s %s -d %s -j RETURN", network, subnet),
		fmt.Sprintf("-s %s ! -d 224.0.0.0/4 -j %s", network, masquerade),
		fmt.Sprintf("! -s %s -d %s -j %s", network, network, masquerade),
	}
}

func forwardRules(network netip.Prefix) []string {
	return []string{fmt.Sprintf("-s %s -j ACCEPT", network), fmt.Sprintf("-d %s -j ACCEPT", network)}
}

// ruleText is iptables-restore's input that fills a chain (naming it empties it)
// and, unless it is there, adds the jump to it.
func ruleText(c ruleChain, jump bool) string {
	var text strings.Builder
	fmt.Fprintf(&text, "*%s\n:%s - [0:0]\n", c.table, c.name)
	for _, rule := range c.rules {
		match, target, _ := strings.Cut(rule, "-j ")
		fmt.Fprintf(&text, "-A %s %s-m comment --comment %q -j %s\n", c.name, match, c.note, target)
	}
	if jump {
		fmt.Fprintf(&text, "-A %s -m comment --comment %q -j %s\n", c.from, c.note, c.name)
	}
	return text.String() + "COMMIT\n"
}

// ruleChain is a chain of ours and where it is entered.
type ruleChain struct {
	table, from, name, note string
	rules                   []string
}

// ruleChains are the ones that the configuration asks for.
func (f *Flannel) ruleChains(ctx context.Context, r iptables.Runner) ([]ruleChain, error) {
	var chains []ruleChain
	if f.config.IPMasq {
		version, err := r.Detect(ctx)
		if err != nil {
			return nil, err
		}
		chains = append(chains, ruleChain{"nat", "POSTROUTING", masqChain, masqNote, masqRules(f.conf.Network, f.mine.Subnet, version.RandomFully() && !f.config.OrderlyPorts)})
	}
	if f.config.ForwardRules {
		chains = append(chains, ruleChain{"filter", "FORWARD", forwardChain, forwardNote, forwardRules(f.conf.Network)})
	}
	return chains, nil
}

// ensureRules writes what is missing. It asks for our chains alone, never for a
// whole table: kube-proxy may have tens of thousands of rules there.
func (f *Flannel) ensureRules(ctx context.Context, r iptables.Runner) error {
	if f.chains == nil {
		chains, err := f.ruleChains(ctx, r)
		if err != nil {
			return err
		}
		f.chains = chains
	}
	for _, c := range f.chains {
		jump := []string{"-m", "comment", "--comment", c.note, "-j", c.name}
		list, err := r.Run(ctx, "-t", c.table, "-S", c.name) // an error: no such chain
		jumps := err == nil && r.Has(ctx, c.table, c.from, jump...)
		if jumps && matches(iptables.Parse("*" + c.table + "\n" + list)[c.table][c.name], c.rules) {
			continue
		}
		f.log.Info("Writing rules", "chain", c.name)
		if err := r.Restore(ctx, []byte(ruleText(c, !jumps))); err != nil {
			return err
		}
	}
	return nil
}

// matches says whether the kernel's rules have our words in them, in our order.
func matches(have, want []string) bool {
	if len(have) != len(want) {
		return false
	}
	for i := range want {
		fields := map[string]bool{}
		for _, word := range strings.Fields(have[i]) {
			fields[word] = true
		}
		for _, word := range strings.Fields(want[i]) {
			if !fields[word] {
				return false
			}
		}
	}
	return true
}
