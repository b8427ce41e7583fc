package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// plugins are the names we answer to. Verbs come from skel, which checks the
// environment and the version before it calls.
var plugins = map[string]skel.CNIFuncs{
	"bridge":     {Add: bridgeAdd, Del: bridgeDel, Check: bridgeCheck, Status: bridgeStatus, GC: bridgeGC},
	"flannel":    {Add: flannelAdd, Del: flannelDel, Check: flannelCheck, Status: flannelStatus, GC: flannelGC},
	"host-local": {Add: hostLocalAdd, Del: hostLocalDel, Check: hostLocalCheck, Status: hostLocalStatus, GC: hostLocalGC},
	"loopback":   {Add: loopbackAdd, Del: loopbackDel, Check: loopbackCheck, Status: noop, GC: noop},
	"portmap":    {Add: portmapAdd, Del: portmapDel, Check: portmapCheck, Status: portmapStatus, GC: portmapGC},
}

// Names lists the plugins in this program.
func Names() []string {
	names := make([]string, 0, len(plugins))
	for name := range plugins {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// versions are the specifications we speak.
//
// Simplified: 0.1.0 and 0.2.0 know no interfaces in results and nobody writes
// them any more.
var versions = version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

// Main runs the plugin of that name on our environment and standard input, and
// answers the process's exit code.
func Main(name string) int {
	plugin, ok := plugins[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "%q is no plugin of this program; its names are %s (link it under one)\n", name, strings.Join(Names(), ", "))
		return 1
	}
	if err := skel.PluginMainFuncsWithError(plugin, versions, "CNI plugin "+name+" (tinykube)"); err != nil {
		_ = err.Print() // Spec: CNI 1.1 §Error: JSON on standard output, exit code not 0
		return 1
	}
	return 0
}

func noop(*skel.CmdArgs) error { return nil }

// decode reads a plugin's own configuration.
func decode(stdin []byte, config any) error {
	if err := json.Unmarshal(stdin, config); err != nil {
		return types.NewError(types.ErrDecodingFailure, "network configuration: "+err.Error(), "")
	}
	return nil
}

// invalid is the error for a configuration that can be read but not meant.
func invalid(format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf(format, args...), "")
}

// previousResult is what the plugins before us in the chain have made, in
// today's shape; nil when there was none.
func previousResult(config *types.PluginConf) (*current.Result, error) {
	if config.RawPrevResult == nil {
		return nil, nil
	}
	if err := version.ParsePrevResult(config); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	result, err := current.NewResultFromResult(config.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult: "+err.Error(), "")
	}
	return result, nil
}

// background is the context of calls that a plugin's caller cannot cancel: it
// kills the process instead.
func background() context.Context { return context.Background() }
