package cni

// flannel is a plugin without a network of its own: it reads what flanneld on
// this node has written about its subnet, makes a bridge configuration of it,
// and lets bridge do the work.
//
//	/run/flannel/subnet.env        FLANNEL_SUBNET=10.244.1.1/24 …
//	/var/lib/cni/flannel/<id>      the configuration that ADD used, for DEL
//
// The second is there because DEL must undo what ADD did even if flanneld has
// moved the node to another subnet in between.
//
// Upstream: flannel-io/cni-plugin; same files, same delegate.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

const (
	defaultSubnetFile      = "/run/flannel/subnet.env"
	defaultFlannelStateDir = "/var/lib/cni/flannel"
)

type flannelConfig struct {
	types.PluginConf
	SubnetFile    string         `json:"subnetFile"`
	DataDir       string         `json:"dataDir"`
	Delegate      map[string]any `json:"delegate"`
	RuntimeConfig map[string]any `json:"runtimeConfig,omitempty"`
}

// decodeFlannel only decodes, for DEL.
func decodeFlannel(args *skel.CmdArgs) (*flannelConfig, error) {
	c := &flannelConfig{SubnetFile: defaultSubnetFile, DataDir: defaultFlannelStateDir}
	return c, decode(args.StdinData, c)
}

func parseFlannel(args *skel.CmdArgs) (*flannelConfig, error) {
	c, err := decodeFlannel(args)
	if err != nil {
		return nil, err
	}
	for _, field := range []string{"name", "ipam"} {
		if _, taken := c.Delegate[field]; taken {
			return nil, invalid("delegate.%s: flannel sets this itself", field)
		}
	}
	if _, ok := c.Delegate["type"].(string); !ok && c.Delegate["type"] != nil {
		return nil, invalid("delegate.type: not a string")
	}
	return c, nil
}

// subnetEnv is flanneld's file.
type subnetEnv struct {
	Network netip.Prefix // of the cluster
	Subnet  netip.Prefix // of this node; its address is the first usable one
	MTU     int
	IPMasq  bool // flanneld masquerades, so bridge must not
}

// parseSubnetEnv reads KEY=value lines; others are left alone.
func parseSubnetEnv(text string) (env subnetEnv, err error) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "FLANNEL_NETWORK":
			env.Network, err = netip.ParsePrefix(value)
		case "FLANNEL_SUBNET":
			env.Subnet, err = netip.ParsePrefix(value)
		case "FLANNEL_MTU":
			env.MTU, err = strconv.Atoi(value)
		case "FLANNEL_IPMASQ":
			env.IPMasq, err = strconv.ParseBool(value)
		}
		if err != nil {
			return env, fmt.Errorf("%s: %w", key, err)
		}
	}
	if !env.Network.IsValid() || !env.Subnet.IsValid() || env.MTU == 0 {
		return env, errors.New("FLANNEL_NETWORK, FLANNEL_SUBNET and FLANNEL_MTU are not all there")
	}
	return env, nil
}

// delegate is a configuration for the plugin that does the work.
type delegate map[string]any

// delegate makes it of what flanneld says.
//
// ipMasq is the negation of flanneld's: exactly one of the two masquerades.
func (c *flannelConfig) delegate(env subnetEnv) delegate {
	d := delegate(maps.Clone(c.Delegate))
	if d == nil {
		d = delegate{}
	}
	d.setDefault("type", "bridge")
	d.setDefault("ipMasq", !env.IPMasq)
	d.setDefault("mtu", env.MTU)
	if d["type"] == "bridge" {
		d.setDefault("isGateway", true)
	}
	d["name"] = c.Name
	if c.CNIVersion != "" {
		d["cniVersion"] = c.CNIVersion
	}
	if c.RuntimeConfig != nil {
		d["runtimeConfig"] = c.RuntimeConfig
	}
	d["ipam"] = map[string]any{
		"type":   "host-local",
		"ranges": [][]map[string]string{{{"subnet": env.Subnet.Masked().String()}}},
		"routes": []map[string]string{{"dst": env.Network.Masked().String()}},
	}
	return d
}

func (d delegate) setDefault(key string, value any) {
	if _, ok := d[key]; !ok {
		d[key] = value
	}
}

// call hands one verb on.
func (d delegate) call(verb func(context.Context, string, []byte, invoke.Exec) error) error {
	plugin, _ := d["type"].(string)
	return verb(background(), plugin, d.json(), nil)
}

