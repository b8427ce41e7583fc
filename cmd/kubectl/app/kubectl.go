// Package app embeds the real kubectl, so that a machine with nothing on it
// can talk to a cluster. It is the one place where client-go comes in: kubectl
// is a judge of our API server, not a part of us.
package app

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/plugin"
	"k8s.io/kubectl/pkg/cmd/util"
)

// Main runs kubectl with args (without its own name) and ends the process with
// kubectl's exit code if that is not 0.
func Main(args []string) {
	// kubectl looks at the process's own arguments, too (for plugins).
	os.Args = append([]string{"kubectl"}, args...)
	command := newCommand(os.Args, configFlags(), genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	if err := cli.RunNoErrOutput(command); err != nil {
		util.CheckErr(err)
	}
}

// newCommand is kubectl with its arguments, the first of which is its name.
func newCommand(args []string, flags *genericclioptions.ConfigFlags, streams genericiooptions.IOStreams) *cobra.Command {
	return cmd.NewDefaultKubectlCommandWithArgs(cmd.KubectlOptions{
		PluginHandler: cmd.NewDefaultPluginHandler(plugin.ValidPluginFilenamePrefixes),
		Arguments:     args,
		ConfigFlags:   flags,
		IOStreams:     streams,
	})
}

// configFlags are kubectl's own.
func configFlags() *genericclioptions.ConfigFlags {
	return genericclioptions.NewConfigFlags(true).WithDeprecatedPasswordFlag().WithDiscoveryBurst(300).WithDiscoveryQPS(50.0)
}
