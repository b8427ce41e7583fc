package app

import (
	"github.com/spf13/cobra"

	"tinykube/client"
	"tinykube/csi/journey"
	"tinykube/internal/flags"
)

// NewExplainCommand is `tinykube explain pvc`. kubeconfig says where the
// cluster is if the flag does not.
func NewExplainCommand(kubeconfig func() string) *cobra.Command {
	var namespace, file string
	cmd := &cobra.Command{
		Use:   "pvc NAME",
		Short: "Where a claim stands on its way from wish to mount, and what it waits for",
		Long: `Reads the cluster and follows one PersistentVolumeClaim: its class, the node that
is chosen for it, the volume that is made or found, the attachment, the mount in
each pod that uses it, and the way back. Names the call that is waited for, who
has to make it, and what was last said about it. Nothing is changed. Of a claim
that is gone, what becomes of its volume.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				file = kubeconfig()
			}
			access, err := client.LoadKubeconfig(file)
			if err != nil {
				return err
			}
			api, err := client.New(access)
			if err != nil {
				return err
			}
			world, err := journey.Fetch(flags.SignalContext(), api, namespace, args[0])
			if err != nil {
				return err
			}
			return journey.Explain(cmd.OutOrStdout(), world, namespace, args[0])
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "the claim's namespace")
	cmd.Flags().StringVar(&file, "kubeconfig", "", "how to reach the API server ($KUBECONFIG, or this machine's cluster)")
	return cmd
}
