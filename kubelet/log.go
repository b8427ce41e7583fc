package kubelet

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The runtime writes what a container prints as lines of this form:
//
//	2026-01-02T15:04:05.123456789Z stdout F the text
//
// F ends a line that the container wrote; P is a part of one that was longer
// than the runtime's buffer. The kubelet reads these files for kubectl logs,
// and rotates them: 0.log, 0.log.20260102-150405, …
//
// Spec: CRI v1, "Log format"; Upstream: kubernetes@v1.36 cri-client/pkg/logs.

// maxLogEntry bounds an entry; runtimes split what they are given into pieces.
const (
	maxLogEntry = 1 << 20
	logPiece    = 16 << 10
)

// logLine is one line of a log file.
type logLine struct {
	at      time.Time
	stream  string
	partial bool
	text    []byte // with its newline, unless partial
}

// parseLogLine reads one line, which ends in a newline.
//
// LAB 12 parse: a time, a stream, tags with colons between them, and then the
// text, which may contain anything, also nothing. Whatever does not begin like
// this is an error.
func parseLogLine(raw []byte) (logLine, error) {
	var line logLine
	fields := bytes.SplitN(bytes.TrimSuffix(raw, []byte("\n")), []byte(" "), 4)
	if len(fields) < 3 {
		return line, fmt.Errorf("not a log line: %.60q", raw)
	}
	var err error
	if line.at, err = time.Parse(time.RFC3339Nano, string(fields[0])); err != nil {
		return line, fmt.Errorf("timestamp of a log line: %w", err)
	}
	line.stream = string(fields[1])
	tags := strings.Split(string(fields[2]), ":")
	line.partial = slices.Contains(tags, "P")
	if len(fields) == 4 {
		line.text = fields[3]
	}
	if !line.partial {
		line.text = append(line.text[:len(line.text):len(line.text)], '\n')
	}
	return line, nil
}

// logOptions are the choices of kubectl logs.
type logOptions struct {
	follow, timestamps bool
	previous           bool // of the life before
	since              time.Time
	tail               int64 // lines from the end; negative: all
	limit              int64 // bytes; negative: no limit
	stream             string
}

// logTimeFormat is as wide for each line.
const logTimeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// errLogLimit ends reading when limitBytes are written.
var errLogLimit = errors.New("log limit reached")

// logWriter filters and prints lines.
type logWriter struct {
	out     io.Writer
	options logOptions
	// midLine says that the last line was a partial one: its
	// continuation gets no timestamp.
	midLine bool
}

func (w *logWriter) write(line logLine) error {
	continued := w.midLine
	w.midLine = line.partial
	if line.at.Before(w.options.since) || w.options.stream != "" && w.options.stream != line.stream {
		return nil
	}
	text := line.text
	if w.options.timestamps && !continued {
		text = append([]byte(line.at.Format(logTimeFormat)+" "), text...)
	}
	if w.options.limit >= 0 && int64(len(text)) >= w.options.limit {
		w.out.Write(text[:w.options.limit]) // the reader's loss ends us anyway
		return errLogLimit
	}
	n, err := w.out.Write(text)
	if w.options.limit >= 0 {
		w.options.limit -= int64(n)
	}
	return err
}

