package node

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestPIDKnowsAReusedNumber(t *testing.T) {
	s := &Spec{Dir: t.TempDir()}
	if s.PID() != 0 {
		t.Error("a node without a pid file has a PID")
	}
	write := func(born string) {
		if err := writeFile(filepath.Join(s.Dir, "pid"), []byte("1 "+born), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(startTime(1))
	if s.PID() != 1 {
		t.Errorf("PID is %d, want 1", s.PID())
	}
	write("12345678901")
	if s.PID() != 0 {
		t.Error("another process with the same number was taken for the node")
	}
}

func TestSpecRoundTrip(t *testing.T) {
	s := &Spec{Name: "node-1", Dir: t.TempDir(), Address: netip.MustParsePrefix("172.30.9.2/24"), CgroupRoot: "/tinykube/node-1", RuntimeEndpoint: OurCRI, FirstImages: []string{"a"}}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadSpec(s.file())
	if err != nil {
		t.Fatal(err)
	}
	if loaded.Address != s.Address || loaded.Name != s.Name || loaded.ContainerdCRI() {
		t.Errorf("loaded %+v", loaded)
	}
	loaded.RuntimeEndpoint = "unix://" + ContainerdSocket
	if !loaded.ContainerdCRI() {
		t.Error("containerd's own socket is not recognised")
	}
}

// A group limits, holds, lists and lets go.
func TestCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root to make cgroups")
	}
	group := CgroupParent + "-test"
	if err := CreateCgroup(group, "500m", 256<<20); err != nil {
		t.Fatal(err)
	}
	defer RemoveCgroup(group)
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleeper.Process.Kill()
	if err := JoinCgroup(filepath.Join(group, initGroup), sleeper.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if pids := Processes(group); len(pids) != 1 || pids[0] != sleeper.Process.Pid {
		t.Errorf("processes %v, want %d", pids, sleeper.Process.Pid)
	}
	if err := sleeper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = sleeper.Wait()
	if err := RemoveCgroup(group); err != nil {
		t.Error(err)
	}
	if pids := Processes(group); len(pids) != 0 {
		t.Errorf("left: %v", pids)
	}
	if err := CreateCgroup(group, "two", 0); err == nil {
		t.Error("a CPU limit of \"two\" was accepted")
	}
}

func TestReaperTellsOneChildFromAnother(t *testing.T) {
	r := newReaper()
	wait := map[string]<-chan syscall.WaitStatus{}
	for _, code := range []string{"0", "3"} {
		exited, err := r.start([]string{"/bin/sh", "-c", "exit " + code}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		wait[code] = exited
	}
	deadline := time.Now().Add(10 * time.Second)
	got := map[string]syscall.WaitStatus{}
	for len(got) < len(wait) && time.Now().Before(deadline) {
		r.reap()
		for code, exited := range wait {
			select {
			case status := <-exited:
				got[code] = status
			default:
			}
		}
	}
	if got["0"].ExitStatus() != 0 || got["3"].ExitStatus() != 3 {
		t.Errorf("statuses %v", got)
	}
	if _, err := r.start([]string{"/no/such/program"}, &os.ProcAttr{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing program: %v", err)
	}
}

func TestLogIsCut(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.log")
	if err := os.WriteFile(name, make([]byte, maxLog+1), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := openLog(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("log has %v bytes after it was cut (%v)", info.Size(), err)
	}
	if _, err := os.Stat(name + ".1"); err != nil {
		t.Error(err)
	}
}
