// Command rmdir removes empty directories.
package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	status := 0
	for _, directory := range os.Args[1:] {
		if err := syscall.Rmdir(directory); err != nil {
			fmt.Fprintf(os.Stderr, "rmdir: %s: %v\n", directory, err)
			status = 1
		}
	}
	os.Exit(status)
}
