// Command kube-controller-manager runs the controllers.
package main

import (
	"fmt"
	"os"

	"tinykube/cmd/kube-controller-manager/app"
)

func main() {
	if err := app.NewCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}
