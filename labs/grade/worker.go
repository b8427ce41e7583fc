package grade

import (
	"context"
	"errors"
	"fmt"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// worker judges the state machine of lab 13: the next step of a pod, out of
// what it should be and what is there. Checks write manifests and play the
// runtime.
var worker = suite{
	programs: []string{"kubelet"},
	open:     withKubelet,
	checks: []Check{
		{
			Name: started, Points: 2, run: static("start", two, startsAll),
			Hint: "no sandbox yet: createSandbox, and start what shouldStart",
		},
		{
			Name: "init containers run one after the other, each to its end, and then the others", Points: 2, Needs: []string{started},
			run: static("init", initTwo, initInOrder), Hint: "a new sandbox begins with the first init container only; planInit says whether the others may run",
		},
		{
			Name: "an init container that fails is tried again, and nothing goes past it", Points: 1, Needs: []string{started},
			run: static("retry", initFails, retried), Hint: "when planInit says no, its plan is the plan",
		},
		{
			Name: "a sidecar runs on, and the next one starts beside it", Points: 1, Needs: []string{started},
			run: static("sidecar", sidecar, besideIt), Hint: "planInit knows sidecars; give it the verdicts",
		},
		{
			Name: restarted, Points: 2, Needs: []string{started}, run: static("again", two, again),
			Hint: "with a good sandbox, ask planContainer about every container",
		},
		{
			Name: "what shall not be restarted is not: OnFailure that ended well, Never at all", Points: 1, Needs: []string{started},
			run: static("never", finished("OnFailure", 0), notAgain), Hint: "shouldStart knows the policy; planContainer asks it",
		},
		{
			Name: "a container that a probe has given up is stopped, and started again", Points: 1, Needs: []string{started},
			run: static("unfit", unfitPod, givenUp), Hint: "planContainer also looks at containers that run: call it for each",
		},
		{
			Name: resandboxed, Points: 2, Needs: []string{started}, run: static("dead", two, deadSandbox),
			Hint: "needNewSandbox; the attempt is one more than that of the newest there is",
		},
		{
			Name: "before that the dead sandbox is stopped: that gives its address back", Points: 1, Needs: []string{resandboxed}, run: static("back", two, stopsDead),
			Hint: "stopPod goes with createSandbox whenever there is a sandbox already",
		},
		{
			Name: "in a new sandbox the init containers run again, and before the others", Points: 1, Needs: []string{resandboxed},
			run: static("init-again", initTwo, initAgain), Hint: "what has run in another sandbox has not run in this one",
		},
		{
			Name: "in a new sandbox what has ended well and shall not run again does not", Points: 1, Needs: []string{resandboxed},
			run: static("done", finished("OnFailure", 0), notInNew), Hint: "a new sandbox, too, is for those that shouldStart",
		},
		{
			Name: "a kubelet that was killed finds everything again, and starts nothing twice", Points: 2, Needs: []string{started},
			run: static("found", two, foundAgain), Hint: "decide from what is seen, and remember nothing",
		},
	},
}

const (
	started     = "a pod gets one sandbox, and its containers run in it"
	restarted   = "what ends is started again, in the same sandbox, and only that"
	resandboxed = "when a sandbox dies there is a new one, the next attempt, with the containers"
)

const (
	two       = "  containers: [{name: a, image: x, command: [run]}, {name: b, image: x, command: [run]}]\n"
	initTwo   = "  initContainers: [{name: i, image: x, command: [end]}, {name: j, image: x, command: [end]}]\n  containers: [{name: a, image: x, command: [run]}]\n"
	initFails = "  initContainers: [{name: i, image: x, command: [fail-once]}, {name: j, image: x, command: [end]}]\n  containers: [{name: a, image: x, command: [run]}]\n"
	sidecar   = "  initContainers: [{name: s, image: x, command: [run], restartPolicy: Always}, {name: j, image: x, command: [end]}]\n  containers: [{name: a, image: x, command: [run]}]\n"
	unfitPod  = "  containers: [{name: a, image: x, command: [run], livenessProbe: {exec: {command: [script, unfit, live, F]}, periodSeconds: 1, timeoutSeconds: 30, failureThreshold: 1}}]\n"
)

// finished is a pod with one container that ends, and one that does not.
func finished(policy string, code int) string {
	return fmt.Sprintf("  restartPolicy: %s\n  containers: [{name: a, image: x, command: [end, %q]}, {name: b, image: x, command: [run]}]\n", policy, fmt.Sprint(code))
}

func startsAll(ctx context.Context, p *staticPod) error {
	if err := errors.Join(p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "b", 1, stateRuns)); err != nil {
		return err
	}
	if err := p.looked(ctx); err != nil {
		return err
	}
	if n := len(p.sandboxes()); n != 1 {
		return fmt.Errorf("there are %d sandboxes", n)
	}
	return errors.Join(p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "b", 1, stateRuns))
}

// before says whether one container had ended when another was started.
func before(first, then *runtimeapi.ContainerStatus) error {
	if first.FinishedAt == 0 || first.FinishedAt > then.StartedAt {
		return fmt.Errorf("%s was started before %s had ended", then.Metadata.Name, first.Metadata.Name)
	}
	return nil
}

func initInOrder(ctx context.Context, p *staticPod) error {
	if err := p.lived(ctx, "a", 1, stateRuns); err != nil {
		return err
	}
	i, j, a := p.lives("i"), p.lives("j"), p.lives("a")
	if len(i) != 1 || len(j) != 1 {
		return fmt.Errorf("a runs, and i was run %d times, j %d times", len(i), len(j))
	}
	return errors.Join(before(i[0], j[0]), before(j[0], a[0]))
}

