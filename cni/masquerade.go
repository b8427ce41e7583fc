package cni

import (
	"crypto/sha512"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"tinykube/internal/iptables"
)

// Rules of one container live in a chain of their own, and one jump, with a
// comment that names network and container, leads there. So they can be added,
// found and removed without knowing the container's address any more.
//
// Upstream: containernetworking/plugins pkg/utils FormatChainName; same names,
// so either program removes what the other has added.

const (
	masqueradePrefix = "CNI-"
	hostPortPrefix   = "CNI-DN-"
	maxChainName     = 28 // what iptables allows
)

func chainName(prefix, network, containerID string) string {
	hash := fmt.Sprintf("%x", sha512.Sum512([]byte(network+containerID)))
	return prefix + hash[:maxChainName-len(prefix)]
}

func comment(network, containerID string) string {
	return fmt.Sprintf("name: %q id: %q", network, containerID)
}

// masquerade lets a container speak to the world under the node's address:
//
//	-A POSTROUTING -s 10.1.0.5/32 -j CNI-…
//	-A CNI-… -d 10.1.0.0/24 -j ACCEPT           its own network sees its own address
//	-A CNI-… ! -d 224.0.0.0/4 -j MASQUERADE
func masquerade(network, containerID string, ips []*current.IPConfig) error {
	chain, why := chainName(masqueradePrefix, network, containerID), comment(network, containerID)
	for _, ip := range ips {
		r := runnerFor(ip.Address.IP)
		multicast := "224.0.0.0/4"
		if r.Family == iptables.IPv6 {
			multicast = "ff00::/8"
		}
		network := net.IPNet{IP: ip.Address.IP.Mask(ip.Address.Mask), Mask: ip.Address.Mask}
		rules := fmt.Sprintf("-A %s -d %s -m comment --comment %q -j ACCEPT\n", chain, network.String(), why) +
			fmt.Sprintf("-A %s ! -d %s -m comment --comment %q -j MASQUERADE\n", chain, multicast, why)
		jump := fmt.Sprintf("-A POSTROUTING -s %s -m comment --comment %q -j %s\n", ip.Address.IP, why, chain)
		// -N refuses a chain that is there, and then nothing of the text is done.
		err := r.Restore(background(), []byte("*nat\n-N "+chain+"\n"+rules+jump+"COMMIT\n"))
		if err == nil {
			continue
		}
		// An ADD that died has left it, and perhaps the jump: declaring empties it.
		if r.Has(background(), "nat", "POSTROUTING", "-s", ip.Address.IP.String(), "-m", "comment", "--comment", why, "-j", chain) {
			jump = ""
		}
		if err := r.Restore(background(), []byte("*nat\n:"+chain+" - [0:0]\n"+rules+jump+"COMMIT\n")); err != nil {
			return err
		}
	}
	return nil
}

func runnerFor(ip net.IP) iptables.Runner {
	if ip.To4() != nil {
		return iptables.Runner{}
	}
	return iptables.Runner{Family: iptables.IPv6}
}

func unmasquerade(network, containerID string) error {
	return removeChains(func(chain string, _ string) bool {
		return chain == chainName(masqueradePrefix, network, containerID)
	})
}

// removeChains removes every chain that doomed wants gone, with the jumps to it.
// doomed sees a chain's name and the text of a jump to it, "" if there is none.
func removeChains(doomed func(chain, jump string) bool) error {
	for _, r := range []iptables.Runner{{}, {Family: iptables.IPv6}} {
		save, err := r.Save(background(), "nat")
		if err != nil && r.Family == iptables.IPv6 {
			return nil // a kernel without IPv6 has no such rules
		}
		if err != nil {
			return err
		}
		if text := removal(iptables.Parse(save)["nat"], doomed); text != "" {
			if err := r.Restore(background(), []byte(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

// removal is iptables-restore's text for it; "" if there is nothing to do.
func removal(table iptables.Table, doomed func(chain, jump string) bool) string {
	type jump struct{ from, rule string }
	jumps := map[string][]jump{}
	for from, rules := range table {
		for _, rule := range rules {
			fields := strings.Fields(rule)
			target := fields[len(fields)-1]
			jumps[target] = append(jumps[target], jump{from, rule})
		}
	}
	var declare, remove strings.Builder
	for chain := range table {
		if !strings.HasPrefix(chain, masqueradePrefix) {
			continue
		}
		first := ""
		if len(jumps[chain]) > 0 {
			first = jumps[chain][0].rule
		}
		if !doomed(chain, first) {
			continue
		}
		fmt.Fprintf(&declare, ":%s - [0:0]\n", chain) // declaring empties it
		for _, j := range jumps[chain] {
			fmt.Fprintf(&remove, "-D %s %s\n", j.from, j.rule)
		}
		fmt.Fprintf(&remove, "-X %s\n", chain)
	}
	if declare.Len() == 0 {
		return ""
	}
	return "*nat\n" + declare.String() + remove.String() + "COMMIT\n"
}

// commentText finds network and container in a jump as iptables-save quotes it.
var commentText = regexp.MustCompile(`name: \\?"([^"\\]*)\\?" id: \\?"([^"\\]*)\\?"`)

// collectChains removes the chains of a network's containers that are no more.
func collectChains(prefix string, config *types.PluginConf) error {
	valid := map[string]bool{}
	for _, a := range config.ValidAttachments {
		valid[a.ContainerID] = true
	}
	return removeChains(func(chain, jump string) bool {
		m := commentText.FindStringSubmatch(jump)
		return m != nil && m[1] == config.Name && chain == chainName(prefix, m[1], m[2]) && !valid[m[2]]
	})
}
