package main

import (
	"os"

	"github.com/spf13/cobra"

	csisidecars "tinykube/cmd/csi-sidecars/app"
	scheduler "tinykube/cmd/kube-scheduler/app"
)

// newExplain is for questions to a running cluster that kubectl cannot answer.
func newExplain() *cobra.Command {
	command := &cobra.Command{Use: "explain", Short: "Why something is as it is"}
	command.AddCommand(scheduler.NewExplainCommand(anyKubeconfig), csisidecars.NewExplainCommand(anyKubeconfig))
	return command
}

// anyKubeconfig is the environment's, or that of this machine's cluster.
func anyKubeconfig() string {
	if file := os.Getenv("KUBECONFIG"); file != "" {
		return file
	}
	dir := os.Getenv("TINYKUBE_DIR")
	if dir == "" {
		dir = defaultDir
	}
	if c, exists, err := loadCluster(dir); err == nil && exists {
		return c.adminConf()
	}
	return ""
}
