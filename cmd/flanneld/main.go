// Command flanneld connects this node's pods to those of other nodes.
package main

import (
	"os"

	"tinykube/cmd/flanneld/app"
)

func main() {
	if err := app.NewCommand().Execute(); err != nil {
		os.Exit(1)
	}
}
