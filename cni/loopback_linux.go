package cni

import (
	"net"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
)

// loopback sets lo up: in a new network namespace it is there, but down. The
// kernel adds 127.0.0.1 and ::1 by itself.

func loopbackAdd(args *skel.CmdArgs) error {
	var config types.PluginConf
	if err := decode(args.StdinData, &config); err != nil {
		return err
	}
	result, err := previousResult(&config)
	if err != nil {
		return err
	}
	pod, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer pod.close()
	lo, err := pod.LinkByName("lo")
	if err == nil {
		err = pod.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	if result == nil {
		result = &current.Result{
			CNIVersion: current.ImplementedSpecVersion,
			Interfaces: []*current.Interface{{Name: "lo", Mac: "00:00:00:00:00:00", Sandbox: args.Netns}},
			IPs: []*current.IPConfig{{
				Interface: current.Int(0),
				Address:   net.IPNet{IP: net.IPv4(127, 0, 0, 1), Mask: net.CIDRMask(8, 32)},
			}},
		}
	}
	return types.PrintResult(result, config.CNIVersion)
}

// loopbackDel sets lo down again, if there still is one.
func loopbackDel(args *skel.CmdArgs) error {
	pod, err := openNetns(args.Netns)
	if err != nil {
		return nil
	}
	defer pod.close()
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return err
	}
	return pod.LinkSetDown(lo)
}

func loopbackCheck(args *skel.CmdArgs) error {
	pod, err := openNetns(args.Netns)
	if err != nil {
		return err
	}
	defer pod.close()
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return err
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return types.NewError(types.ErrUnknownContainer, "lo is down", "")
	}
	return nil
}
