package nstest

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a program that runs inside a namespace until the test ends.
type Process struct {
	Cmd *exec.Cmd

	mu     sync.Mutex // guards output
	output bytes.Buffer
}

// Start starts a program inside the namespace. Its goroutines, if it has any,
// are all inside: unlike a goroutine's, a process's threads share a namespace.
func (ns *NS) Start(cmd *exec.Cmd) *Process {
	ns.tb.Helper()
	p := &Process{Cmd: cmd}
	cmd.Stdout, cmd.Stderr = p, p
	ns.Must(cmd.Start)
	ns.tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // an error if the test has waited already
		if ns.tb.Failed() {
			ns.tb.Logf("%s in %s printed:\n%s", cmd.Args[0], ns.Name, p.Output())
		}
	})
	return p
}

// Write collects what the program prints.
func (p *Process) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(data)
}

// Output is what it has printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// Stop asks the program to end and answers how it did.
func (p *Process) Stop() error {
	if err := p.Cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return p.Cmd.Wait()
}

// patienceVariable lengthens what Eventually waits on a slow machine, for
// example a virtual one: TINYKUBE_PATIENCE=5m.
const patienceVariable = "TINYKUBE_PATIENCE"

// Eventually waits until ok answers true, at most half a minute.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	patience := 30 * time.Second
	if longer, err := time.ParseDuration(os.Getenv(patienceVariable)); err == nil {
		patience = longer
	}
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %s", what, patience)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
