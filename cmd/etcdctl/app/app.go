// Package app is the real etcdctl, as a command of ours.
package app

import (
	"os"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
)

// NewCommand is etcdctl with all its own commands and flags. It knows no other
// place to read them from than os.Args.
func NewCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "etcdctl",
		Short:              "Look into etcd: etcdctl itself",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			os.Args = append([]string{"etcdctl"}, args...)
			return ctlv3.Start()
		},
	}
}
