package cri

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 123456789, time.UTC)

func TestAppendLog(t *testing.T) {
	const at = "2026-01-02T12:00:00.123456789Z "
	long := strings.Repeat("x", maxLogLine)
	for name, c := range map[string]struct{ chunk, want string }{
		"one line":         {"a\n", at + "stdout F a\n"},
		"two and a piece":  {"a\nb\nc", at + "stdout F a\n" + at + "stdout F b\n" + at + "stdout P c\n"},
		"an empty line":    {"\n", at + "stdout F \n"},
		"nothing":          {"", ""},
		"exactly a line":   {long + "\n", at + "stdout F " + long + "\n"},
		"more than a line": {long + "y\n", at + "stdout P " + long + "\n" + at + "stdout F y\n"},
	} {
		if got := string(appendLog(nil, noon, streamStdout, []byte(c.chunk))); got != c.want {
			t.Errorf("%s:\n%q\nwant\n%q", name, got, c.want)
		}
	}
}

// However output is cut into chunks, putting the pieces together by tag gives
// back what the program wrote.
func FuzzLogRoundTrip(f *testing.F) {
	f.Add([]byte("hello\nworld"), 3)
	f.Add(bytes.Repeat([]byte("x"), 3*maxLogLine), 2*maxLogLine)
	f.Fuzz(func(t *testing.T, written []byte, size int) {
		if size <= 0 || len(written)/size > 10_000 {
			return
		}
		var log []byte
		for rest := written; len(rest) > 0; rest = rest[min(size, len(rest)):] {
			log = appendLog(log, noon, streamStderr, rest[:min(size, len(rest))])
		}
		var read []byte
		for line := range bytes.Lines(log) {
			fields := bytes.SplitN(bytes.TrimSuffix(line, []byte("\n")), []byte(" "), 4)
			if len(fields) != 4 || len(fields[3]) > maxLogLine {
				t.Fatalf("bad entry %q", line)
			}
			read = append(read, fields[3]...)
			if string(fields[2]) == "F" {
				read = append(read, '\n')
			}
		}
		if !bytes.Equal(read, written) {
			t.Errorf("read %q, written %q", read, written)
		}
	})
}

func TestLogReopen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "web", "0.log")
	log, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.close()
	log.write(streamStdout, []byte("before\n"))
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := log.reopen(); err != nil {
		t.Fatal(err)
	}
	log.write(streamStdout, []byte("after\n"))
	for file, want := range map[string]string{path + ".old": "before", path: "after"} {
		if data, _ := os.ReadFile(file); !strings.HasSuffix(string(data), want+"\n") || strings.Count(string(data), "\n") != 1 {
			t.Errorf("%s: %q, want only %q", file, data, want)
		}
	}
}

// Who can write into the log directory must not choose what we write to.
func TestLogIsNoLink(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "0.log")
	if err := os.Symlink(filepath.Join(dir, "victim"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(path); err == nil {
		t.Error("a symbolic link was followed")
	}
}
