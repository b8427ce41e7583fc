// Package grade judges what a reader wrote, from outside: it builds the
// programs of a tree, runs them, talks to them over their sockets, and never
// looks at the code.
//
//	DIR ──go build──▶ kube-apiserver ◀──HTTPS── checks ──▶ outcome, points, hint
//	                       │
//	                     door ──── etcd            the door can be held, or slammed
//
//	DIR ──go build──▶ kube-controller-manager ──wire──▶ our API server ◀── checks
//
//	DIR ──go build──▶ kubelet ──CRI──▶ a runtime that the checks play
//
//	DIR ──go build──▶ csi-hostpath ◀──CSI── checks    in a mount namespace, which survives the driver
//
// The wire keeps back answers, or what watches say.
//
//	DIR ──go build──▶ kube-proxy, flanneld, a CNI plugin ──what they print──▶ checks
//
// These decide without touching anything, so no root and no kernel is needed.
//
// A check is worth points only if it fails on a tree with nothing written, and
// it should fail on at least one plausible mistake: the tests hold it to both.
// A check that stands on another one is not tried without it, so that one
// mistake is reported once, and fast.
package grade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Check is one thing that must hold.
type Check struct {
	Name   string
	Points int
	Hint   string   // for whom it does not hold
	Needs  []string // checks without which this one makes no sense
	run    func(context.Context, *bench) error
}

// suite is how a lab's exercise is judged.
type suite struct {
	programs []string // under cmd/, built from the reader's tree
	open     func(context.Context, *bench) error
	checks   []Check
}

var suites = map[string]suite{"01": store, "03": patch, "04": replay, "05": queue, "06": rights, "07": scores, "08": replicas, "09": taints,
	"12": logLines, "13": worker, "14": mirrors, "15": probes, "16": accounts,
	"18": addresses, "19": tunnel, "20": service,
	"22": volumes, "23": publish}

// Checks lists the checks of a lab; none if it has no exercise.
func Checks(number string) []Check { return suites[number].checks }

// Outcome is how one check went.
type Outcome struct {
	Name    string  `json:"name"`
	Points  int     `json:"points"`
	Score   int     `json:"score"`
	Passed  bool    `json:"passed"`
	Skipped bool    `json:"skipped,omitempty"` // a check that it needs did not pass
	Problem string  `json:"problem,omitempty"`
	Hint    string  `json:"hint,omitempty"`
	Seconds float64 `json:"seconds"`
}

// sign is ✓ for what holds, ✗ for what does not, · for what was not tried.
func (o Outcome) sign() string {
	switch {
	case o.Passed:
		return "✓"
	case o.Skipped:
		return "·"
	}
	return "✗"
}

// String is how a person sees an outcome.
func (o Outcome) String() string {
	text := fmt.Sprintf("  %s %d/%d  %-80s %5.1f s\n", o.sign(), o.Score, o.Points, o.Name, o.Seconds)
	if o.Problem != "" {
		text += "         " + strings.ReplaceAll(strings.TrimSpace(o.Problem), "\n", "\n         ") + "\n"
	}
	if o.Hint != "" && !o.Skipped {
		text += "         hint: " + o.Hint + "\n"
	}
	return text
}

// Result is a whole grading.
type Result struct {
	Lab      string    `json:"lab"`
	Score    int       `json:"score"`
	Points   int       `json:"points"`
	Outcomes []Outcome `json:"checks"`
}

// Passed counts the checks that hold.
func (r *Result) Passed() (n int) {
	for _, o := range r.Outcomes {
		if o.Passed {
			n++
		}
	}
	return n
}

// Full reports whether everything holds.
func (r *Result) Full() bool { return r.Score == r.Points }

// checkTimeout is for a program that does not answer; every check takes
// seconds at most.
var checkTimeout = 100 * time.Second

// patience is for what should happen at once, and on a busy machine does not.
// Tests of what never happens have less.
var patience = 30 * time.Second

// Grade builds what is in dir and runs a lab's checks against it, telling
// observe of each. A tree that does not compile is an error, not a score.
func Grade(ctx context.Context, number, dir string, observe func(Outcome)) (*Result, error) {
	s, ok := suites[number]
	if !ok {
		return nil, fmt.Errorf("lab %s has no exercise", number)
	}
	bin, err := os.MkdirTemp("", "grade-bin-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(bin)
	if err := build(ctx, dir, bin, s.programs); err != nil {
		return nil, err
	}
	return judge(ctx, number, bin, observe, true)
}

// judge tries every check on programs, or only those that make sense.
func judge(ctx context.Context, number, bin string, observe func(Outcome), sensible bool) (*Result, error) {
	s := suites[number]
	scratch, err := os.MkdirTemp("/tmp", "grade-") // sockets in it have short names
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	b := &bench{scratch: scratch, bin: bin}
	defer b.close()
	broken := s.open(ctx, b)
	result := &Result{Lab: number}
	for _, check := range s.checks {
		outcome := Outcome{Name: check.Name, Points: check.Points}
		if broken != nil && len(result.Outcomes) == 0 {
			outcome.Problem = broken.Error()
		} else if broken != nil {
			outcome.Skipped, outcome.Problem = true, "not tried: what it needs did not start"
		} else if missing := result.without(check.Needs); sensible && missing != "" {
			outcome.Skipped, outcome.Problem = true, "not tried without: "+missing
		} else {
			outcome.try(ctx, check, b)
		}
		result.Points += outcome.Points
		result.Score += outcome.Score
		result.Outcomes = append(result.Outcomes, outcome)
		observe(outcome)
	}
	return result, ctx.Err()
}

// without names the first check that did not pass.
func (r *Result) without(needs []string) string {
	for _, name := range needs {
		if !slices.ContainsFunc(r.Outcomes, func(o Outcome) bool { return o.Name == name && o.Passed }) {
			return name
		}
	}
	return ""
}

func (o *Outcome) try(ctx context.Context, check Check, b *bench) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	started := time.Now()
	err := check.run(ctx, b)
	o.Seconds = time.Since(started).Round(time.Millisecond).Seconds()
	if err != nil {
		o.Problem, o.Hint = err.Error(), check.Hint
		return
	}
	o.Passed, o.Score = true, check.Points
}

// build compiles programs as the Makefile does, so that what has been compiled
// once, there or here, is taken from Go's cache.
func build(ctx context.Context, dir, bin string, programs []string) error {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	args := []string{"build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w -buildid=", "-o", bin}
	for _, program := range programs {
		args = append(args, "./cmd/"+program)
	}
	command := exec.CommandContext(ctx, "go", args...)
	if command.Err != nil {
		return fmt.Errorf("what you wrote must be compiled: %w", command.Err)
	}
	command.Dir = dir
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not compile: %w\n%s", dir, err, out)
	}
	return nil
}
