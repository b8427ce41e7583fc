package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start brings a node up and returns when its PID 1 runs in its namespaces,
// its cgroup and at the bridge. PID 1 outlives the caller.
func Start(s *Spec) error {
	if s.PID() > 0 {
		return nil // already up
	}
	if err := s.save(); err != nil {
		return err
	}
	// What an earlier PID 1 said of itself is no longer true.
	if err := os.Remove(s.Path(statusFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := CreateCgroup(s.CgroupRoot, s.CPU, s.Memory); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(s.Dir, "node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// The child waits on this pipe until its cgroup and link are there. If we
	// die before, it reads an end of file and gives up.
	wait, release, err := os.Pipe()
	if err != nil {
		return err
	}
	defer wait.Close()
	defer release.Close()

	pidOne := exec.Command("/proc/self/exe", "node", "init", s.file())
	pidOne.Args[0] = "tinykube"
	pidOne.Dir = "/"
	pidOne.Env = []string{"PATH=" + ToolsDir + "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TERM=linux"}
	pidOne.Stdout, pidOne.Stderr = log, log
	pidOne.ExtraFiles = []*os.File{wait}
	pidOne.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
	}
	if err := pidOne.Start(); err != nil {
		return fmt.Errorf("start node %s: %w", s.Name, err)
	}
	pid := pidOne.Process.Pid
	if err := s.connect(pid); err != nil {
		_ = pidOne.Process.Kill()
		_ = pidOne.Wait()
		return err
	}
	if _, err := release.Write([]byte{1}); err != nil {
		return fmt.Errorf("start node %s: %w", s.Name, err)
	}
	return pidOne.Process.Release()
}

func (s *Spec) connect(pid int) error {
	if err := JoinCgroup(filepath.Join(s.CgroupRoot, initGroup), pid); err != nil {
		return err
	}
	if err := plug(s.Bridge, s.Name, pid); err != nil {
		return err
	}
	return writeFile(filepath.Join(s.Dir, "pid"), fmt.Appendf(nil, "%d %s\n", pid, startTime(pid)), 0o644)
}
