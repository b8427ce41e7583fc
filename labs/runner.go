package labs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Runner executes labs, one after the other.
type Runner struct {
	Out  io.Writer
	In   io.Reader // where a reader presses Enter; nil never waits
	Keep bool      // leave the cluster, the namespace and the folder to look at

	Self     string   // the tinykube program
	Programs []string // the names under which it is something else
	Dir      string   // of the cluster that labs share

	brought []string // clusters that were not there before
	enter   *bufio.Scanner
}

// Result is how one lab went.
type Result struct {
	Lab      *Lab
	Commands int
	Took     time.Duration
	Err      error
}

// commandTimeout is for a command that should end, or print, at once. Busy
// machines are slow.
const commandTimeout = time.Minute

// ErrQuit is a reader who has had enough, ErrInterrupted one who could not wait.
// Neither says anything about the lab.
var (
	ErrQuit        = errors.New("stopped by the reader")
	ErrInterrupted = errors.New("interrupted")
)

// Run executes labs. Those that can share a cluster do, and it goes at the end
// if it was not there at the beginning.
func (r *Runner) Run(ctx context.Context, labs ...*Lab) (results []Result, err error) {
	if r.In != nil {
		r.enter = bufio.NewScanner(r.In)
	}
	defer func() {
		if r.Keep {
			return
		}
		for _, dir := range r.brought {
			err = errors.Join(err, r.down(context.WithoutCancel(ctx), dir))
		}
	}()
	for _, lab := range labs {
		result := r.one(ctx, lab)
		results = append(results, result)
		if errors.Is(result.Err, ErrQuit) || ctx.Err() != nil {
			return results, result.Err
		}
		verdict := fmt.Sprintf("lab %s passed: %d commands in %.1f s", lab.Number, result.Commands, result.Took.Seconds())
		if result.Err != nil {
			verdict = fmt.Sprintf("lab %s failed\n\n%v", lab.Number, result.Err)
		}
		fmt.Fprintf(r.Out, "%s\n\n", verdict)
	}
	return results, nil
}

// run is one lab being run.
type run struct {
	*Runner
	lab       *Lab
	scratch   string
	mark      string // in the environment of every process of the lab
	site      *site
	terminals map[string]*terminal
	values    values
	commands  int
}

func (r *Runner) one(ctx context.Context, lab *Lab) (result Result) {
	fmt.Fprintf(r.Out, "lab %s  %s\n", lab.Number, lab.Title)
	one := &run{Runner: r, lab: lab, terminals: map[string]*terminal{}, values: values{}}
	started := time.Now()
	defer func() { result.Lab, result.Commands, result.Took = lab, one.commands, time.Since(started) }()
	if err := one.enterSite(ctx); err != nil {
		return Result{Err: errors.Join(err, one.leaveSite(ctx))}
	}
	started = time.Now() // a cluster that had to be brought up is not the lab's time
	err := one.steps(ctx)
	return Result{Err: errors.Join(err, one.leaveSite(ctx))}
}

// enterSite makes the lab's folder and what it needs.
func (r *run) enterSite(ctx context.Context) (err error) {
	// Not under $TMPDIR, which may be long: sockets in it have short names.
	if r.scratch, err = os.MkdirTemp("/tmp", "lab-"+r.lab.Number+"-"); err != nil {
		return err
	}
	r.mark = "TINYKUBE_LAB=" + r.scratch
	programs := filepath.Join(r.scratch, "bin")
	if err := os.Mkdir(programs, 0o755); err != nil {
		return err
	}
	for _, name := range r.Programs {
		if err := os.Symlink(r.Self, filepath.Join(programs, name)); err != nil {
			return err
		}
	}
	r.site, err = places[r.lab.Needs](ctx, r)
	return err
}

