package app

import (
	"errors"

	"github.com/spf13/cobra"

	"tinykube/scheduler/config"
	"tinykube/scheduler/framework"
	"tinykube/scheduler/simulate"
)

// newSimulateCommand decides offline what happens to the pods in some files.
func newSimulateCommand() *cobra.Command {
	var files []string
	var configFile string
	var bars bool
	cmd := &cobra.Command{
		Use:   "simulate -f nodes.yaml -f pods.yaml",
		Short: "Decide offline, and print every filter's verdict and every score",
		Long: `Reads Node and Pod objects (also lists of them, as "kubectl get -o yaml" prints
them) and decides each pod that has no node yet, in the scheduler's order, on
top of those before it. Services, ReplicaSets, StatefulSets, ReplicationControllers
and Namespaces count as well: pods are spread by what selects them. So do
budgets and volumes. Nothing is contacted.`,
		Example: `  kubectl get nodes,pods,services,replicasets,namespaces -A -o yaml > world.yaml
  kube-scheduler simulate -f world.yaml -f my-pod.yaml --config most-allocated.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return errors.New("nothing to simulate: give files of nodes and pods with -f")
			}
			component := config.Default()
			if configFile != "" {
				var err error
				if component, err = config.LoadFile(configFile); err != nil {
					return err
				}
			}
			world := &simulate.World{}
			profiles, err := config.Profiles(component, framework.Handle{Objects: world})
			if err != nil {
				return err
			}
			for _, file := range files {
				if err := world.ReadFile(file, cmd.InOrStdin()); err != nil {
					return err
				}
			}
			return simulate.Run(cmd.OutOrStdout(), profiles, world, bars)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file of nodes and pods, or - for standard input; may be repeated")
	cmd.Flags().StringVar(&configFile, "config", "", "path of a KubeSchedulerConfiguration file")
	cmd.Flags().BoolVar(&bars, "bars", false, "only draw how full each node is in the end")
	return cmd
}