// readLog prints a container's log. With follow it goes on, across rotations,
// until ended says that nothing more will come.
func readLog(ctx context.Context, path string, out io.Writer, options logOptions, ended func() bool) error {
	file, err := openLog(path)
	if err != nil {
		return err
	}
	defer func() { file.Close() }() // whichever it is by then
	if err := seekTail(file, options.tail); err != nil {
		return err
	}
	w := &logWriter{out: out, options: options}
	reader := bufio.NewReaderSize(file, 64<<10)
	var pending []byte // an unfinished line
	var next *os.File  // the log's successor, once it is rotated
	for last := false; ; {
		raw, err := reader.ReadSlice('\n')
		if pending = append(pending, raw...); len(pending) > maxLogEntry {
			pending = append(pending[:0], '?') // no entry, and it will not parse as one
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		unfinished := errors.Is(err, io.EOF) && !options.follow && len(pending) > 0 // and will stay so for us
		if err == nil || unfinished {
			if line, err := parseLogLine(pending); err == nil { // what is no line is skipped
				if unfinished {
					line.text = bytes.TrimSuffix(line.text, []byte("\n"))
				}
				if err := w.write(line); errors.Is(err, errLogLimit) {
					return nil
				} else if err != nil {
					return err
				}
			}
			pending = pending[:0]
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		if !options.follow {
			return nil
		}
		if next != nil {
			file.Close()
			file, next, pending = next, nil, nil
			reader.Reset(file)
			continue
		}
		// What was written before the new file appeared must be read first.
		if next = rotatedTo(path, file); next != nil {
			continue
		}
		if last {
			return nil
		}
		// The container may end between the last read and the question.
		last = ended()
		if !last && !wait(ctx, logPollPeriod) {
			return nil
		}
	}
}

// logPollPeriod is how late a followed line may be.
const logPollPeriod = 200 * time.Millisecond

// rotatedTo opens the file that now has the log's name, if it is another one.
func rotatedTo(path string, file *os.File) *os.File {
	now, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	if old, err := file.Stat(); err != nil || os.SameFile(old, now) {
		return nil
	}
	next, err := openLog(path)
	if err != nil {
		return nil
	}
	return next
}

// openLog opens a log, and nothing that was put in its place: whoever may write
// below /var/log could otherwise read any file of the node through kubectl logs.
func openLog(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return file, nil
}

// seekTail places the file before its last lines, reading it from the end: a
// log may be large, its tail is not. What a container wrote in pieces is one
// line, ended by its F entry.
func seekTail(file *os.File, lines int64) error {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || lines == 0 {
		return err
	}
	if lines < 0 {
		_, err = file.Seek(0, io.SeekStart)
		return err
	}
	const block = 16 << 10
	buffer := make([]byte, block)
	next, found := end, int64(0) // where the entry after the last one seen begins
	for at := end; at > 0; {
		size := min(block, at)
		at -= size
		if _, err := file.ReadAt(buffer[:size], at); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			entry := at + i + 1
			if buffer[i] != '\n' || entry == end {
				continue
			}
			if next == end || !partialAt(file, entry) {
				if found++; found > lines {
					_, err = file.Seek(next, io.SeekStart)
					return err
				}
			}
			next = entry
		}
	}
	// The first entry has no newline before it.
	if next != end && !partialAt(file, 0) && found == lines {
		_, err = file.Seek(next, io.SeekStart)
		return err
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// partialAt says whether the entry at offset is a part of a longer line.
func partialAt(file *os.File, offset int64) bool {
	head := make([]byte, 64)
	n, _ := file.ReadAt(head, offset) // a short read is a short entry
	fields := bytes.SplitN(head[:n], []byte(" "), 4)
	return len(fields) > 2 && bytes.HasPrefix(fields[2], []byte("P"))
}

// logTail is the end of a log as text, for a termination message. An entry has
// at least one byte of text and not many more beside it, so that the last bytes
// of text are found near the end, however long the log is. Upstream counts
// entries here, not lines.
func logTail(path string, entries, limit int) string {
	raw, whole := readTail(path, int64(64*limit+4*logPiece))
	lines := bytes.SplitAfter(raw, []byte("\n"))
	if !whole {
		lines = lines[1:] // it begins somewhere in the middle
	}
	var text []byte
	for _, raw := range lines[max(0, len(lines)-1-entries):] { // after the last newline is nothing
		if line, err := parseLogLine(raw); err == nil {
			text = append(text, line.text...)
		}
	}
	return string(text[max(0, len(text)-limit):])
}

// readTail reads the end of a file, and says whether that is all of it. Of a file
// that cannot be read, or is none, there is nothing.
func readTail(path string, limit int64) (raw []byte, whole bool) {
	file, err := openLog(path)
	if err != nil {
		return nil, true
	}
	defer file.Close()
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, true
	}
	raw = make([]byte, min(end, limit))
	n, _ := file.ReadAt(raw, end-int64(len(raw))) // it may have become shorter
	return raw[:n], int64(n) == end
}

// rotateLog renames a log that is too long, asks the runtime to start another,
// and drops the oldest. No line is lost: the runtime goes on writing into the
// renamed file until it has opened the new one.
//
// Simplified: rotated logs are not compressed.
func rotateLog(path string, maxFiles int, now time.Time, reopen func() error) error {
	rotated := path + "." + now.UTC().Format("20060102-150405")
	if err := os.Rename(path, rotated); err != nil {
		return err
	}
	if err := reopen(); err != nil {
		return errors.Join(err, os.Rename(rotated, path)) // as if nothing had happened
	}
	old, err := filepath.Glob(path + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old) // by time: it is in the name
	for len(old) > maxFiles-1 {
		if err := os.Remove(old[0]); err != nil {
			return err
		}
		old = old[1:]
	}
	return nil
}
