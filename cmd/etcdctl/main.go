// Command etcdctl is described in package app.
package main

import (
	"fmt"
	"os"

	"tinykube/cmd/etcdctl/app"
)

func main() {
	if err := app.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
