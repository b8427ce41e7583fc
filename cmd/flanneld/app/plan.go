package app

import (
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"tinykube/flannel"
)

// newPlanCommand prints what a node would have, without a network or root.
func newPlanCommand() *cobra.Command {
	var config, file, node string
	var wire []string
	cmd := &cobra.Command{
		Use:          "plan --node-file FILE --node-name NAME",
		Short:        "Print the entries that a node would have for the others, as commands; touch nothing",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := flannel.LoadNetConf(config)
			if err != nil {
				return err
			}
			var networks []netip.Prefix
			for _, text := range wire {
				network, err := netip.ParsePrefix(text)
				if err != nil {
					return fmt.Errorf("--wire: %w", err)
				}
				networks = append(networks, network)
			}
			source := flannel.FileSource{Path: file, Node: node, Backend: conf.Backend.Type}
			commands, problems, err := flannel.Commands(cmd.Context(), conf, source, networks)
			for _, command := range commands {
				fmt.Fprintln(cmd.OutOrStdout(), command)
			}
			for _, problem := range problems {
				fmt.Fprintln(cmd.OutOrStdout(), "# left out:", problem)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&config, "net-config-path", "/etc/kube-flannel/net-conf.json", "network configuration")
	cmd.Flags().StringVar(&file, "node-file", "", "file with a line NAME SUBNET PUBLIC-IP per node")
	cmd.Flags().StringVar(&node, "node-name", "", "the node to plan for")
	cmd.Flags().StringSliceVar(&wire, "wire", nil, "networks that it shares with its neighbours, for host-gw and DirectRouting")
	return cmd
}