// environment is what a terminal of the lab starts with.
func (r *run) environment() []string {
	var env []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if !slices.Contains([]string{"HOME", "PATH", "KUBECONFIG", "LANG", "LC_ALL", "TMPDIR", "BASH_ENV"}, name) && !strings.HasPrefix(name, "ETCDCTL_") {
			env = append(env, variable)
		}
	}
	env = append(env, r.mark, "HOME="+r.scratch, "TMPDIR="+r.scratch, "LC_ALL=C.UTF-8", "KUBECACHEDIR="+filepath.Join(r.scratch, "cache"),
		"PATH="+filepath.Join(r.scratch, "bin")+":"+os.Getenv("PATH"))
	return append(env, r.site.env...)
}

func (r *run) terminal(name string) (*terminal, error) {
	if t, ok := r.terminals[name]; ok {
		return t, nil
	}
	t, err := open(r.site.shell, r.environment(), r.scratch, name)
	if err == nil {
		r.terminals[name] = t
	}
	return t, err
}

// steps goes through the README. After a block that does not hold, only those
// follow that put back what the lab took apart.
func (r *run) steps(ctx context.Context) (err error) {
	for _, step := range r.lab.Steps {
		switch {
		case err != nil && step.Block != nil && step.Block.Always:
			r.enter = nil
			if r.block(context.WithoutCancel(ctx), step.Block) != nil { // perhaps it was never taken apart
				fmt.Fprintf(r.Out, "  · line %-4d          puts back what earlier blocks took apart, and did not hold either\n", step.Block.Line)
			}
		case err != nil:
		case step.Block != nil:
			err = r.block(ctx, step.Block)
		case r.enter != nil:
			fmt.Fprintf(r.Out, "\n%s\n", r.values.fill(step.Prose))
		}
	}
	return err
}

func (r *run) block(ctx context.Context, block *Block) error {
	t, err := r.terminal(block.Terminal)
	if err != nil {
		return err
	}
	for i := range block.Turns {
		if err := r.turn(ctx, t, block, &block.Turns[i]); err != nil {
			return err
		}
	}
	return nil
}

