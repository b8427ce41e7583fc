package kubelet

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// signal is something of which a node can have too little.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/eviction/api/types.go.
type signal string

const (
	memoryAvailable            signal = "memory.available"
	allocatableMemoryAvailable signal = "allocatableMemory.available"
	nodeFsAvailable            signal = "nodefs.available"
	nodeFsInodesFree           signal = "nodefs.inodesFree"
	imageFsAvailable           signal = "imagefs.available"
	imageFsInodesFree          signal = "imagefs.inodesFree"
	containerFsAvailable       signal = "containerfs.available"
	containerFsInodesFree      signal = "containerfs.inodesFree"
	pidAvailable               signal = "pid.available"
)

// What messages call a resource that is none of a pod's.
const (
	resourceInodes corev1.ResourceName = "inodes"
	resourcePIDs   corev1.ResourceName = "pids"
)

// signals is what each signal means: the condition that it raises, the
// resource that pods are ranked by, and the unit in which it is told.
var signals = map[signal]struct {
	condition corev1.NodeConditionType
	resource  corev1.ResourceName
	format    resource.Format
}{
	memoryAvailable:            {corev1.NodeMemoryPressure, corev1.ResourceMemory, resource.BinarySI},
	allocatableMemoryAvailable: {corev1.NodeMemoryPressure, corev1.ResourceMemory, resource.BinarySI},
	nodeFsAvailable:            {corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage, resource.BinarySI},
	nodeFsInodesFree:           {corev1.NodeDiskPressure, resourceInodes, resource.DecimalSI},
	imageFsAvailable:           {corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage, resource.BinarySI},
	imageFsInodesFree:          {corev1.NodeDiskPressure, resourceInodes, resource.DecimalSI},
	containerFsAvailable:       {corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage, resource.BinarySI},
	containerFsInodesFree:      {corev1.NodeDiskPressure, resourceInodes, resource.DecimalSI},
	pidAvailable:               {corev1.NodePIDPressure, resourcePIDs, resource.DecimalSI},
}

// amount is a quantity, or a share of what there is.
type amount struct {
	absolute int64
	share    float32 // used if absolute is 0
}

func (a amount) of(capacity int64) int64 {
	if a.absolute > 0 {
		return a.absolute
	}
	return int64(float64(capacity) * float64(a.share))
}

// threshold is where too little begins. A hard one is acted upon at once, a
// soft one after it was crossed for its whole grace period.
type threshold struct {
	signal     signal
	value      amount
	hard       bool
	grace      time.Duration
	minReclaim amount // once crossed, so much more must be free again
}

// observation is what a signal was found to be.
type observation struct{ available, capacity int64 }

// met says whether too little is there. With reclaim, it stays met until the
// minimum reclaim is free on top: else one byte more would be the end of it.
func (t threshold) met(o observation, reclaim bool) bool {
	want := t.value.of(o.capacity)
	if reclaim {
		want += t.minReclaim.of(o.capacity)
	}
	return o.available < want
}

// metThresholds keeps those that are met; what was not observed is not.
func metThresholds(thresholds []threshold, seen map[signal]observation, reclaim bool) []threshold {
	var out []threshold
	for _, t := range thresholds {
		if o, found := seen[t.signal]; found && t.met(o, reclaim) {
			out = append(out, t)
		}
	}
	return out
}

// parseThresholds reads the evictions of a configuration.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/eviction/helpers.go ParseThresholdConfig.
func parseThresholds(c *kubeletv1beta1.KubeletConfiguration) ([]threshold, error) {
	var out []threshold
	for _, kind := range []struct {
		field  string
		values map[string]string
		hard   bool
	}{{"evictionHard", c.EvictionHard, true}, {"evictionSoft", c.EvictionSoft, false}} {
		for _, name := range slices.Sorted(maps.Keys(kind.values)) {
			t := threshold{signal: signal(name), hard: kind.hard}
			value, err := parseAmount(t.signal, kind.values[name], "threshold")
			if err != nil {
				return nil, fmt.Errorf("%s: %w", kind.field, err)
			}
			if value == (amount{}) {
				continue // 0 % and 100 % switch it off
			}
			t.value = value
			if !kind.hard {
				if t.grace, err = softGrace(c.EvictionSoftGracePeriod, name); err != nil {
					return nil, err
				}
			}
			out = append(out, t)
		}
	}
	for name, text := range c.EvictionMinimumReclaim {
		reclaim, err := parseAmount(signal(name), text, "minimum reclaim")
		if err != nil {
			return nil, fmt.Errorf("evictionMinimumReclaim: %w", err)
		}
		for i := range out {
			if out[i].signal == signal(name) {
				out[i].minReclaim = reclaim
			}
		}
	}
	return addAllocatable(out, c.EnforceNodeAllocatable), nil
}

// addAllocatable watches the group of all pods like the whole node, if it is
// bounded: it may be full while the system still has memory.
func addAllocatable(thresholds []threshold, enforced []string) []threshold {
	if enforced != nil && !slices.Contains(enforced, "pods") {
		return thresholds
	}
	for _, t := range thresholds {
		if t.signal == memoryAvailable && t.hard {
			t.signal = allocatableMemoryAvailable
			thresholds = append(thresholds, t)
		}
	}
	return thresholds
}

func softGrace(periods map[string]string, name string) (time.Duration, error) {
	text, found := periods[name]
	if !found {
		return 0, fmt.Errorf("grace period must be specified for the soft eviction threshold %s", name)
	}
	grace, err := time.ParseDuration(text)
	if err == nil && grace < 0 {
		err = fmt.Errorf("invalid eviction grace period specified: %s, must be a positive value", text)
	}
	return grace, err
}

func parseAmount(of signal, text, what string) (amount, error) {
	if _, known := signals[of]; !known {
		return amount{}, fmt.Errorf("unsupported eviction signal %s", of)
	}
	if number, percent := strings.CutSuffix(text, "%"); percent {
		share, err := strconv.ParseFloat(number, 32)
		switch {
		case err != nil:
			return amount{}, err
		case share < 0:
			return amount{}, fmt.Errorf("eviction percentage %s %s must be >= 0%%: %s", what, of, text)
		case share > 100:
			return amount{}, fmt.Errorf("eviction percentage %s %s must be <= 100%%: %s", what, of, text)
		case share == 100:
			share = 0
		}
		return amount{share: float32(share) / 100}, nil
	}
	quantity, err := resource.ParseQuantity(text)
	if err != nil {
		return amount{}, err
	}
	if quantity.Sign() <= 0 {
		return amount{}, fmt.Errorf("eviction %s %s must be positive: %s", what, of, text)
	}
	return amount{absolute: quantity.Value()}, nil
}

// hardReserve is what hard thresholds keep free: pods cannot have it, so it is
// no part of what the node offers.
func hardReserve(thresholds []threshold, capacity corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, t := range thresholds {
		name := signals[t.signal].resource
		if !t.hard || t.signal != memoryAvailable && t.signal != nodeFsAvailable {
			continue
		}
		if has, found := capacity[name]; found {
			out[name] = *resource.NewQuantity(t.value.of(has.Value()), resource.BinarySI)
		}
	}
	return out
}
