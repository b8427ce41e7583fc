package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/term"
	"mvdan.cc/sh/v3/syntax"
)

// Keys that the line editor would take for the end of input, and what the user means by them.
const (
	interruptKey = 0x03 // Ctrl-C: give the line up
	eraseKey     = 0x15 // Ctrl-U: erase the line
	enterKey     = '\r'
)

// interact reads statements at a prompt and runs them, until the user leaves.
//
// The terminal is raw only while a line is typed: commands find it as they expect it, with its own Ctrl-C.
func (s *shell) interact() error {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt) // and not Ignore, which commands would inherit
	editor := newLineEditor()
	parser := syntax.NewParser()
	for {
		finished, err := s.session(parser, editor, signals)
		if finished {
			return err
		}
		fmt.Fprintln(os.Stderr, "sh:", err) // a syntax error costs the line, not the session
	}
}

// session runs statements until the first one that does not parse.
func (s *shell) session(parser *syntax.Parser, editor *lineEditor, signals <-chan os.Signal) (finished bool, last error) {
	editor.prompt = s.prompt()
	for statements, err := range parser.InteractiveSeq(editor) {
		if err != nil {
			return errors.Is(err, io.EOF), err
		}
		if parser.Incomplete() {
			editor.prompt = "> "
			continue
		}
		for _, statement := range statements {
			var interrupted bool
			if last, interrupted = s.runInterruptibly(statement, signals); interrupted {
				break
			}
			if s.runner.Exited() {
				return true, last
			}
		}
		editor.prompt = s.prompt()
	}
	return true, last
}

// runInterruptibly runs one statement; Ctrl-C ends it, even if it is a loop of builtins that no signal would reach.
func (s *shell) runInterruptibly(statement *syntax.Stmt, signals <-chan os.Signal) (status error, interrupted bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	status = s.runner.Run(ctx, statement)
	return status, ctx.Err() != nil
}

// prompt shows where the shell is and, by its last character, who it is.
func (s *shell) prompt() string {
	if os.Geteuid() == 0 {
		return s.runner.Dir + " # "
	}
	return s.runner.Dir + " $ "
}

// lineEditor gives the parser the terminal's input line by line, with editing and history.
type lineEditor struct {
	prompt  string
	editor  *term.Terminal // nil when there is no terminal
	pending []byte         // read, not yet given out
}

func newLineEditor() *lineEditor {
	e := &lineEditor{}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		e.editor = term.NewTerminal(struct {
			io.Reader
			io.Writer
		}{&keyReader{from: os.Stdin}, os.Stdout}, "")
	}
	return e
}

// Read implements io.Reader.
func (e *lineEditor) Read(p []byte) (int, error) {
	if len(e.pending) == 0 {
		if e.editor == nil {
			fmt.Fprint(os.Stdout, e.prompt)
			return os.Stdin.Read(p)
		}
		line, err := e.readLine()
		if err != nil {
			return 0, err
		}
		e.pending = []byte(line + "\n")
	}
	n := copy(p, e.pending)
	e.pending = e.pending[n:]
	return n, nil
}

func (e *lineEditor) readLine() (line string, err error) {
	input := int(os.Stdin.Fd())
	before, err := term.MakeRaw(input)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, term.Restore(input, before)) }()
	if width, height, err := term.GetSize(input); err == nil && width > 0 {
		_ = e.editor.SetSize(width, height) // a wrong size makes long lines ugly, nothing else
	}
	e.editor.SetPrompt(e.prompt)
	return e.editor.ReadLine()
}

// keyReader passes keys on, but turns Ctrl-C into "erase the line, then enter": an empty line and a new prompt.
type keyReader struct {
	from    io.Reader
	pending []byte
}

// Read implements io.Reader.
func (r *keyReader) Read(p []byte) (int, error) {
	if len(r.pending) == 0 {
		keys := make([]byte, 256)
		n, err := r.from.Read(keys)
		for _, key := range keys[:n] {
			if key == interruptKey {
				r.pending = append(r.pending, eraseKey, enterKey)
			} else {
				r.pending = append(r.pending, key)
			}
		}
		if err != nil {
			return 0, err
		}
	}
	n := copy(p, r.pending)
	r.pending = r.pending[n:]
	return n, nil
}
