package app

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

// The command line of upstream's manifest, and those of nobody's.
func TestCommandLine(t *testing.T) {
	dir := t.TempDir()
	for args, want := range map[string]string{
		"--drivername=hostpath.csi.k8s.io --v=5 --endpoint=unix:///x --statedir /x": "no node id provided",
		"-nodeid=a -drivername= -v=5 -capacity slow=10Gi -capacity fast=1Gi":        "no driver name provided",
		"--nodeid a --capacity slow":                          "must be of format <type>=<size>",
		"--nodeid a --capacity slow=x":                        "quantities must match",
		"--nodeid a --attach-limit -1":                        "a limit is negative",
		"--nodeid a --no-such-flag":                           "unknown flag",
		"--nodeid a --enable-snapshot-metadata":               "changed blocks are not tracked",
		"--nodeid a extra":                                    "unexpected argument",
		"--nodeid a --endpoint " + dir + " --statedir " + dir: "is not a socket",
		"call Nothing":                                        "CSI has no method",
	} {
		cmd := NewCommand()
		cmd.SetArgs(strings.Fields(args))
		cmd.SilenceErrors = true
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	for args, want := range map[string]string{"--version": "csi-hostpath v1.", "--help": "--enable-attach", "call": "  NodePublishVolume ",
		"call -d " + filepath.Join(dir, "no.sock") + " --help": "CSI_ENDPOINT"} {
		var out bytes.Buffer
		cmd := NewCommand()
		cmd.SetArgs(strings.Fields(args))
		cmd.SetOut(&out)
		if err := cmd.Execute(); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v\n%s", args, err, out.String())
		}
	}
}
