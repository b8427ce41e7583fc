package grade

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"tinykube/client"
)

// probes judges lab 15: how many answers in a row settle something, and what
// follows from it. Checks play the containers that are asked; all of them are
// asked from the beginning, since a second is the shortest period there is.
var probes = suite{
	programs: []string{"kubelet"},
	open:     withAsked,
	checks: []Check{
		{
			Name: livenessFails, Points: 2, run: pulse("live", thirdFailure),
			Hint: "reached is true when as many have come in a row as the threshold says; then the verdict is that it is unfit",
		},
		{
			Name: "failures that are not in a row do not count together", Points: 2, Needs: []string{livenessFails},
			run: pulse("rows", notInARow), Hint: "another result than the last one begins a new row, of one",
		},
		{
			Name: readyAfter, Points: 1, run: pulse("ready", getsReady), Hint: "success has its own threshold",
		},
		{
			Name: "two are not three, however often", Points: 1, Needs: []string{readyAfter}, run: pulse("never", neverReady),
			Hint: "success has its own threshold, and a failure begins a new row",
		},
		{
			Name: readyLost, Points: 1, Needs: []string{readyAfter}, run: pulse("lost", losesIt),
			Hint: "as many failures in a row as the threshold says settle it the other way",
		},
		{
			Name: "less than the threshold does not, and nothing is ever restarted for it", Points: 2, Needs: []string{readyLost}, run: pulse("kept", keepsIt),
			Hint: "reached says no, and what was settled stays; unfit is about startup and liveness only",
		},
		{
			Name: first, Points: 2, run: pulse("slow", startupFirst),
			Hint: "started is false as long as there is a startup probe that has not settled on success",
		},
		{
			Name: "once it has passed it is asked no more, and the others are", Points: 1, Needs: []string{first}, run: pulse("starts", thenOthers),
			Hint: "started is true when the startup probe has settled on success",
		},
		{
			Name: "a container that does not start is restarted, too", Points: 1, Needs: []string{first}, run: pulse("stillborn", secondLife),
			Hint: "a failed startup probe makes it unfit",
		},
		{
			Name: "who has no startup probe is started as soon as it runs", Points: 1, run: pulse("plain", noProbe),
			Hint: "has says which probes there are",
		},
	},
}

const (
	livenessFails = "after three failures of liveness in a row it is restarted, and not before"
	readyAfter    = "with a success threshold of three, three in a row make it ready"
	readyLost     = "readiness is lost after failures in a row"
	first         = "until the startup probe passes nobody else is asked, and nothing is ready"
)

// askedPods are the pods that are asked, by name: their container's probes.
// What each answers is a script: "FFS" is a failure, another one, and then
// success for ever; with a * it begins again.
var askedPods = map[string]string{
	"live":      "livenessProbe: {failureThreshold: 3, live FFFS}",
	"rows":      "livenessProbe: {failureThreshold: 3, live FFSFFSFFSS}",
	"ready":     "readinessProbe: {successThreshold: 3, ready SSFSSS}",
	"never":     "readinessProbe: {successThreshold: 3, ready SSF*}",
	"lost":      "readinessProbe: {failureThreshold: 2, ready SFSFF}",
	"kept":      "readinessProbe: {failureThreshold: 2, ready SF*}",
	"slow":      "startupProbe: {failureThreshold: 300, start F}, livenessProbe: {live S}, readinessProbe: {ready S}",
	"starts":    "startupProbe: {failureThreshold: 300, start FFS}, livenessProbe: {live S}, readinessProbe: {ready S}",
	"stillborn": "startupProbe: {failureThreshold: 2, start FFS}",
	"plain":     "env: []",
}

// script is a probe's name and what it hears.
var script = regexp.MustCompile(`(start|live|ready) ([SF]+\*?)`)

// withAsked starts everything.
func withAsked(ctx context.Context, b *bench) error {
	if err := withCluster(ctx, b); err != nil {
		return err
	}
	for name, probes := range askedPods {
		probes = script.ReplaceAllString(probes, `periodSeconds: 1, timeoutSeconds: 30, exec: {command: [script, `+name+`, $1, "$2"]}`)
		if err := b.make(ctx, name, "containers: [{name: a, image: x, command: [run], "+probes+"}]"); err != nil {
			return err
		}
	}
	return nil
}

// make makes a pod of the API on the reader's node.
func (b *bench) make(ctx context.Context, name, spec string) error {
	text := fmt.Sprintf("{metadata: {name: %s, namespace: %s}, spec: {nodeName: %s, terminationGracePeriodSeconds: 1, automountServiceAccountToken: false, %s}}", name, namespace, nodeName, spec)
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(text), &pod); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	_, err := client.For(b.straight, client.Pods).Create(ctx, &pod)
	return err
}

// askedPod is one of them.
type askedPod struct {
	*ward
	name string
}

