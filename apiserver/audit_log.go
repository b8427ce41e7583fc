package apiserver

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// rotatingFile is a log file that is put aside when it is full:
//
//	audit.log  →  audit-2026-11-21T14-41-00.123.log, and a new audit.log
//
// Only so many of the old ones are kept, and only for so long. The names and
// the meaning of the numbers are those of the library that upstream uses, so
// that what collects such files finds them.
type rotatingFile struct {
	path       string
	maxBytes   int64
	maxBackups int           // 0 keeps all
	maxAge     time.Duration // 0 keeps them for ever

	mu   sync.Mutex // guards the fields below
	file *os.File
	size int64
}

const (
	// defaultLogSize is what 0 means.
	defaultLogSize = 100 << 20
	backupTime     = "2006-01-02T15-04-05.000"
)

// openRotating opens the log for appending; "-" is standard output, which does
// not rotate.
func openRotating(cfg AuditConfig) (*rotatingFile, error) {
	f := &rotatingFile{
		path: cfg.LogPath, maxBytes: int64(cfg.MaxSize) << 20, maxBackups: cfg.MaxBackups, maxAge: time.Duration(cfg.MaxAge) * 24 * time.Hour,
	}
	if f.maxBytes == 0 {
		f.maxBytes = defaultLogSize
	}
	if f.path == "-" {
		f.file, f.maxBytes = os.Stdout, 1<<62
		return f, nil
	}
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
		return nil, err
	}
	return f, f.open()
}

func (f *rotatingFile) open() error {
	file, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return err
	}
	f.file, f.size = file, info.Size()
	return nil
}

// Write appends one line, which stays in one file.
func (f *rotatingFile) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil { // the last rotation failed half-way
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	if f.size > 0 && f.size+int64(len(line)) > f.maxBytes {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(line)
	f.size += int64(n)
	return n, err
}

func (f *rotatingFile) rotate() error {
	f.file.Close()
	f.file = nil
	ext := filepath.Ext(f.path)
	aside := fmt.Sprintf("%s-%s%s", strings.TrimSuffix(f.path, ext), time.Now().UTC().Format(backupTime), ext)
	if err := os.Rename(f.path, aside); err != nil {
		return err
	}
	f.prune(time.Now())
	return f.open()
}

// prune removes what is too old or too much. What cannot be removed now will be
// met again at the next rotation.
func (f *rotatingFile) prune(now time.Time) {
	backups := f.backups()
	for i, at := range backups {
		tooMany := f.maxBackups > 0 && i >= f.maxBackups
		tooOld := f.maxAge > 0 && now.Sub(at) > f.maxAge
		if tooMany || tooOld {
			ext := filepath.Ext(f.path)
			os.Remove(fmt.Sprintf("%s-%s%s", strings.TrimSuffix(f.path, ext), at.Format(backupTime), ext))
		}
	}
}

// backups lists when the old files were put aside, the newest first. Files
// whose names only look alike are nobody's business.
func (f *rotatingFile) backups() []time.Time {
	ext := filepath.Ext(f.path)
	prefix := strings.TrimSuffix(filepath.Base(f.path), ext) + "-"
	entries, _ := os.ReadDir(filepath.Dir(f.path))
	var times []time.Time
	for _, entry := range entries {
		middle, ok := strings.CutPrefix(strings.TrimSuffix(entry.Name(), ext), prefix)
		if at, err := time.Parse(backupTime, middle); ok && err == nil && strings.HasSuffix(entry.Name(), ext) {
			times = append(times, at)
		}
	}
	slices.SortFunc(times, func(a, b time.Time) int { return b.Compare(a) })
	return times
}

// Close is for the end of Run.
func (f *rotatingFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil || f.file == os.Stdout {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}
