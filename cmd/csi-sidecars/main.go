// Command csi-sidecars stands between the Kubernetes API and a CSI driver.
package main

import (
	"os"

	"tinykube/cmd/csi-sidecars/app"
)

func main() {
	if app.NewCommand().Execute() != nil {
		os.Exit(1)
	}
}
