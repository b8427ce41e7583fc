package grade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// scores judges the two formulas of lab 07. The scheduler needs no cluster for
// that: it decides about files.
var scores = suite{
	programs: []string{"kube-scheduler"},
	open:     func(context.Context, *bench) error { return nil },
	checks: []Check{
		{
			Name: spreads, Points: 2, run: prefers("LeastAllocated", "empty"),
			Hint: "what is left, in percent of what there is",
		},
		{
			Name: "LeastAllocated: a quarter of the CPU and half of the memory asked for is 62", Points: 2, Needs: []string{spreads},
			run: figure("LeastAllocated", 1, 1, "cpu: 500m, memory: 3Gi", 62), Hint: "the newcomer counts as if it were there: share.requested, not share.before; then the mean over resources",
		},
		{
			Name: "LeastAllocated: with CPU three times as heavy it is 68", Points: 1, Needs: []string{spreads},
			run: figure("LeastAllocated", 3, 1, "cpu: 500m, memory: 3Gi", 68), Hint: "weighted takes care of the weights",
		},
		{
			Name: "LeastAllocated: more than there is counts as nothing left, and not as less", Points: 1, Needs: []string{spreads},
			run: figure("LeastAllocated", 1, 1, "", 36), Hint: "percent stays within 0 and 100; plain arithmetic does not",
		},
		{
			Name: packs, Points: 2, run: prefers("MostAllocated", "full"),
			Hint: "what is taken, in percent of what there is",
		},
		{
			Name: "MostAllocated: a quarter of the CPU and half of the memory asked for is 37", Points: 2, Needs: []string{packs},
			run: figure("MostAllocated", 1, 1, "cpu: 500m, memory: 3Gi", 37), Hint: "25 and 50, halved and rounded down",
		},
		{
			Name: "MostAllocated: with CPU three times as heavy it is 31", Points: 1, Needs: []string{packs},
			run: figure("MostAllocated", 3, 1, "cpu: 500m, memory: 3Gi", 31), Hint: "weighted takes care of the weights",
		},
		{
			Name: "MostAllocated: more than there is counts as full, and not as more", Points: 1, Needs: []string{packs},
			run: figure("MostAllocated", 1, 1, "", 63), Hint: "percent stays within 0 and 100; plain arithmetic does not",
		},
	},
}

const (
	spreads = "LeastAllocated: of an empty and a half full node, the empty one"
	packs   = "MostAllocated: of an empty and a half full node, the full one"
)

// prefers has two nodes, and one pod that fits on both.
func prefers(strategy, want string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		world := node("empty", "4") + node("full", "4") + pod("there", "full", "cpu: 2, memory: 4Gi") + pod("new", "", "cpu: 1, memory: 1Gi")
		out, err := b.simulate(ctx, strategy, 1, 1, world)
		if err != nil {
			return err
		}
		if !strings.Contains(out, "→ "+want+"\n") {
			return fmt.Errorf("it chose another:\n%s", out)
		}
		return nil
	}
}

// figure has a node with 4 CPUs and 8 GiB. What is there and what comes
// together ask for a quarter of the CPU and half of the memory; or, if the
// newcomer asks for nothing, it counts with a little on a node whose CPU is all
// given away, and 5 of its 8 GiB are left.
func figure(strategy string, cpu, memory int, asks string, want int) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		there := "cpu: 500m, memory: 1Gi"
		if asks == "" {
			there = "cpu: 4, memory: 2Gi"
		}
		out, err := b.simulate(ctx, strategy, cpu, memory, node("one", "4")+node("small", "100m")+pod("there", "one", there)+pod("new", "", asks))
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			if len(fields) == 3 && fields[0] == "one" && strings.HasPrefix(fields[1], fmt.Sprintf("%d→", want)) {
				return nil
			}
		}
		return fmt.Errorf("want %d→… for node one:\n%s", want, out)
	}
}

func node(name, cpu string) string {
	return fmt.Sprintf("---\nkind: Node\napiVersion: v1\nmetadata: {name: %s}\nstatus: {allocatable: {cpu: %q, memory: 8Gi, pods: 110}}\n", name, cpu)
}

func pod(name, node, asks string) string {
	return fmt.Sprintf("---\nkind: Pod\napiVersion: v1\nmetadata: {name: %s}\nspec: {nodeName: %q, containers: [{name: c, resources: {requests: {%s}}}]}\n", name, node, asks)
}

// simulate decides about the world with no opinion but the strategy's.
func (b *bench) simulate(ctx context.Context, strategy string, cpu, memory int, world string) (string, error) {
	config := fmt.Sprintf(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- plugins: {score: {disabled: [{name: "*"}], enabled: [{name: NodeResourcesFit}]}}
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: %s, resources: [{name: cpu, weight: %d}, {name: memory, weight: %d}]}}
`, strategy, cpu, memory)
	dir, err := os.MkdirTemp(b.scratch, "simulate-")
	if err != nil {
		return "", err
	}
	for name, text := range map[string]string{"config.yaml": config, "world.yaml": world} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "kube-scheduler"), "simulate", "-f", filepath.Join(dir, "world.yaml"), "--config", filepath.Join(dir, "config.yaml")).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w:\n%s", err, firstLines(string(out)))
	}
	return string(out), nil
}

// firstLines is the part of a crash that says why.
func firstLines(text string) string {
	lines := strings.SplitAfterN(text, "\n", 4)
	return strings.Join(lines[:min(3, len(lines))], "")
}
