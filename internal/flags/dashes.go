package flags

import "strings"

// TwoDashes turns -flag into --flag, for programs whose upstream parses flags
// as Go does; -v and -h stay.
func TwoDashes(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); len(name) > 2 && arg[0] == '-' && arg[1] != '-' {
			arg = "-" + arg
		}
		out[i] = arg
	}
	return out
}
