// Command tinykube is the all-in-one: every component under its own name, and
// the commands that bring a whole cluster up on one machine.
//
// It looks at the name it was started by: under the name of a component
// (as in the image that is made of it) it is that component, and under that of a
// CNI plugin that plugin.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	cri "tinykube/cmd/cri/app"
	csihostpath "tinykube/cmd/csi-hostpath/app"
	csisidecars "tinykube/cmd/csi-sidecars/app"
	etcd "tinykube/cmd/etcd/app"
	etcdctl "tinykube/cmd/etcdctl/app"
	flanneld "tinykube/cmd/flanneld/app"
	apiserver "tinykube/cmd/kube-apiserver/app"
	controllers "tinykube/cmd/kube-controller-manager/app"
	proxy "tinykube/cmd/kube-proxy/app"
	scheduler "tinykube/cmd/kube-scheduler/app"
	kubectl "tinykube/cmd/kubectl/app"
	kubelet "tinykube/cmd/kubelet/app"

	"tinykube/api/version"
	"tinykube/cni"
)

// components are the programs that are useful alone.
var components = map[string]func() *cobra.Command{
	"cri":                       cri.NewCommand,
	"csi-attacher":              csisidecars.NewPart("attacher"),
	"csi-hostpath":              csihostpath.NewCommand,
	"csi-node-driver-registrar": csisidecars.NewRegistrar,
	"csi-provisioner":           csisidecars.NewPart("provisioner"),
	"csi-resizer":               csisidecars.NewPart("resizer"),
	"csi-sidecars":              csisidecars.NewCommand,
	"csi-snapshotter":           csisidecars.NewPart("snapshotter"),
	"etcd":                      etcd.NewCommand,
	"etcdctl":                   etcdctl.NewCommand,
	"flanneld":                  flanneld.NewCommand,
	"kube-apiserver":            apiserver.NewCommand,
	"kube-controller-manager":   controllers.NewCommand,
	"kube-proxy":                proxy.NewCommand,
	"kube-scheduler":            scheduler.NewCommand,
	"kubelet":                   kubelet.NewCommand,
	"livenessprobe":             csisidecars.NewLivenessProbe,
}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if slices.Contains(cni.Names(), name) { // nodes have a smaller program for that, in the payload
		os.Exit(cni.Main(name))
	}
	if name == "kubectl" {
		kubectl.Main(args)
		return
	}
	if component, ok := components[name]; ok {
		run(component(), args)
		return
	}
	if len(args) > 0 && args[0] == "kubectl" { // kubectl parses its own flags
		runKubectl(args[1:])
		return
	}
	run(newRoot(), args)
}

func run(command *cobra.Command, args []string) {
	command.SetArgs(args)
	command.SilenceErrors, command.SilenceUsage = true, true
	if err := command.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:     "tinykube",
		Short:   "A Kubernetes small enough to read, real enough to run",
		Version: version.Git,
	}
	root.AddGroup(&cobra.Group{ID: "cluster", Title: "A cluster on this machine:"},
		&cobra.Group{ID: "component", Title: "Every component, as its own program:"})
	for _, command := range []*cobra.Command{newUp(), newDown(), newStatus(), newNode(), newLogs(), newDoctor(), newTraces(), newVersion(), newRelay(), newHollow(), newExplain(),
		{Use: "kubectl", Short: "The real kubectl, talking to the cluster", Run: func(*cobra.Command, []string) {}}} {
		command.GroupID = "cluster"
		root.AddCommand(command)
	}
	root.AddGroup(&cobra.Group{ID: "course", Title: "The course (docs/README.md):"})
	lab := newLab()
	lab.GroupID = "course"
	root.AddCommand(lab)
	for _, name := range componentNames() {
		command := components[name]()
		command.GroupID = "component"
		root.AddCommand(command)
	}
	for _, command := range root.Commands() {
		if !command.Runnable() {
			command.RunE = help
		}
	}
	return root
}

// help is what a command does that only has others under it; a name that is none
// of theirs is an error, where cobra alone would print the same and end with 0.
func help(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown command %q for %q\nRun '%s --help' for those that there are", args[0], cmd.CommandPath(), cmd.CommandPath())
	}
	return cmd.Help()
}

func componentNames() []string {
	var names []string
	for name := range components {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
