package app

import (
	"github.com/spf13/cobra"

	"tinykube/client"
	"tinykube/internal/flags"
	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
	"tinykube/scheduler/simulate"
)

// NewExplainCommand is `tinykube explain pod`: simulate on a running cluster.
// kubeconfig says where that is if the flag does not.
func NewExplainCommand(kubeconfig func() string) *cobra.Command {
	var namespace, file, configFile string
	cmd := &cobra.Command{
		Use:   "pod NAME",
		Short: "Why a pod is where it is, or why it is pending",
		Long: `Reads the cluster and decides about one pod as the scheduler would, on all that
is there now: every filter's verdict on every node, and every plugin's raw,
normalized and weighted score. Nothing is changed. A pod that runs already is
decided anew without itself.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			component := config.Default()
			var err error
			if configFile != "" {
				if component, err = config.LoadFile(configFile); err != nil {
					return err
				}
			}
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
			world, err := simulate.Fetch(flags.SignalContext(), api)
			if err != nil {
				return err
			}
			profiles, err := config.Profiles(component, framework.Handle{Objects: world})
			if err != nil {
				return err
			}
			return simulate.ExplainPod(cmd.OutOrStdout(), profiles, world, namespace, args[0])
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "the pod's namespace")
	cmd.Flags().StringVar(&file, "kubeconfig", "", "how to reach the API server ($KUBECONFIG, or this machine's cluster)")
	cmd.Flags().StringVar(&configFile, "config", "", "path of the KubeSchedulerConfiguration file that the scheduler was given")
	return cmd
}