// turn types a command and waits for what must come back.
func (r *run) turn(ctx context.Context, t *terminal, block *Block, turn *Turn) error {
	command := r.values.fill(turn.Command)
	if err := r.await(block, turn, command); err != nil {
		return err
	}
	started, timeout, whole := time.Now(), commandTimeout, ctx
	if block.Within > 0 {
		timeout = block.Within
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output, err := r.expect(ctx, t, block, turn, command)
	if err == nil && turn.Interrupt {
		err = r.interrupt(ctx, t)
	}
	if err != nil && whole.Err() != nil {
		return ErrInterrupted
	}
	if err != nil {
		return err
	}
	if command != "" {
		r.commands++
	}
	r.show(block, turn, command, output, time.Since(started))
	return nil
}

// expect runs the command until the output is right: once, to its end; again
// and again within a time; or, in another terminal, for as long as it takes to
// print that much.
func (r *run) expect(ctx context.Context, t *terminal, block *Block, turn *Turn, command string) (string, error) {
	if command == "" && !t.running {
		return "", fmt.Errorf("%s:%d: nothing runs in terminal %q that could print this", r.lab.Path, turn.Line, block.Terminal)
	}
	if command == "" {
		command = t.command
	} else if err := r.ended(ctx, t); err != nil {
		return "", fmt.Errorf("%s:%d: %s is still running in terminal %q", r.lab.Path, turn.Line, t.command, block.Terminal)
	}
	mayRun := block.Terminal != "" && block.Within == 0
	typed := turn.Command == ""
	last := "" // what it printed the last time that it ended
	for {
		if !typed {
			if err := t.start(command); err != nil {
				return "", fmt.Errorf("%s:%d: the terminal is closed: %w", r.lab.Path, turn.Line, err)
			}
			typed = true
		}
		output, ended, code := t.look()
		if ended || mayRun {
			right, missing := r.values.match(turn.Expected, output)
			right = right && (!ended || (code != 0) == block.Fails || turn.Command == "")
			if right || ended && block.Within == 0 {
				t.take(output, ended)
				if !right {
					return "", r.mismatch(block, turn, command, output, code, missing)
				}
				return output, nil
			}
			if ended {
				t.take(output, true)
				typed, last = false, output
			}
		}
		if err := pause(ctx); err != nil {
			if block.Within > 0 && last != "" {
				output = last
			}
			_, missing := r.values.match(turn.Expected, output)
			return "", r.mismatch(block, turn, command, output, stillRuns, missing)
		}
	}
}

// stillRuns stands for the exit code of a command that has none yet.
const stillRuns = -2

func (r *run) mismatch(block *Block, turn *Turn, command, output string, code int, missing *Line) error {
	m := &Mismatch{Place: fmt.Sprintf("%s:%d", r.lab.Path, turn.Line), Command: command, Got: output}
	for _, line := range turn.Expected {
		m.Expected = append(m.Expected, Line{line.Number, r.values.fill(line.Text)})
	}
	unprinted, absent := "", ""
	if missing != nil {
		m.Place = fmt.Sprintf("%s:%d", r.lab.Path, missing.Number)
		absent = strings.TrimSpace(r.values.fill(missing.Text))
		unprinted = ", and it did not print: " + absent
	}
	switch {
	case code == stillRuns && block.Within > 0:
		m.Reason = fmt.Sprintf("not within %s%s", block.Within, unprinted)
	case code == stillRuns:
		m.Reason = fmt.Sprintf("after %s the command of line %d has not ended, or has not printed this%s", commandTimeout, turn.Line, unprinted)
	case block.Fails && code == 0:
		m.Reason = "the command should have failed"
	case !block.Fails && code != 0:
		m.Reason = fmt.Sprintf("the command failed with exit code %d%s", code, unprinted)
	case missing != nil:
		m.Reason = fmt.Sprintf("the command of line %d did not print: %s", turn.Line, absent)
	default:
		m.Reason = "more was printed than this"
	}
	return m
}

// interrupt is ^C; what the program says to it is nobody's business.
func (r *run) interrupt(ctx context.Context, t *terminal) error {
	if err := t.interrupt(); err != nil {
		return err
	}
	if err := r.ended(ctx, t); err != nil {
		return fmt.Errorf("%s: ^C did not end %s: %w", r.lab.Path, t.command, err)
	}
	return nil
}

// ended waits until no command runs in a terminal.
func (r *run) ended(ctx context.Context, t *terminal) error {
	for t.running {
		if output, ended, _ := t.look(); ended {
			t.take(output, true)
			break
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// await shows a reader the command, and waits for Enter.
func (r *run) await(block *Block, turn *Turn, command string) error {
	if r.enter == nil || turn.Command == "" {
		return nil
	}
	where := ""
	if block.Terminal != "" {
		where = " (in a terminal of its own: " + block.Terminal + ")"
	}
	fmt.Fprintf(r.Out, "\n$ %s%s\n[Enter runs it, q ends the lab] ", strings.ReplaceAll(command, "\n", "\n> "), where)
	if !r.enter.Scan() || strings.TrimSpace(r.enter.Text()) == "q" {
		return ErrQuit
	}
	return nil
}

// show tells how far the lab is; a reader sees what was really printed.
func (r *run) show(block *Block, turn *Turn, command, output string, took time.Duration) {
	if r.enter != nil {
		if command == "" && output != "" {
			fmt.Fprintf(r.Out, "\nMeanwhile in the terminal %q:\n\n", block.Terminal)
		}
		if fmt.Fprint(r.Out, output); output != "" && !strings.HasSuffix(output, "\n") {
			fmt.Fprintln(r.Out)
		}
		if turn.Interrupt {
			fmt.Fprintf(r.Out, "\n^C in the terminal %q.\n", block.Terminal)
		}
		return
	}
	first, more, _ := strings.Cut(command, "\n")
	switch {
	case command == "":
		first = "  and it printed what it should"
	case more != "":
		first = "$ " + first + " …"
	default:
		first = "$ " + first
	}
	fmt.Fprintf(r.Out, "  ✓ line %-4d %5.1f s  %s\n", turn.Line, took.Seconds(), first)
}
