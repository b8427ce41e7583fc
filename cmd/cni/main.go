// Command cni is the node's CNI plugins in one small static program: linked or
// copied as bridge, flannel, host-local, loopback and portmap into /opt/cni/bin,
// it is the plugin of the name it was started by.
package main

import (
	"os"
	"path/filepath"

	"tinykube/cni"
)

func main() { os.Exit(cni.Main(filepath.Base(os.Args[0]))) }
