// Command sh is the shell of our tools image: a POSIX shell, a good part of Bash, and a line editor when it speaks to
// a terminal. mvdan.cc/sh interprets; this file reads the command line, and terminal.go is the interactive part.
//
//	sh [-eufnx] [-o option] [FILE [ARGUMENT]...]
//	sh [-eufnx] [-o option] -c COMMAND [NAME [ARGUMENT]...]
//
// Simplified: no job control (no fg, bg or Ctrl-Z), and traps only for EXIT and ERR.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// invocation is a command line, understood.
type invocation struct {
	command    string // of -c
	hasCommand bool
	forced     bool     // -i: prompt although there is no terminal
	params     []string // what `set` would be told: options, --, positional parameters
	name       string   // $0
	file       string   // script to read; empty is standard input
}

func main() {
	call, err := parseArguments(os.Args)
	if err == nil {
		err = run(call)
	}
	var status interp.ExitStatus
	switch {
	case errors.As(err, &status):
		os.Exit(int(status))
	case err != nil:
		fmt.Fprintln(os.Stderr, "sh:", err)
		os.Exit(2)
	}
}

// parseArguments reads options as a shell does: bundled (-ec), and only before the first operand.
func parseArguments(args []string) (invocation, error) {
	call := invocation{name: strings.TrimPrefix(args[0], "-")}
	var options []string
	rest := args[1:]
	for len(rest) > 0 && len(rest[0]) > 1 && strings.ContainsRune("-+", rune(rest[0][0])) {
		word := rest[0]
		rest = rest[1:]
		if word == "--" {
			break
		}
		for _, letter := range word[1:] {
			switch letter {
			case 'c':
				call.hasCommand = true
			case 'i':
				call.forced = true
			case 'l', 's', 'm': // a login shell, standard input, job control: nothing to do for them
			case 'o':
				if len(rest) == 0 {
					return call, errors.New("-o: option expected")
				}
				options = append(options, word[:1]+"o", rest[0])
				rest = rest[1:]
			default:
				options = append(options, word[:1]+string(letter))
			}
		}
	}
	if call.hasCommand {
		if len(rest) == 0 {
			return call, errors.New("-c: command expected")
		}
		call.command, rest = rest[0], rest[1:]
	}
	if len(rest) > 0 {
		call.name, rest = rest[0], rest[1:]
		if !call.hasCommand {
			call.file = call.name
		}
	}
	call.params = append(append(options, "--"), rest...)
	return call, nil
}

func run(call invocation) error {
	shell := &shell{}
	runner, err := interp.New(interp.StdIO(os.Stdin, os.Stdout, os.Stderr), interp.Params(call.params...),
		interp.ExecHandlers(shell.replaceSelf), interp.CallHandler(preferCommands))
	if err != nil {
		return err
	}
	shell.runner = runner
	switch {
	case call.hasCommand:
		return shell.runProgram(strings.NewReader(call.command), call.name)
	case call.file != "":
		script, err := os.Open(call.file)
		if err != nil {
			return err
		}
		defer script.Close()
		return shell.runProgram(script, call.name)
	case call.forced || term.IsTerminal(int(os.Stdin.Fd())):
		return shell.interact()
	}
	return shell.runStream(os.Stdin)
}

// shell is one interpreter and what it knows about the program it runs.
type shell struct {
	runner   *interp.Runner
	replaced map[uint]bool // offsets of the commands that may take this process's place
}

// runProgram parses all of source, then runs it.
func (s *shell) runProgram(source io.Reader, name string) error {
	program, err := syntax.NewParser().Parse(source, name)
	if err != nil {
		return err
	}
	s.replaced = replaceable(program)
	return s.runner.Run(context.Background(), program)
}

// runStream runs statements as they come, so that a program fed through a pipe can act before its end is written.
func (s *shell) runStream(source io.Reader) error {
	var last error
	for statement, err := range syntax.NewParser().StmtsSeq(source) {
		if err != nil {
			return err
		}
		last = s.runner.Run(context.Background(), statement)
		if s.runner.Exited() {
			break
		}
	}
	return last
}
