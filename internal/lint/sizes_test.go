package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// longFile is where a file has to be split.
const longFile = 500

// longFiles may be longer, each for a reason: tables that would be harder to read in pieces.
var longFiles = map[string]string{}

// budgets are the non-test Go lines that each folder may have, so that a person can read a component in an evening.
var budgets = map[string]int{
	"api": 4500, "client": 1800, "apiserver": 8500, "scheduler": 3500, "controllers": 8000, "kubelet": 6000, "cri": 2500, "cni": 1500,
	"proxy": 2500, "flannel": 900, "csi": 2000, "bootstrap": 1500, "labs": 2000, "cmd": 1200, "internal": 1500,
}

// CheckSizes lists the files that are too long.
func CheckSizes(files []File) []string {
	var problems []string
	for _, file := range files {
		if _, excepted := longFiles[file.Path]; excepted || !file.IsGo() || generated(file) {
			continue
		}
		if lines := file.Lines(); lines > longFile {
			problems = append(problems, fmt.Sprintf("%s has %d lines, more than %d: split it by ideas", file.Path, lines, longFile))
		}
	}
	return problems
}

// generated tells files that no person wrote, by Go's own mark.
func generated(file File) bool {
	return strings.Contains(string(file.Content[:min(len(file.Content), 2048)]), "// Code generated ")
}

// Report is a table of the folders' sizes beside their budgets.
func Report(files []File) string {
	type size struct{ code, tests, files int }
	sizes := map[string]*size{}
	for folder := range budgets {
		sizes[folder] = &size{}
	}
	for _, file := range files {
		folder, _, nested := strings.Cut(file.Path, "/")
		if !file.IsGo() || !nested {
			continue
		}
		if sizes[folder] == nil {
			sizes[folder] = &size{}
		}
		sizes[folder].files++
		if file.IsTest() {
			sizes[folder].tests += file.Lines()
		} else {
			sizes[folder].code += file.Lines()
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%-14s %8s %8s %8s %6s\n", "folder", "lines", "budget", "tests", "files")
	total := size{}
	for _, folder := range slices.Sorted(maps.Keys(sizes)) {
		s := sizes[folder]
		fmt.Fprintf(&out, "%-14s %8d %8d %8d %6d\n", folder, s.code, budgets[folder], s.tests, s.files)
		total.code, total.tests, total.files = total.code+s.code, total.tests+s.tests, total.files+s.files
	}
	fmt.Fprintf(&out, "%-14s %8d %8s %8d %6d\n", "all", total.code, "", total.tests, total.files)
	return out.String()
}
