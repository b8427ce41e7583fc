// Command kube-scheduler gives pods nodes.
package main

import (
	"fmt"
	"os"

	"tinykube/cmd/kube-scheduler/app"
)

func main() {
	if err := app.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
