package main

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mvdan.cc/sh/v3/syntax"
)

// TestMain lets the test binary be the shell when a test starts it as one.
func TestMain(m *testing.M) {
	if os.Getenv("BE_SH") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// shellOutput runs the shell on arguments and gives its output and status.
func shellOutput(t *testing.T, input string, arguments ...string) (string, int) {
	t.Helper()
	command := exec.Command("/proc/self/exe", arguments...)
	command.Env = append(os.Environ(), "BE_SH=1")
	command.Stdin = strings.NewReader(input)
	output, err := command.CombinedOutput()
	if err != nil && command.ProcessState == nil {
		t.Fatal(err)
	}
	return string(output), command.ProcessState.ExitCode()
}

func TestCommandLines(t *testing.T) {
	for _, test := range []struct {
		arguments []string
		input     string
		output    string
		status    int
	}{
		{arguments: []string{"-c", "echo $0 $1 $#", "name", "first"}, output: "name first 1\n"},
		{arguments: []string{"-ec", "false; echo unreachable"}, status: 1},
		{arguments: []string{"-c", "false; echo reached"}, output: "reached\n"},
		{arguments: []string{"-uc", "echo ${missing}x"}, output: "missing: unbound variable\n", status: 1},
		{arguments: []string{"-o", "pipefail", "-c", "false | true"}, status: 1},
		{arguments: []string{"-c"}, output: "sh: -c: command expected\n", status: 2},
		{arguments: []string{"-c", "exit 7"}, status: 7},
		{arguments: []string{"-c", "no-such-command"}, output: "\"no-such-command\": executable file not found in $PATH\n", status: 127},
		{arguments: []string{"/no/such/script"}, output: "sh: open /no/such/script: no such file or directory\n", status: 2},
		{input: "echo one\necho two; exit 3\necho three\n", output: "one\ntwo\n", status: 3},
		{arguments: []string{"-c", "x=$(echo hi); test $x = hi && [ -d / ] && printf '%s\\n' yes"}, output: "yes\n"},
		{arguments: []string{"-c", "read line; echo got $line"}, input: "this\n", output: "got this\n"},
		{arguments: []string{"-c", "for i in 1 2; do echo $i; done | cat"}, output: "1\n2\n"},
		{arguments: []string{"-c", "exec >/dev/null; echo hidden; exec echo hidden"}},
	} {
		output, status := shellOutput(t, test.input, test.arguments...)
		if output != test.output || status != test.status {
			t.Errorf("sh %q printed %q and left with %d, want %q and %d", test.arguments, output, status, test.output, test.status)
		}
	}
}

// The shell makes way for `exec` and for a single command: the process that runs is the one that was started.
func TestMakesWay(t *testing.T) {
	for program, replaced := range map[string]bool{
		"cat /proc/self/stat":                        true,
		"true; exec cat /proc/self/stat":             true,
		"cat /proc/self/stat; true":                  false,
		"(exec cat /proc/self/stat)":                 false,
		"echo $(exec cat /proc/self/stat)":           false,
		"exec cat /proc/self/stat | cat":             false,
		"if true; then exec cat /proc/self/stat; fi": true,
	} {
		command := exec.Command("/proc/self/exe", "-c", program)
		command.Env = append(os.Environ(), "BE_SH=1")
		output, err := command.Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		pid, _, _ := strings.Cut(string(output), " ")
		if same := pid == strconv.Itoa(command.Process.Pid); same != replaced {
			t.Errorf("%s ran as process %s, the shell was %d; replaced %v, want %v", program, pid, command.Process.Pid, same, replaced)
		}
	}
}

func TestReplaceable(t *testing.T) {
	for program, want := range map[string][]uint{
		"server --flag":           {0},
		"! server":                nil,
		"server &":                nil,
		"a; b":                    nil,
		"a && exec b":             {5},
		"a | exec b":              nil,
		"f() { exec a; }; f":      nil,
		"trap 'x' EXIT; exec a b": {15},
	} {
		parsed, err := syntax.NewParser().Parse(strings.NewReader(program), "")
		if err != nil {
			t.Fatal(err)
		}
		var got []uint
		for offset := range replaceable(parsed) {
			got = append(got, offset)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", program, got, want)
		}
	}
}
