package iptables

import "strings"

// Table is what iptables-save says about one table: chain → its rules, each as
// the text after "-A chain ".
type Table map[string][]string

// Parse reads iptables-save's text; tables by name.
func Parse(save string) map[string]Table {
	tables := map[string]Table{}
	var table Table
	for line := range strings.Lines(save) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "*"):
			table = Table{}
			tables[line[1:]] = table
		case table == nil:
		case strings.HasPrefix(line, ":"):
			name, _, _ := strings.Cut(line[1:], " ")
			if _, known := table[name]; !known {
				table[name] = nil
			}
		case strings.HasPrefix(line, "-A "):
			chain, rule, _ := strings.Cut(line[3:], " ")
			table[chain] = append(table[chain], rule)
		case strings.HasPrefix(line, "-I "): // only in what we write
			chain, rule, _ := strings.Cut(line[3:], " ")
			table[chain] = append([]string{rule}, table[chain]...)
		}
	}
	return tables
}

// Jumps says whether a rule of the chain jumps to target.
func (t Table) Jumps(chain, target string) bool {
	for _, rule := range t[chain] {
		fields := strings.Fields(rule)
		if n := len(fields); n >= 2 && fields[n-1] == target && (fields[n-2] == "-j" || fields[n-2] == "-g") {
			return true
		}
	}
	return false
}