func (d delegate) json() []byte {
	data, err := json.Marshal(d)
	if err != nil {
		panic(err) // it came out of JSON
	}
	return data
}

// fresh is the delegate as flanneld wants it now.
func (c *flannelConfig) fresh() (delegate, error) {
	text, err := os.ReadFile(c.SubnetFile)
	var env subnetEnv
	if err == nil {
		if env, err = parseSubnetEnv(string(text)); err != nil {
			err = fmt.Errorf("%s: %w", c.SubnetFile, err)
		}
	}
	if err != nil {
		// Upstream's words: people search for them.
		return nil, types.NewError(types.ErrTryAgainLater, "loadFlannelSubnetEnv failed: "+err.Error(), "flanneld writes this file when it knows the node's subnet; is it running?")
	}
	return c.delegate(env), nil
}

// saved is the delegate that a container's ADD used; nil if there was none.
func (c *flannelConfig) saved(containerID string) (d delegate, err error) {
	data, err := os.ReadFile(filepath.Join(c.DataDir, containerID))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &d)
	}
	return d, err
}

func (c *flannelConfig) save(containerID string, d delegate) error {
	path := filepath.Join(c.DataDir, containerID)
	err := os.MkdirAll(c.DataDir, 0o700)
	if err == nil {
		err = os.WriteFile(path+".new", d.json(), 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("save the delegate's configuration: %w", err)
	}
	return nil
}

func flannelAdd(args *skel.CmdArgs) error {
	c, err := parseFlannel(args)
	if err != nil {
		return err
	}
	d, err := c.fresh()
	if err != nil {
		return err
	}
	// Before the deed, so that DEL knows about it whenever we die.
	if err := c.save(args.ContainerID, d); err != nil {
		return err
	}
	return d.call(func(ctx context.Context, plugin string, conf []byte, exec invoke.Exec) error {
		result, err := invoke.DelegateAdd(ctx, plugin, conf, exec)
		if err != nil {
			return err
		}
		return types.PrintResult(result, c.CNIVersion)
	})
}

// flannelDel: no saved state means there was no ADD, or a DEL that succeeded.
func flannelDel(args *skel.CmdArgs) error {
	c, err := decodeFlannel(args)
	if err != nil {
		return err
	}
	d, err := c.saved(args.ContainerID)
	if d == nil || err != nil {
		return err
	}
	if err := d.call(invoke.DelegateDel); err != nil {
		return err
	}
	err = os.Remove(filepath.Join(c.DataDir, args.ContainerID))
	if errors.Is(err, os.ErrNotExist) {
		return nil // another DEL was faster
	}
	return err
}

// flannelCheck lets the delegate compare the kernel with this chain's result.
func flannelCheck(args *skel.CmdArgs) error {
	c, err := parseFlannel(args)
	if err != nil {
		return err
	}
	d, err := c.saved(args.ContainerID)
	if err == nil && d == nil {
		err = types.NewError(types.ErrUnknownContainer, "no ADD is known of container "+args.ContainerID, "")
	}
	if err != nil {
		return err
	}
	d["prevResult"] = c.RawPrevResult
	return d.call(invoke.DelegateCheck)
}

func flannelStatus(args *skel.CmdArgs) error {
	c, err := parseFlannel(args)
	if err != nil {
		return err
	}
	d, err := c.fresh()
	if err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
	}
	return d.call(invoke.DelegateStatus)
}

// flannelGC lets the delegate collect, then forgets configurations of containers
// that are no more.
func flannelGC(args *skel.CmdArgs) error {
	c, err := parseFlannel(args)
	if err != nil {
		return err
	}
	d, err := c.fresh()
	if err != nil {
		return err
	}
	d["cni.dev/valid-attachments"] = c.ValidAttachments
	if err := d.call(invoke.DelegateGC); err != nil {
		return err
	}
	valid := map[string]bool{}
	for _, a := range c.ValidAttachments {
		valid[a.ContainerID] = true
	}
	entries, err := os.ReadDir(c.DataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		saved, err := c.saved(entry.Name())
		if err == nil && saved["name"] != c.Name {
			continue // another network's, in the same directory
		}
		if !valid[entry.Name()] {
			if err := os.Remove(filepath.Join(c.DataDir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
