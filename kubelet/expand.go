package kubelet

import "strings"

// expand replaces $(NAME) by its value. "$$" stands for "$", so "$$(NAME)"
// stays literally "$(NAME)"; a name without a value, and a "$(" without ")",
// stay as they are: a shell in the container may want them.
//
// Upstream: kubernetes@v1.36 third_party/forked/golang/expansion.
func expand(input string, lookup func(name string) (string, bool)) string {
	var out strings.Builder
	for {
		dollar := strings.IndexByte(input, '$')
		if dollar < 0 || dollar+1 == len(input) {
			out.WriteString(input)
			return out.String()
		}
		out.WriteString(input[:dollar])
		next := input[dollar+1]
		input = input[dollar:]
		switch {
		case next == '$':
			out.WriteByte('$')
			input = input[2:]
		case next == '(' && strings.IndexByte(input, ')') > 0:
			end := strings.IndexByte(input, ')')
			name := input[2:end]
			if value, found := lookup(name); found {
				out.WriteString(value)
			} else {
				out.WriteString(input[:end+1])
			}
			input = input[end+1:]
		default:
			out.WriteString(input[:2])
			input = input[2:]
		}
	}
}

func expandAll(inputs []string, env map[string]string) []string {
	var out []string
	for _, s := range inputs {
		out = append(out, expand(s, func(name string) (string, bool) { v, found := env[name]; return v, found }))
	}
	return out
}
