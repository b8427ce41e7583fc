// Command stat prints what the kernel knows about files: type, size, mode, owner, links, inode and times.
//
//	stat [-c FORMAT] FILE...
//
// FORMAT may use %a (mode in octal), %A (mode as ls prints it), %s (size), %u and %g (owner), %i (inode), %h (links),
// %Y (time of the last change, in seconds) and %n (name).
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"syscall"
)

const longFormat = "  File: %n\n  Size: %s\tInode: %i\tLinks: %h\nAccess: (%a/%A)\tUid: %u\tGid: %g\nModify: %Y"

func main() {
	format := flag.String("c", longFormat, "what to print for each file")
	flag.Parse()
	status := 0
	for _, name := range flag.Args() {
		info, err := os.Lstat(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, "stat:", err)
			status = 1
			continue
		}
		fmt.Println(describe(*format, name, info))
	}
	os.Exit(status)
}

func describe(format, name string, info os.FileInfo) string {
	raw := info.Sys().(*syscall.Stat_t)
	return strings.NewReplacer(
		"%a", fmt.Sprintf("%o", raw.Mode&0o7777), "%A", info.Mode().String(), "%s", fmt.Sprint(raw.Size),
		"%u", fmt.Sprint(raw.Uid), "%g", fmt.Sprint(raw.Gid), "%i", fmt.Sprint(raw.Ino), "%h", fmt.Sprint(raw.Nlink),
		"%Y", fmt.Sprint(info.ModTime().Unix()), "%n", name, "%%", "%",
	).Replace(format)
}
