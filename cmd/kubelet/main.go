// Command kubelet runs the pods of one node.
package main

import (
	"os"

	"tinykube/cmd/kubelet/app"
)

func main() {
	if app.NewCommand().Execute() != nil {
		os.Exit(1)
	}
}
