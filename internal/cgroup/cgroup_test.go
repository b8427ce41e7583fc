package cgroup

import (
	"maps"
	"os"
	"strings"
	"testing"
)

func TestParseTable(t *testing.T) {
	got := ParseTable([]byte("usage_usec 12\nMemTotal:       3 kB\noom_kill_disable\nbig 18446744073709551616\nname text\n\nlast 0"))
	if want := map[string]uint64{"usage_usec": 12, "MemTotal:": 3, "last": 0}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// This process is in a group that has used something.
func TestRead(t *testing.T) {
	_, err := os.Stat(Mount + "/cgroup.controllers")
	v2 := err == nil
	raw, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if fields[1] != "memory" && (!v2 || fields[0] != "0") {
			continue
		}
		u, err := Read(fields[2], v2)
		if os.IsNotExist(err) {
			continue // the path is one of another cgroup namespace
		}
		if err != nil || u.Memory == 0 || u.WorkingSet == 0 || u.WorkingSet > u.Memory {
			t.Errorf("%s: %+v, %v", fields[2], u, err)
		}
	}
	if _, err := Read("/nowhere", v2); !os.IsNotExist(err) {
		t.Errorf("a group that is not there: %v", err)
	}
}

func TestParseIO(t *testing.T) {
	v2 := ParseIO([]byte("8:0 rbytes=4096 wbytes=8 rios=1 wios=2 dbytes=0 dios=0\n253:0 \n"), nil)
	v1 := ParseIO([]byte("8:0 Read 4096\n8:0 Write 8\n8:0 Total 4104\nTotal 4104\n"), map[string]string{"Read": "rbytes", "Write": "wbytes"})
	for _, devices := range []map[string]map[string]uint64{v1, v2} {
		if len(devices) != 1 || devices["8:0"]["rbytes"] != 4096 || devices["8:0"]["wbytes"] != 8 {
			t.Errorf("%v", devices)
		}
	}
}
