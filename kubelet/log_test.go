package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestParseLogLine(t *testing.T) {
	for raw, want := range map[string]string{
		"2026-01-02T03:04:05.000000006Z stdout F hello  world\n": "stdout false hello  world\n",
		"2026-01-02T03:04:05Z stderr P half\n":                   "stderr true half",
		"2026-01-02T03:04:05Z stdout F \n":                       "stdout false \n",
		"2026-01-02T03:04:05Z stdout F\n":                        "stdout false \n",
		"2026-01-02T03:04:05Z stdout P:other x\n":                "stdout true x",
		"yesterday stdout F x\n":                                 "error",
		"\n":                                                     "error",
	} {
		line, err := parseLogLine([]byte(raw))
		got := fmt.Sprintf("%s %v %s", line.stream, line.partial, line.text)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", raw, got, want)
		}
	}
}

func FuzzParseLogLine(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05Z stdout P:x half\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		line, err := parseLogLine(raw)
		if err == nil && len(line.text) > len(raw)+1 {
			t.Errorf("%q became longer: %q", raw, line.text)
		}
	})
}

// writeLog writes a log of lines "line 0", "line 1", … one second apart.
func writeLog(t *testing.T, lines int) (path string, start time.Time) {
	start = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	var b bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&b, "%s stdout F line %d\n", start.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), i)
	}
	path = filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, start
}

func TestTail(t *testing.T) {
	for _, lines := range []int{0, 1, 2, 3, 5, 400, 5000} {
		path, _ := writeLog(t, lines)
		for _, tail := range []int64{-1, 0, 1, 2, 3, 399, 400, 401, 6000} {
			var b bytes.Buffer
			if err := readLog(context.Background(), path, &b, logOptions{tail: tail, limit: -1}, nil); err != nil {
				t.Fatal(err)
			}
			want := int64(lines)
			if tail >= 0 {
				want = min(want, tail)
			}
			got := strings.Split(b.String(), "\n")
			if int64(len(got)-1) != want || want > 0 && (got[0] != fmt.Sprintf("line %d", int64(lines)-want) || got[want-1] != fmt.Sprintf("line %d", lines-1)) {
				t.Errorf("tail %d of %d lines: %d lines, %q…", tail, lines, len(got)-1, got[0])
			}
		}
	}
}

func TestTailCountsLinesNotPieces(t *testing.T) {
	const entry = "2026-01-02T03:04:05Z stdout "
	path := filepath.Join(t.TempDir(), "0.log")
	log := entry + "P a\n" + entry + "F b\n" + entry + "F c\n" + entry + "P d\n" + entry + "P e\n" + entry + "F \n" + entry + "P f\n"
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	for tail, want := range map[int64]string{1: "f", 2: "de\nf", 3: "c\nde\nf", 4: "ab\nc\nde\nf", 5: "ab\nc\nde\nf"} {
		var b bytes.Buffer
		if err := readLog(context.Background(), path, &b, logOptions{tail: tail, limit: -1}, nil); err != nil || b.String() != want {
			t.Errorf("tail %d: %q, %v, want %q", tail, b.String(), err, want)
		}
	}
}

func TestSinceLimitAndTimestamps(t *testing.T) {
	path, start := writeLog(t, 5)
	for name, test := range map[string]struct {
		options logOptions
		want    string
	}{
		"since":      {logOptions{tail: -1, limit: -1, since: start.Add(3 * time.Second)}, "line 3\nline 4\n"},
		"limit":      {logOptions{tail: -1, limit: 10}, "line 0\nlin"},
		"timestamps": {logOptions{tail: 1, limit: -1, timestamps: true}, "2026-01-02T03:00:04.000000000Z line 4\n"},
		"stream":     {logOptions{tail: -1, limit: -1, stream: "stderr"}, ""},
	} {
		var b bytes.Buffer
		if err := readLog(context.Background(), path, &b, test.options, nil); err != nil {
			t.Fatal(err)
		}
		if b.String() != test.want {
			t.Errorf("%s: %q, want %q", name, b.String(), test.want)
		}
	}
}

// syncBuffer may be read while it is written.
type syncBuffer struct {
	text atomic.Pointer[string]
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	next := b.String() + string(p)
	b.text.Store(&next)
	return len(p), nil
}

func (b *syncBuffer) String() string {
	if s := b.text.Load(); s != nil {
		return *s
	}
	return ""
}

func TestFollowAcrossRotation(t *testing.T) {
	path, _ := writeLog(t, 2)
	var ended atomic.Bool
	out := &syncBuffer{}
	done := make(chan error, 1)
	go func() {
		done <- readLog(t.Context(), path, out, logOptions{tail: -1, limit: -1, follow: true}, ended.Load)
	}()
	await := func(text string) {
		t.Helper()
		for range 1000 {
			if strings.HasSuffix(out.String(), text) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("read %q, waiting for %q", out, text)
	}
	await("line 1\n")
	// The runtime goes on writing into the renamed file, then into a new one.
	old, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	err = rotateLog(path, 3, time.Now(), func() error {
		fmt.Fprintln(old, "2026-01-02T03:05:00Z stdout F last of the old")
		return os.WriteFile(path, []byte("2026-01-02T03:05:01Z stdout F first of the new\n"), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	await("last of the old\nfirst of the new\n")
	ended.Store(true)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRotationKeepsSoManyFiles(t *testing.T) {
	path, start := writeLog(t, 1)
	reopen := func() error { return os.WriteFile(path, nil, 0o600) }
	for i := range 6 {
		if err := rotateLog(path, 3, start.Add(time.Duration(i)*time.Minute), reopen); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 3 {
		t.Errorf("%v, %v; want three files", files, err)
	}
	failing := errors.New("the runtime is away")
	if err := rotateLog(path, 3, start.Add(time.Hour), func() error { return failing }); !errors.Is(err, failing) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the log after a rotation that failed: %v", err)
	}
}

// TestLogTail: the last words of a line without an end are found at once, and
// no more than asked for is kept.
func TestLogTail(t *testing.T) {
	const at = "2026-01-02T03:04:05.000000006Z stdout "
	piece := strings.Repeat("x", 16<<10)
	for name, c := range map[string]struct {
		log            string
		entries, limit int
		want           string
	}{
		"a few lines":    {at + "F a\n" + at + "F b\n" + at + "F c\n", 2, 2048, "b\nc\n"},
		"one long line":  {strings.Repeat(at+"P "+piece+"\n", 100) + at + "P end\n", 80, 10, "xxxxxxxend"},
		"empty lines":    {strings.Repeat(at+"F \n", 100_000), 80, 2048, strings.Repeat("\n", 80)},
		"many letters":   {strings.Repeat(at+"P y\n", 100_000), 100_000, 2048, strings.Repeat("y", 2048)},
		"nothing":        {"", 80, 2048, ""},
		"an unended one": {at + "F a\n" + at + "F b", 80, 2048, "a\nb\n"},
	} {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, []byte(c.log), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := logTail(path, c.entries, c.limit); got != c.want {
			t.Errorf("%s: %.60q, want %.60q", name, got, c.want)
		}
	}
}
