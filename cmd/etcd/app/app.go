// Package app is the real etcd, as a command of ours.
package app

import (
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

// NewCommand is etcd with all its own flags; it reads them itself.
func NewCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "etcd",
		Short:              "The store behind the API server: etcd itself",
		DisableFlagParsing: true,
		Run:                func(_ *cobra.Command, args []string) { etcdmain.Main(append([]string{"etcd"}, args...)) },
	}
}
