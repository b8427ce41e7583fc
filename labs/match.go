package labs

import (
	"fmt"
	"regexp"
	"strings"
)

// values are the words that a lab has captured.
type values map[string]string

// fill puts captured words where a text names them.
func (v values) fill(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(name string) string {
		if value, ok := v[name[2:len(name)-2]]; ok {
			return value
		}
		return name
	})
}

// match compares output with what was expected, and remembers what it
// captures. When they differ it says which expected line came first that is
// not there, or nil if there is only too much.
//
// The whole expectation becomes one regular expression over the whole output:
// "..." in several places is then found by whoever invented backtracking, or
// better, did without.
func (v values) match(expected []Line, got string) (ok bool, missing *Line) {
	got = squeeze(got)
	if captured, ok := v.try(expected, got, ""); ok {
		for name, value := range captured {
			v[name] = value
		}
		return true, nil
	}
	// The longest beginning that is there shows where they part.
	for n := len(expected) - 1; n >= 0; n-- {
		if _, ok := v.try(expected[:n], got, `(?:.*\n)*`); ok {
			if _, ok := v.try(expected[:n+1], got, `(?:.*\n)*`); !ok {
				return false, &expected[n]
			}
			return false, nil
		}
	}
	return false, nil
}

// try matches exactly, but for what rest allows at the end.
func (v values) try(expected []Line, got, rest string) (values, bool) {
	var pattern strings.Builder
	var names []string // of the groups, in order
	pattern.WriteString(`^`)
	for _, line := range expected {
		if strings.TrimSpace(line.Text) == "..." {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		text := strings.TrimSuffix(squeeze(v.fill(line.Text)), "\n")
		for {
			at := placeholder.FindStringSubmatchIndex(text)
			if at == nil {
				break
			}
			pattern.WriteString(literal(text[:at[0]]) + `(\S+?)`)
			names = append(names, text[at[2]:at[3]])
			text = text[at[1]:]
		}
		pattern.WriteString(literal(text) + `\n`)
	}
	pattern.WriteString(rest + `$`)
	groups := regexp.MustCompile(pattern.String()).FindStringSubmatch(got)
	if groups == nil {
		return nil, false
	}
	captured := values{}
	for i, name := range names {
		if before, ok := captured[name]; ok && before != groups[i+1] {
			return nil, false // the same name twice must be the same word
		}
		captured[name] = groups[i+1]
	}
	return captured, true
}

// literal is a pattern for a text in which "..." is any text.
func literal(text string) string {
	return strings.ReplaceAll(regexp.QuoteMeta(text), regexp.QuoteMeta("..."), `.*?`)
}

// squeeze makes blanks count as one, and forgets those at the ends of lines
// and empty lines at both ends: columns move with their longest word.
func squeeze(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.Join(strings.Fields(line), " "); line != "" || len(lines) > 0 {
			lines = append(lines, line)
		}
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}

// Mismatch is a block that did not hold, told so that one look is enough.
type Mismatch struct {
	Place    string // README.md:12
	Command  string
	Expected []Line
	Got      string
	Reason   string
}

func (m *Mismatch) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n", m.Place, m.Reason)
	if m.Command != "" {
		fmt.Fprintf(&b, "  command\n%s\n", indent("$ "+m.Command))
	}
	var expected []string
	for _, line := range m.Expected {
		expected = append(expected, line.Text)
	}
	fmt.Fprintf(&b, "  expected\n%s\n  got\n%s", indent(strings.Join(expected, "\n")), indent(m.Got))
	return b.String()
}

func indent(text string) string {
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return "    (nothing)\n"
	}
	return "    " + strings.ReplaceAll(text, "\n", "\n    ") + "\n"
}
