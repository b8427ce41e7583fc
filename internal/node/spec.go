package node

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Spec is all that PID 1 needs to know. It lies in <Dir>/spec.json.
type Spec struct {
	Name    string
	Dir     string       // on the machine: what is private to this node
	Payload string       // on the machine: programs and images, read-only, shared by all nodes
	Address netip.Prefix // of eth0
	Bridge  string       // path of the bridge's network namespace

	CgroupRoot string // "/tinykube/node-1", below every hierarchy
	CPU        string // quantity; empty: no limit
	Memory     int64  // bytes; 0: no limit

	PauseImage string
	// FirstImages are the archives, by the beginning of their names, without
	// which the kubelet cannot start a static pod.
	FirstImages []string
	// RuntimeEndpoint is the CRI socket of the kubelet. If it is containerd's
	// own, its CRI plugin is on and our server is not started.
	RuntimeEndpoint string
	// Bare is a machine on which only containerd was started, for whoever wants
	// to start the rest by hand.
	Bare bool
}

const (
	// OurCRI is where our CRI server listens; ContainerdSocket is containerd's.
	OurCRI           = "unix:///run/tinykube/cri.sock"
	ContainerdSocket = "/run/containerd/containerd.sock"
	// ToolsDir is where a node sees the payload.
	ToolsDir = "/opt/tinykube"
	// statusFile is written by PID 1, and read on the machine below Dir.
	statusFile = "/var/lib/tinykube/status.json"
	// LogDir holds what PID 1's children print.
	LogDir = "/var/log/tinykube"
)

// ContainerdCRI reports whether containerd's own CRI plugin serves the kubelet.
func (s *Spec) ContainerdCRI() bool { return s.RuntimeEndpoint == "unix://"+ContainerdSocket }

// Path is where, on the machine, a path of the node lies.
func (s *Spec) Path(inNode string) string { return filepath.Join(s.Dir, inNode) }

func (s *Spec) file() string { return filepath.Join(s.Dir, "spec.json") }

// LoadSpec reads the Spec that Start wrote.
func LoadSpec(file string) (*Spec, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s := &Spec{}
	return s, json.Unmarshal(raw, s)
}

func (s *Spec) save() error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(s.file(), raw, 0o600)
}

// writeFile replaces a file in one step: a reader sees the old or the new one.
func writeFile(name string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	temporary := name + ".new"
	if err := os.WriteFile(temporary, content, mode); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

// Status is what PID 1 says of itself.
type Status struct {
	PID     int       // as the machine numbers it
	Phase   string    // "starting containerd", …, "running"
	Since   time.Time // of the phase
	Started time.Time
}

// ReadStatus reads a node's status; ok is false if its PID 1 is not alive.
func (s *Spec) ReadStatus() (status Status, alive bool) {
	if raw, err := os.ReadFile(s.Path(statusFile)); err == nil {
		_ = json.Unmarshal(raw, &status) // torn is impossible: writeFile renames
	}
	pid := s.PID()
	status.PID = pid
	return status, pid > 0
}

// PID is the machine's number for the node's PID 1, or 0 if it is gone. A pid
// alone could have been given to another process since; its start time says.
func (s *Spec) PID() int {
	raw, err := os.ReadFile(filepath.Join(s.Dir, "pid"))
	if err != nil {
		return 0
	}
	pidText, born, _ := strings.Cut(strings.TrimSpace(string(raw)), " ")
	pid, err := strconv.Atoi(pidText)
	if err != nil || startTime(pid) != born {
		return 0
	}
	return pid
}

// startTime is field 22 of /proc/PID/stat, "" for no or a dead process.
func startTime(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name in parentheses may hold spaces; count from behind it.
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return ""
	}
	return fields[19]
}

// Kill pulls the plug: PID 1 gets SIGKILL and the kernel ends everything else.
// It returns when the whole node is gone.
func (s *Spec) Kill(timeout time.Duration) error {
	pid := s.PID()
	if pid > 0 {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return fmt.Errorf("kill node %s: %w", s.Name, err)
		}
	}
	deadline := time.Now().Add(timeout)
	for {
		left := Processes(s.CgroupRoot)
		if len(left) == 0 && s.PID() == 0 {
			return nil
		}
		// With PID 1 gone these are already dying; without a pid file they are
		// what is left of a node whose files somebody removed.
		for _, p := range left {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("node %s: processes %v do not end", s.Name, left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
