// Command cp is all that flannel's manifest asks of its images beside flannel:
// `cp -f FROM TO` in the one and `install-conf FROM TO` in the other. The copy
// appears by rename: whoever runs or reads the old file keeps it, and a link in
// its place is replaced, not followed.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	args := os.Args[1:]
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		args = args[1:]
	}
	if len(args) != 2 {
		fmt.Fprintf(os.Stderr, "usage: %s [-f] FROM TO\n", os.Args[0])
		os.Exit(2)
	}
	if err := install(args[0], args[1]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[0], err)
		os.Exit(1)
	}
}

func install(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	// The name must not look like a plugin's or a configuration's while it is incomplete.
	temporary := to + ".tmp"
	if err := os.WriteFile(temporary, content, info.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(temporary, to)
}