func pulse(name string, check func(context.Context, *askedPod) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		p := &askedPod{b.ward, name}
		if err := check(ctx, p); err != nil {
			return fmt.Errorf("%w\n(pod %s; asked were, by first letters: %s)", err, name, p.heard(name))
		}
		return nil
	}
}

// status is what the kubelet says of the container.
func (p *askedPod) status(ctx context.Context) (corev1.ContainerStatus, error) {
	pod, err := client.For(p.bench.straight, client.Pods).Get(ctx, namespace, p.name)
	if err == nil && len(pod.Status.ContainerStatuses) == 0 {
		err = errors.New("the kubelet has said nothing of it yet")
	}
	if err != nil {
		return corev1.ContainerStatus{}, err
	}
	return pod.Status.ContainerStatuses[0], nil
}

// when waits until the container's status is as wanted.
func (p *askedPod) when(ctx context.Context, what string, is func(corev1.ContainerStatus) bool) error {
	return p.until(ctx, func() error {
		s, err := p.status(ctx)
		if err != nil || is(s) {
			return err
		}
		return fmt.Errorf("it should be %s; ready is %v, started %v, restarts %d", what, s.Ready, s.Started != nil && *s.Started, s.RestartCount)
	})
}

func isReady(s corev1.ContainerStatus) bool { return s.Ready }

// askedTimes waits until a pod was asked that often.
func (p *askedPod) askedTimes(ctx context.Context, times int) error {
	return p.until(ctx, func() error {
		if n := len(p.heard(p.name)); n < times {
			return fmt.Errorf("it was asked %d times, and should be %d times", n, times)
		}
		return nil
	})
}

func thirdFailure(ctx context.Context, p *askedPod) error {
	if err := p.when(ctx, "restarted", func(s corev1.ContainerStatus) bool { return s.RestartCount > 0 && s.State.Running != nil }); err != nil {
		return err
	}
	if at := p.born(p.name); len(at) != 2 || at[1] != 3 {
		return fmt.Errorf("its lives began when it had been asked so often: %v; want [0 3]", at)
	}
	return nil
}

func notInARow(ctx context.Context, p *askedPod) error {
	if err := p.askedTimes(ctx, 10); err != nil {
		return err
	}
	if n := len(p.born(p.name)); n != 1 {
		return fmt.Errorf("there were never three failures in a row, and it had %d lives", n)
	}
	return nil
}

func getsReady(ctx context.Context, p *askedPod) error { return p.when(ctx, "ready", isReady) }

func neverReady(ctx context.Context, p *askedPod) error {
	if err := p.askedTimes(ctx, 9); err != nil {
		return err
	}
	s, err := p.status(ctx)
	if err == nil && s.Ready {
		err = errors.New("it is ready")
	}
	return err
}

func losesIt(ctx context.Context, p *askedPod) error {
	if err := p.askedTimes(ctx, 5); err != nil {
		return err
	}
	return p.when(ctx, "not ready", func(s corev1.ContainerStatus) bool { return !s.Ready })
}

// keepsIt watches it for a while: each second answer is a failure.
func keepsIt(ctx context.Context, p *askedPod) error {
	if err := p.when(ctx, "ready", isReady); err != nil {
		return err
	}
	for n := len(p.heard(p.name)) + 4; len(p.heard(p.name)) < n; {
		if s, err := p.status(ctx); err != nil || !s.Ready {
			return fmt.Errorf("for a moment it was not ready (%v)", err)
		}
	}
	if n := len(p.born(p.name)) + len(p.born("lost")); n != 2 {
		return fmt.Errorf("two pods whose readiness failed at times have had %d lives", n)
	}
	return nil
}

func startupFirst(ctx context.Context, p *askedPod) error {
	if err := p.askedTimes(ctx, 3); err != nil {
		return err
	}
	if order := p.heard(p.name); strings.Trim(order, "s") != "" {
		return errors.New("others were asked as well")
	}
	return p.when(ctx, "running, and neither started nor ready", func(s corev1.ContainerStatus) bool {
		return s.State.Running != nil && !s.Ready && s.Started != nil && !*s.Started
	})
}

func thenOthers(ctx context.Context, p *askedPod) error {
	if err := p.when(ctx, "ready", isReady); err != nil {
		return err
	}
	return p.until(ctx, func() error {
		order := p.heard(p.name)
		if !strings.HasPrefix(order, "sss") || strings.Count(order, "s") > 3 {
			return errors.New("the startup probe passes the third time, and the others come then")
		}
		if !strings.Contains(order, "l") || !strings.Contains(order, "r") {
			return errors.New("one of the others was not asked")
		}
		return nil
	})
}

func secondLife(ctx context.Context, p *askedPod) error {
	return p.when(ctx, "restarted once, and then ready", func(s corev1.ContainerStatus) bool { return s.RestartCount == 1 && s.Ready })
}

func noProbe(ctx context.Context, p *askedPod) error {
	return p.when(ctx, "started and ready", func(s corev1.ContainerStatus) bool { return s.Ready && s.Started != nil && *s.Started })
}
