package labs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// leaveSite closes the terminals and takes away what the lab had. What should
// be gone by then and is not is the lab's fault.
func (r *run) leaveSite(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var problems []error
	for _, t := range r.terminals {
		t.close()
	}
	if r.Keep && r.site != nil {
		return r.keep()
	}
	for pid, command := range r.left(ctx) {
		problems = append(problems, fmt.Errorf("%s left a process behind: %s", r.lab.Path, command))
		syscall.Kill(pid, syscall.SIGKILL)
	}
	if r.site != nil {
		problems = append(problems, r.site.leave(ctx))
	}
	return errors.Join(append(problems, os.RemoveAll(r.scratch))...)
}

// left are the lab's processes that closing its terminals did not end. Who was
// killed with a terminal is waited for: on a busy machine even dying takes a
// while.
func (r *run) left(ctx context.Context) map[int]string {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	groups := map[int]bool{}
	for _, t := range r.terminals {
		groups[t.shell.Process.Pid] = true
	}
	for {
		left, dying := survivors(r.mark), false
		for pid := range left {
			group, err := syscall.Getpgid(pid)
			if err != nil {
				delete(left, pid) // gone by now
			}
			dying = dying || groups[group]
		}
		if !dying || pause(ctx) != nil {
			return left
		}
	}
}

// keep leaves a lab as it is, and two scripts beside it: one to go on there,
// and one that does what the lab would have done at its end.
func (r *run) keep() error {
	var enter strings.Builder
	enter.WriteString("#!/bin/sh\n")
	for _, variable := range r.environment() {
		name, value, _ := strings.Cut(variable, "=")
		// What the reader's own shell has anyway need not be repeated.
		if os.Getenv(name) != value && variable != r.mark {
			fmt.Fprintf(&enter, "export %s=%s\n", name, quoted(value))
		}
	}
	shell := slices.Clone(r.site.shell)
	for i, word := range shell {
		shell[i] = quoted(word)
	}
	fmt.Fprintf(&enter, "cd %s && exec %s \"$@\"\n", quoted(r.scratch), strings.Join(shell, " "))
	away := "#!/bin/sh\n"
	if r.site.away != nil {
		away += strings.Join(r.site.away(), "\n") + "\n"
	}
	away += "rm -rf " + quoted(r.scratch) + "\n"
	for name, script := range map[string]string{"enter": enter.String(), "leave": away} {
		if err := os.WriteFile(filepath.Join(r.scratch, name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	fmt.Fprintf(r.Out, "  kept; %s/enter is a shell in it, %s/leave takes it away\n", r.scratch, r.scratch)
	return nil
}

// quoted is a word for sh.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
