// Command csi-hostpath is a CSI driver whose volumes are directories and files
// of this node.
package main

import (
	"os"

	"tinykube/cmd/csi-hostpath/app"
)

func main() {
	if app.NewCommand().Execute() != nil {
		os.Exit(1)
	}
}
