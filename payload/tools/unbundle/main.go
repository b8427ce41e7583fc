// Command unbundle runs a command of the tools image with its options spelt one by one: u-root's commands read -r -n but
// not -rn, and -c 1 but not -c1.
//
//	unbundle VALUED IGNORED NAME [ARGUMENT]...
//
// VALUED are the letters of options that take a value, IGNORED those of options that change nothing that matters.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: unbundle VALUED IGNORED NAME [ARGUMENT]...")
		os.Exit(2)
	}
	arguments := append([]string{"tools", os.Args[3]}, unbundle(os.Args[1], os.Args[2], os.Args[4:])...)
	err := syscall.Exec("/bin/tools", arguments, os.Environ())
	fmt.Fprintln(os.Stderr, "unbundle:", err)
	os.Exit(126)
}

// unbundle rewrites the options before the first operand.
func unbundle(valued, ignored string, arguments []string) []string {
	var out []string
	for len(arguments) > 0 {
		word := arguments[0]
		if len(word) < 2 || word[0] != '-' || strings.HasPrefix(word, "--") {
			break
		}
		arguments = arguments[1:]
		for letters := word[1:]; letters != ""; {
			option, rest := letters[:1], letters[1:]
			letters = rest
			switch {
			case strings.Contains(ignored, option):
			case strings.Contains(valued, option):
				if rest == "" && len(arguments) > 0 {
					rest, arguments = arguments[0], arguments[1:]
				}
				out = append(out, "-"+option, rest)
				letters = ""
			default:
				out = append(out, "-"+option)
			}
		}
	}
	return append(out, arguments...)
}
