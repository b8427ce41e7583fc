package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// progress prints a line per step with the time it took.
type progress struct {
	out     io.Writer
	started time.Time
}

type step struct {
	what string
	do   func(context.Context) error
}

func newProgress(out io.Writer) *progress { return &progress{out, time.Now()} }

func (p *progress) run(ctx context.Context, s step) error {
	began := time.Now()
	if err := s.do(ctx); err != nil {
		fmt.Fprintf(p.out, "  ✗ %s\n", s.what)
		return err
	}
	fmt.Fprintf(p.out, "%6.1f s  ✓ %s (%.1f s)\n", time.Since(p.started).Seconds(), s.what, time.Since(began).Seconds())
	return nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func isPort(s string, low, high int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= low && n <= high
}

// tail returns the last lines of a file.
func tail(file string, lines int) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// machineMemory is MemTotal, in bytes.
func machineMemory() int64 {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(raw) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == "MemTotal:" {
			kib, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			return kib << 10
		}
	}
	return 0
}

// until polls done. When time is up it tells what was last seen.
func until(ctx context.Context, what string, done func() (ok bool, seen string, err error)) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		ok, seen, err := done()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not there in time; last seen: %s", what, seen)
		case <-ticker.C:
		}
	}
}
