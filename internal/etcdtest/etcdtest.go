// Package etcdtest runs etcd as a process of its own, for tests that kill it
// with -9. The process is the test binary itself, so a test that uses it needs
//
//	func TestMain(m *testing.M) { etcdtest.Main(m) }
package etcdtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tinykube/apiserver/storage/embedded"
)

const (
	// dirVariable makes the test binary an etcd.
	dirVariable = "TINYKUBE_ETCDTEST_DIR"
	// clusterVariable makes that a member: "its number/how many@address".
	clusterVariable = "TINYKUBE_ETCDTEST_CLUSTER"
	// syncVariable lets it wait for the disk.
	syncVariable = "TINYKUBE_ETCDTEST_SYNC"
)

var enabled bool

// Enabled reports whether the test binary has called Main.
func Enabled() bool { return enabled }

// Main runs the tests, and then what else is to be done, or it runs etcd.
func Main(m *testing.M, afterwards ...func()) {
	enabled = true
	dir := os.Getenv(dirVariable)
	if dir == "" {
		code := m.Run()
		for _, f := range afterwards {
			f()
		}
		os.Exit(code)
	}
	endpoint, err := serve(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(endpoint)
	// The parent holds the other end: when it is gone, so are we.
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// serve runs etcd: alone, or as a member of a Cluster.
func serve(dir string) (endpoint string, err error) {
	if cluster := os.Getenv(clusterVariable); cluster != "" {
		return startMember(dir, cluster)
	}
	etcd, err := embedded.Start(context.Background(), embedded.Config{Dir: dir, NoSync: os.Getenv(syncVariable) == ""})
	if err != nil {
		return "", err
	}
	return etcd.Endpoint, nil
}

// Process is an etcd that can be killed.
type Process struct {
	Endpoint string
	cmd      *exec.Cmd
}

// Start runs etcd on the data in dir until the test ends or Kill.
func Start(t testing.TB, dir string) *Process { return start(t, dir) }

// StartSync is Start with an etcd that waits for its disk, as a real one does.
func StartSync(t testing.TB, dir string) *Process { return start(t, dir, syncVariable+"=yes") }

func start(t testing.TB, dir string, environment ...string) *Process {
	t.Helper()
	p := &Process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(append(os.Environ(), dirVariable+"="+dir), environment...)
	p.cmd.Stderr = os.Stderr
	if _, err := p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	line := bufio.NewScanner(out)
	if !line.Scan() {
		t.Fatalf("etcd did not start: %v", line.Err())
	}
	p.Endpoint = line.Text()
	return p
}

// PID is the process's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// CPUTime is how much CPU a process has used; 0 if there is none.
func CPUTime(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// Fields 14 and 15, counted behind the name in parentheses, in 1/100 s.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// Pause stops the process where it is; nothing tells its peers. Resume lets it
// go on, at a later time than it thinks.
func (p *Process) Pause() { p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (p *Process) Resume() { p.cmd.Process.Signal(syscall.SIGCONT) }

// Kill is kill -9.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}
