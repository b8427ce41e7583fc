// Command cri serves the Kubernetes Container Runtime Interface on top of
// containerd.
package main

import (
	"os"

	"tinykube/cmd/cri/app"
)

func main() {
	if app.NewCommand().Execute() != nil {
		os.Exit(1)
	}
}
