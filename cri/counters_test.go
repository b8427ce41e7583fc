package cri

import (
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestParseCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/kubepods/pod1/c\n":                                "/kubepods/pod1/c",
		"9:name=systemd:/x\n4:memory:/kubepods/pod1/c\n0::/\n": "/kubepods/pod1/c",
		"3:cpu,memory:/with:colon\n0::/\n":                     "/with:colon",
		"":                                                     "",
		"nonsense\n":                                           "",
	} {
		if got := parseCgroup(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestNetworkUsage(t *testing.T) {
	usage := networkUsage(1, []byte(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    2000      20    3    0    0     0          0         0     4000      40    5    0    0     0       0          0
  eth1:       7       1    0    0    0     0          0         0        8       1    0    0    0     0       0          0
`))
	eth0 := usage.GetDefaultInterface()
	if eth0.GetRxBytes().GetValue() != 2000 || eth0.GetRxErrors().GetValue() != 3 || eth0.GetTxBytes().GetValue() != 4000 || eth0.GetTxErrors().GetValue() != 5 {
		t.Errorf("eth0: %v", eth0)
	}
	if all := usage.GetInterfaces(); len(all) != 2 || all[0].GetName() != "eth0" || all[1].GetName() != "eth1" {
		t.Errorf("all: %v", all)
	}
}

func TestMergeResources(t *testing.T) {
	old := &runtimeapi.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 1, Unified: map[string]string{"a": "1", "b": "1"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}}}
	merged := mergeResources(old, &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 2, Unified: map[string]string{"b": "2"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2}}})
	if merged.CpuShares != 100 || merged.MemoryLimitInBytes != 2 || merged.Unified["a"] != "1" || merged.Unified["b"] != "2" ||
		len(merged.HugepageLimits) != 1 || merged.HugepageLimits[0].Limit != 2 {
		t.Errorf("%v", merged)
	}
	if old.MemoryLimitInBytes != 1 {
		t.Error("the old resources were changed")
	}
	if mergeResources(nil, nil) == nil {
		t.Error("nothing and nothing is nil")
	}
}

// A listener that does not read loses its stream, and nobody else waits.
func TestSlowListenerIsCutOff(t *testing.T) {
	hub := newEventHub()
	slow := hub.subscribe()
	for range eventQueue + 1 {
		hub.send(&runtimeapi.ContainerEventResponse{})
	}
	received := 0
	for range slow { // ends, since it was closed
		received++
	}
	if received != eventQueue {
		t.Errorf("%d events, want %d", received, eventQueue)
	}
	hub.unsubscribe(slow)
}

func TestIndex(t *testing.T) {
	x := newIndex[string]("thing")
	if err := x.reserve("web", "aa11"); err != nil {
		t.Fatal(err)
	}
	if err := x.reserve("web", "bb22"); err == nil {
		t.Error("a reserved name was given twice")
	}
	x.add("web", "aa11", "first")
	x.add("db", "aa22", "second")
	for id, want := range map[string]string{"aa11": "first", "aa2": "second", "aa": "", "": "", "zz": ""} {
		if got, err := x.get(id); (err == nil) != (want != "") || (err == nil && got != want) {
			t.Errorf("%q: %q, %v; want %q", id, got, err, want)
		}
	}
	x.remove("web", "aa11")
	if err := x.reserve("web", "cc33"); err != nil {
		t.Error(err)
	}
}

func TestDiskMetrics(t *testing.T) {
	labels := map[string]int{}
	for _, m := range diskMetrics {
		labels[m.name] = strings.Count(m.label, ",") + 1
	}
	for _, m := range ioMetrics("8:0", sample{"rbytes": 4096, "wbytes": 8, "rios": 1, "wios": 2}, nil) {
		if labels[m.GetName()] != len(m.GetLabelValues()) {
			t.Errorf("%v", m)
		}
	}
}
