package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideVariable marks the second run. Its value means nothing.
const insideVariable = "TINYKUBE_NSTEST"

// private are the directories that tests, and the programs they run, write to.
// Each becomes an empty tmpfs that only the test binary and its children see.
var private = []string{"/run", "/var/lib", "/var/log"}

// init keeps the process's first thread for the main goroutine. It is the one
// thread that cannot die, and the one that /proc/PID/ns speaks of: NS.Do must
// never get it.
func init() { runtime.LockOSThread() }

// Main runs the package's tests in fresh namespaces and exits.
func Main(m *testing.M) {
	if os.Getenv(insideVariable) == "" {
		os.Exit(runInside())
	}
	if err := enter(); err != nil {
		fmt.Fprintf(os.Stderr, "nstest: %v\n", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// runInside starts the same binary with the same arguments one level down and
// answers its exit code.
func runInside() int {
	command := exec.Command("/proc/self/exe", os.Args[1:]...)
	command.Args[0] = os.Args[0]
	command.Env = append(os.Environ(), insideVariable+"=1")
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		// Whatever ends us ends the tests. The signal is tied to the thread
		// that started the child; Main never gives its thread back.
		Pdeathsig: syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		command.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		command.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		command.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := command.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "nstest: new namespaces: %v (root or user namespaces are needed)\n", err)
		return 1
	}
	// go test ends a binary that hangs by SIGQUIT, which prints goroutines: let
	// the inner one print its own.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		for s := range signals {
			_ = command.Process.Signal(s)
		}
	}()
	if err := command.Wait(); err != nil && command.ProcessState == nil {
		fmt.Fprintf(os.Stderr, "nstest: %v\n", err)
		return 1
	}
	if code := command.ProcessState.ExitCode(); code >= 0 {
		return code
	}
	fmt.Fprintf(os.Stderr, "nstest: %v\n", command.ProcessState)
	return 2
}

// enter finishes the new mount namespace: nothing we mount may travel back, and
// the directories in private are empty.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("/proc of the new PID namespace: %w", err)
	}
	for _, dir := range private {
		if err := unix.Mount("nstest", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("private %s: %w", dir, err)
		}
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	return upLoopback()
}
