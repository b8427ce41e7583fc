// Command kube-proxy makes Services work on this node.
package main

import (
	"os"

	"tinykube/cmd/kube-proxy/app"
)

func main() {
	if err := app.NewCommand().Execute(); err != nil {
		os.Exit(1)
	}
}
