package grade

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// accounts judges lab 16: where a pod is accounted for, and what is written
// there. The kubelet needs no node for that: it shows what it would do.
var accounts = suite{
	programs: []string{"kubelet"},
	open:     func(context.Context, *bench) error { return nil },
	checks: []Check{
		{
			Name: "a Guaranteed pod is beside the classes, a Burstable and a BestEffort one in theirs", Points: 2,
			run:  shows(guaranteed, "cgroupfs kubepods/podU\n", "burstable: c: {requests: {cpu: 1}}", "cgroupfs kubepods/burstable/podU\n", "besteffort: c: {}", "cgroupfs kubepods/besteffort/podU\n"),
			Hint: "kubepods, the class in small letters unless it is Guaranteed, and pod with the UID",
		},
		{
			Name: "for systemd it is the same place as a slice", Points: 1, run: shows("burstable: c: {requests: {cpu: 1}}", "systemd kubepods-burstable-podU.slice "),
			Hint: "parent makes it of the path",
		},
		{
			Name: weighs, Points: 2, run: shows("a: c: {requests: {cpu: 500m}}", " cpu.shares=512 ", "b: c: {requests: {cpu: 500m}}, d: {requests: {cpu: 1500m}}", " cpu.shares=2048 "),
			Hint: "cpuShares of what is requested, in thousandths of a CPU",
		},
		{
			Name: "without a request it weighs next to nothing; a limit alone is a request as well", Points: 1, Needs: []string{weighs},
			run:  shows("a: c: {}", " cpu.shares=2 ", "b: c: {limits: {cpu: 250m}}", " cpu.shares=256 "),
			Hint: "cpuShares has a floor, and defaults have copied the limit to the request",
		},
		{
			Name: capped, Points: 2, run: shows("a: c: {limits: {cpu: 500m}}, d: {limits: {cpu: 250m}}", " cpu.cfs_quota_us=75000 ", "", " cpu.max=75000 100000 "),
			Hint: "cpuQuota of the limit, together with quotaPeriod",
		},
		{
			Name: "a memory limit is a cap, and a request is not", Points: 2,
			run:  shows("a: c: {requests: {memory: 1Gi}, limits: {memory: 64Mi}}, d: {limits: {memory: 32Mi}}", " memory.limit_in_bytes=100663296 ", "", " memory.max=100663296 ", "b: c: {requests: {memory: 1Gi}}", " memory.limit_in_bytes=-1 "),
			Hint: "in bytes, from the limits",
		},
		{
			Name: "if one container has no limit, the pod has none", Points: 2, Needs: []string{capped},
			run:  shows("a: c: {limits: {cpu: 500m, memory: 64Mi}}, d: {}", " cpu.cfs_quota_us=-1 memory.limit_in_bytes=-1 ", "", " cpu.max=max 100000 memory.max=max "),
			Hint: "podLimits has kept only what all of them have: ask whether it is there",
		},
		{
			Name: "one resource may be limited and the other not", Points: 1, Needs: []string{capped},
			run:  shows("a: c: {limits: {memory: 64Mi}}", " cpu.cfs_quota_us=-1 memory.limit_in_bytes=67108864 ", "b: c: {limits: {cpu: 100m}}", " cpu.cfs_quota_us=10000 memory.limit_in_bytes=-1 "),
			Hint: "each is looked at by itself",
		},
	},
}

const (
	guaranteed = "guaranteed: c: {requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1, memory: 1Gi}}"
	weighs     = "a pod weighs what its containers request together"
	capped     = "a pod may use as much CPU as its containers together"
)

// shows is a check in which pods are shown, and in each answer something must
// stand. A pod is its name and its containers' resources; "" is the one before.
func shows(pairs ...string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		shown := ""
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] != "" {
				var err error
				if shown, err = b.showCgroups(ctx, pairs[i]); err != nil {
					return err
				}
			}
			if !strings.Contains(shown, pairs[i+1]) {
				return fmt.Errorf("of a pod with %s it is not said:%s\n%s", pairs[i], strings.TrimRight(pairs[i+1], "\n"), shown)
			}
		}
		return nil
	}
}

func (b *bench) showCgroups(ctx context.Context, pod string) (string, error) {
	name, containers, _ := strings.Cut(pod, ": ")
	var list []string
	for _, c := range strings.Split(containers, "}, d: ") {
		c = strings.TrimPrefix(c, "c: ")
		if strings.Count(c, "{") > strings.Count(c, "}") {
			c += "}"
		}
		list = append(list, fmt.Sprintf("{name: %c, resources: %s}", 'c'+len(list), c))
	}
	command := exec.CommandContext(ctx, filepath.Join(b.bin, "kubelet"), "cgroups", "-f", "-")
	command.Stdin = strings.NewReader(fmt.Sprintf("metadata: {name: %s, uid: U}\nspec: {containers: [%s]}\n", name, strings.Join(list, ", ")))
	out, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w:\n%s", err, firstLines(string(out)))
	}
	// One blank between words, and one at both ends of lines.
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, " "+strings.Join(strings.Fields(line), " ")+" ")
	}
	return strings.ReplaceAll(strings.Join(lines, "\n")+"\n", "/podU \n", "/podU\n"), nil
}
