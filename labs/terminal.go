package labs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// terminal is one bash that lives as long as its lab, so that a variable, a
// function or a folder entered is still there in the next block.
//
// Each command is a file that bash reads (so it may be anything, even wrong)
// followed by a line that only we know, with the exit code. There is no
// pseudo-terminal: programs then print no colours and ask no questions. All of
// a terminal's processes are one group: that is whom ^C and closing it reach.
type terminal struct {
	script string // the file that the next command goes to
	mark   string // of the line that follows a command's output
	shell  *exec.Cmd
	in     io.WriteCloser
	reader *os.File
	joined sync.WaitGroup

	mu    sync.Mutex // guards what the reading goroutine and the lab share
	out   bytes.Buffer
	ended bool

	// Owned by the lab.
	command string // the last one
	running bool   // it has not ended yet
	taken   int    // of out, by commands and blocks before
}

// open starts a shell. argv ends in something that reads commands from stdin.
func open(argv, env []string, dir, name string) (*terminal, error) {
	t := &terminal{script: filepath.Join(dir, ".command-"+name), mark: fmt.Sprintf("[%s %d", name, time.Now().UnixNano())}
	t.shell = exec.Command(argv[0], argv[1:]...)
	t.shell.Env, t.shell.Dir = env, dir
	t.shell.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer writer.Close()
	t.reader, t.shell.Stdout, t.shell.Stderr = reader, writer, writer
	if t.in, err = t.shell.StdinPipe(); err != nil {
		return nil, err
	}
	if err := t.shell.Start(); err != nil {
		reader.Close()
		return nil, fmt.Errorf("a lab's commands are typed into bash: %w", err)
	}
	t.joined.Go(t.read)
	t.joined.Go(func() {
		t.shell.Wait() // how it ended is of no interest: that it did is
		t.mu.Lock()
		defer t.mu.Unlock()
		t.ended = true
	})
	// ^C ends what runs, not the shell.
	_, err = io.WriteString(t.in, "trap : INT\n")
	return t, err
}

func (t *terminal) read() {
	chunk := make([]byte, 4096)
	for {
		n, err := t.reader.Read(chunk)
		t.mu.Lock()
		t.out.Write(chunk[:n])
		t.mu.Unlock()
		if err != nil {
			return // closed by us, or the last process is gone
		}
	}
}

// start types a command.
func (t *terminal) start(command string) error {
	if err := os.WriteFile(t.script, []byte(command+"\n"), 0o600); err != nil {
		return err
	}
	t.command, t.running = command, true
	// The mark is printed in two pieces, so that no echo of the line is one.
	_, err := fmt.Fprintf(t.in, ". '%s' </dev/null; printf '\\n%%s%%s]\\n' '%s ' \"$?\"\n", t.script, t.mark)
	return err
}

// look returns what was printed since the last take, and, if the command has
// ended, its exit code.
func (t *terminal) look() (output string, ended bool, code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	output = string(t.out.Bytes()[t.taken:])
	before, after, found := strings.Cut(output, "\n"+t.mark+" ")
	if number, _, whole := strings.Cut(after, "]\n"); found && whole {
		code, _ = strconv.Atoi(number)
		return before, true, code
	}
	return output, t.ended, -1
}

// take says that what was printed so far has been dealt with.
func (t *terminal) take(output string, ended bool) {
	if t.taken += len(output); ended {
		t.mu.Lock()
		t.taken = t.out.Len()
		t.mu.Unlock()
	}
	t.running = !ended
}

// interrupt is ^C.
func (t *terminal) interrupt() error { return syscall.Kill(-t.shell.Process.Pid, syscall.SIGINT) }

// close ends the shell and everything that was started in it and did not leave
// its process group.
func (t *terminal) close() {
	t.in.Close()
	syscall.Kill(-t.shell.Process.Pid, syscall.SIGKILL) // fails only if nobody is left
	t.reader.Close()
	t.joined.Wait()
}

// survivors are the processes that were started by a lab, as their environment
// tells, and are still there.
func survivors(mark string) map[int]string {
	found := map[int]string{}
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		environment, err := os.ReadFile(file) // those of other users cannot be read, nor are they ours
		if err != nil || !bytes.Contains(environment, []byte(mark)) {
			continue
		}
		folder := filepath.Dir(file)
		pid, _ := strconv.Atoi(filepath.Base(folder))
		command, _ := os.ReadFile(filepath.Join(folder, "cmdline"))
		if len(command) > 0 { // a zombie has none, and does nothing
			found[pid] = strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
		}
	}
	return found
}