func retried(ctx context.Context, p *staticPod) error {
	if err := p.lived(ctx, "a", 1, stateRuns); err != nil {
		return err
	}
	i, j := p.lives("i"), p.lives("j")
	if len(i) != 2 || len(j) != 1 {
		return fmt.Errorf("i was to fail once: it was run %d times, and j %d times", len(i), len(j))
	}
	return errors.Join(before(i[0], i[1]), before(i[1], j[0]))
}

func besideIt(ctx context.Context, p *staticPod) error {
	if err := errors.Join(p.lived(ctx, "j", 1, stateEnded), p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "s", 1, stateRuns)); err != nil {
		return err
	}
	return before(p.lives("j")[0], p.lives("a")[0])
}

func again(ctx context.Context, p *staticPod) error {
	if err := errors.Join(p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "b", 1, stateRuns)); err != nil {
		return err
	}
	p.runtime.Kill(p.lives("b")[0].Id, 3)
	if err := errors.Join(p.lived(ctx, "b", 2, stateRuns), p.lived(ctx, "a", 1, stateRuns)); err != nil {
		return err
	}
	if n := len(p.sandboxes()); n != 1 {
		return fmt.Errorf("there are %d sandboxes now", n)
	}
	return nil
}

func notAgain(ctx context.Context, p *staticPod) error {
	other := &staticPod{p.ward, "never-at-all"}
	if err := other.write(finished("Never", 4)); err != nil {
		return err
	}
	for _, pod := range []*staticPod{p, other} {
		if err := errors.Join(pod.lived(ctx, "a", 1, stateEnded), pod.lived(ctx, "b", 1, stateRuns)); err != nil {
			return err
		}
	}
	if err := p.looked(ctx); err != nil {
		return err
	}
	for _, pod := range []*staticPod{p, other} {
		if n := len(pod.lives("a")); n != 1 {
			return fmt.Errorf("pod %s: a was started %d times", pod.name, n)
		}
	}
	return nil
}

func givenUp(ctx context.Context, p *staticPod) error {
	return p.until(ctx, func() error {
		lives := p.lives("a")
		if len(lives) >= 2 && lives[0].State == stateEnded {
			return nil
		}
		return fmt.Errorf("its liveness probe fails, and it has had %d lives", len(lives))
	})
}

func deadSandbox(ctx context.Context, p *staticPod) error {
	if err := errors.Join(p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "b", 1, stateRuns)); err != nil {
		return err
	}
	p.runtime.KillSandbox(p.sandboxes()[0].Id)
	return p.until(ctx, func() error {
		boxes := p.sandboxes()
		newest := boxes[0]
		var there []string
		for _, name := range []string{"a", "b"} {
			for _, c := range p.lives(name) {
				if c.State == stateRuns && c.CreatedAt >= newest.CreatedAt {
					there = append(there, name)
				}
			}
		}
		if newest.State == runtimeapi.PodSandboxState_SANDBOX_READY && newest.Metadata.Attempt == 1 && slices.Equal(there, []string{"a", "b"}) {
			return nil
		}
		return fmt.Errorf("the newest of %d sandboxes is attempt %d, %s, and in it run %v", len(boxes), newest.Metadata.Attempt, newest.State, there)
	})
}

func stopsDead(ctx context.Context, p *staticPod) error {
	if err := errors.Join(p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "b", 1, stateRuns)); err != nil {
		return err
	}
	old := p.sandboxes()[0].Id
	if err := deadSandbox(ctx, p); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	stopped := slices.Index(p.order, "stop "+old)
	if stopped < 0 || !slices.Contains(p.order[stopped:], "run "+p.name+"-"+nodeName) {
		return errors.New("nobody had asked the runtime to stop it when the new one was made")
	}
	return nil
}

func initAgain(ctx context.Context, p *staticPod) error {
	if err := p.lived(ctx, "a", 1, stateRuns); err != nil {
		return err
	}
	p.runtime.KillSandbox(p.sandboxes()[0].Id)
	if err := p.lived(ctx, "a", 2, stateRuns); err != nil {
		return err
	}
	i, j, a := p.lives("i"), p.lives("j"), p.lives("a")
	if len(i) != 2 || len(j) != 2 {
		return fmt.Errorf("a has its second life, and i was run %d times, j %d times", len(i), len(j))
	}
	return errors.Join(before(i[1], j[1]), before(j[1], a[1]))
}

func notInNew(ctx context.Context, p *staticPod) error {
	if err := errors.Join(p.lived(ctx, "a", 1, stateEnded), p.lived(ctx, "b", 1, stateRuns)); err != nil {
		return err
	}
	p.runtime.KillSandbox(p.sandboxes()[0].Id)
	if err := p.lived(ctx, "b", 2, stateRuns); err != nil {
		return err
	}
	if n := len(p.lives("a")); n != 1 {
		return fmt.Errorf("a was started %d times", n)
	}
	return nil
}

// foundAgain kills the kubelet. A container dies while nobody looks.
func foundAgain(ctx context.Context, p *staticPod) error {
	if err := errors.Join(p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "b", 1, stateRuns)); err != nil {
		return err
	}
	if err := p.command.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	p.runtime.Kill(p.lives("b")[0].Id, 3)
	if err := p.bench.startKubelet(); err != nil {
		return err
	}
	for range 2 { // once when that has happened, and once when time has passed since
		if err := errors.Join(p.lived(ctx, "b", 2, stateRuns), p.lived(ctx, "a", 1, stateRuns)); err != nil {
			return err
		}
		if n := len(p.sandboxes()); n != 1 {
			return fmt.Errorf("there are %d sandboxes now", n)
		}
		if err := p.looked(ctx); err != nil {
			return err
		}
	}
	return nil
}
