package app

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"tinykube/proxy"
)

// newExplainCommand walks a packet through the rules of this machine, or through
// those that render would print.
func newExplainCommand() *cobra.Command {
	var o offline
	var protocol, hostRoot, rulesFile string
	cmd := &cobra.Command{
		Use:   "explain SRC DST[:PORT]",
		Short: "Walk a packet through the rules, step by step",
		Long: `explain takes the first packet of a connection from SRC to DST:PORT and shows
every rule that it meets and what that does. Without -f the rules are those of
this machine's kernel (as root); with -f those that render prints for the files;
with --rules those in a file, as iptables-save, nft list table or render prints them.`,
		Example: `  kube-proxy explain 10.244.1.7 10.96.0.10:53 --protocol udp
  kube-proxy explain 192.0.2.1 172.30.9.1:30080 -f app.yaml --node-ip 172.30.9.1 --proxy-mode nftables`,
		Args:         cobra.ExactArgs(2),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			packet, err := parsePacket(args[0], args[1], protocol)
			if err != nil {
				return err
			}
			family := proxy.IPv4
			if packet.Source.Is6() {
				family = proxy.IPv6
			}
			if len(o.files) > 0 || rulesFile != "" {
				what := "rules as render prints them"
				text, err := o.text(cmd.InOrStdin())
				if err != nil {
					return err
				}
				if rulesFile != "" {
					content, err := os.ReadFile(rulesFile)
					if err != nil {
						return err
					}
					what, text = "rules of "+rulesFile, string(content)
				}
				if family != o.node.Family {
					return fmt.Errorf("%s and the node are of different families: --node-ip says which rules there are", packet.Source)
				}
				fates, notes := proxy.Explain(proxy.ParseRules(o.mode, text, family), packet, o.options.NodePortAddresses)
				printFates(cmd.OutOrStdout(), "mode "+o.mode+", "+what, packet, fates, notes)
				return nil
			}
			rules, mode, err := proxy.KernelRules(cmd.Context(), hostRoot, family)
			if err != nil {
				return err
			}
			addresses, err := net.InterfaceAddrs()
			if err != nil {
				return err
			}
			var local []netip.Addr
			for _, a := range addresses {
				if p, err := netip.ParsePrefix(a.String()); err == nil {
					local = append(local, p.Addr())
				}
			}
			fates, notes := proxy.Explain(rules, packet, local)
			printFates(cmd.OutOrStdout(), "mode "+mode+", rules of this machine", packet, fates, notes)
			return nil
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().StringVar(&protocol, "protocol", "tcp", "tcp or udp")
	cmd.Flags().StringVar(&rulesFile, "rules", "", "file with the rules to walk through, in place of -f")
	cmd.MarkFlagsMutuallyExclusive("rules", "filename")
	cmd.Flags().StringVar(&hostRoot, "host-root", "", "directory where the machine's root is mounted; its tools are used")
	return cmd
}

// parsePacket reads the arguments; without a port it is 80.
func parsePacket(source, destination, protocol string) (p proxy.Packet, err error) {
	if p.Source, err = netip.ParseAddr(source); err != nil {
		return p, fmt.Errorf("SRC: %q is not an IP address: packets know no names and a new one may come from any port", source)
	}
	if p.Destination, err = netip.ParseAddrPort(destination); err != nil {
		ip, err := netip.ParseAddr(destination)
		if err != nil {
			return p, fmt.Errorf("DST: %q is neither an address nor ADDRESS:PORT", destination)
		}
		p.Destination = netip.AddrPortFrom(ip, 80)
	}
	if p.Destination.Port() == 0 {
		return p, fmt.Errorf("DST: nobody listens on port 0")
	}
	p.Protocol = strings.ToLower(protocol)
	if p.Protocol != "tcp" && p.Protocol != "udp" {
		return p, fmt.Errorf("--protocol: %q is neither tcp nor udp", protocol)
	}
	if p.Source.Is4() != p.Destination.Addr().Is4() {
		return p, fmt.Errorf("%s and %s are of different families", p.Source, p.Destination.Addr())
	}
	return p, nil
}

// printFates shows the first walk as a whole, and how the others end.
func printFates(out io.Writer, what string, packet proxy.Packet, fates []proxy.Fate, notes []string) {
	fmt.Fprintf(out, "%s %s -> %s (%s)\n", packet.Protocol, packet.Source, packet.Destination, what)
	hook := ""
	for _, step := range fates[0].Steps {
		if step.Hook != hook {
			hook = step.Hook
			fmt.Fprintf(out, "%s\n", hook)
		}
		fmt.Fprintf(out, "  %s\n      %s\n", step.Chain, step.Rule)
		if step.Effect != "" {
			fmt.Fprintf(out, "      => %s\n", step.Effect)
		}
	}
	if len(fates[0].Steps) == 0 {
		fmt.Fprintln(out, "  no rule matches")
	}
	fmt.Fprintf(out, "=> %s\n", fates[0])
	for _, other := range fates[1:] {
		fmt.Fprintf(out, "   or, by lot: %s\n", other)
	}
	for _, note := range notes {
		fmt.Fprintf(out, "note: %s\n", note)
	}
}
