// Command kubectl is the real kubectl, built from its module.
package main

import (
	"os"

	"tinykube/cmd/kubectl/app"
)

func main() { app.Main(os.Args[1:]) }
