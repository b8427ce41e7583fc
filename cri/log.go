package cri

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// The CRI log format, which the kubelet and every log shipper parse:
//
//	2026-01-02T15:04:05.999999999Z stdout F a whole line
//	2026-01-02T15:04:05.999999999Z stderr P the first part of a line
//
// Upstream: kubernetes/design-proposals-archive node/kubelet-cri-logging.md
const (
	streamStdout = "stdout"
	streamStderr = "stderr"

	// maxLogLine splits what a program prints without a newline, so that one
	// line of a gigabyte is neither held in memory here nor in any reader.
	maxLogLine = 16 << 10
)

// appendLog formats one chunk as read from the container. A piece without its
// newline becomes a P entry at once; nothing is held back until the rest comes.
// What we have read must survive our own death, and a prompt must be visible.
func appendLog(entry []byte, at time.Time, stream string, chunk []byte) []byte {
	for len(chunk) > 0 {
		line, rest, whole := bytes.Cut(chunk, []byte{'\n'})
		if len(line) > maxLogLine {
			line, rest, whole = chunk[:maxLogLine], chunk[maxLogLine:], false
		}
		tag := byte('F')
		if !whole {
			tag = 'P'
		}
		entry = at.AppendFormat(entry, time.RFC3339Nano)
		entry = append(entry, ' ')
		entry = append(entry, stream...)
		entry = append(entry, ' ', tag, ' ')
		entry = append(entry, line...)
		entry = append(entry, '\n')
		chunk = rest
	}
	return entry
}

// logFile is the open log of one container, shared by its two streams.
type logFile struct {
	path string

	mu     sync.Mutex // guards what follows, and keeps chunks whole
	file   *os.File   // nil when the container has no log
	buffer []byte
	broken bool // the last write failed; say so only once
}

// openLog creates the file and its directory. The kubelet rotates by renaming
// it and calling reopen.
func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.reopen()
}

func (l *logFile) reopen() error {
	if l.path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	// O_NOFOLLOW: a container that can write into the log directory must not
	// be able to point us at a file of the host.
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW, 0o640)
	if err != nil {
		return fmt.Errorf("open container log: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.broken = file, false
	return nil
}

// write appends a chunk with one system call. A full disk loses lines but
// never stops the container: the caller reads on; err is only news.
func (l *logFile) write(stream string, chunk []byte) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	l.buffer = appendLog(l.buffer[:0], time.Now(), stream, chunk)
	_, err = l.file.Write(l.buffer)
	if err != nil && l.broken {
		return nil
	}
	l.broken = err != nil
	return err
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}
