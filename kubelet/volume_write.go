package kubelet

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A container reads its ConfigMap while the kubelet replaces it, and must never
// see half of the old and half of the new. So the content lies in a directory
// of its own, and one rename of one symlink changes all files at once:
//
//	volume/key        → ..data/key
//	volume/..data     → ..2026_01_02_15_04_05.123456789
//	volume/..2026_…/key
//
// Upstream: kubernetes@v1.36 pkg/volume/util/atomic_writer.go.

const dataLink = "..data"

// writePayload makes the volume hold exactly the payload; it writes nothing if
// it already does.
func writePayload(dir string, content payload, group *int64) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err == nil && holds(filepath.Join(dir, current), content) {
		return linkNames(dir, content)
	}
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return err
	}
	if err := writeFiles(fresh, content, group); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	temporary := filepath.Join(dir, "..data_tmp")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Base(fresh), temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := linkNames(dir, content); err != nil {
		return err
	}
	if current != "" {
		return os.RemoveAll(filepath.Join(dir, filepath.Base(current)))
	}
	return nil
}

func writeFiles(dir string, content payload, group *int64) error {
	if err := own(dir, nil, group, 0o755); err != nil {
		return err
	}
	for path, file := range content {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, file.data, fs.FileMode(file.mode)); err != nil {
			return err
		}
		mode := fs.FileMode(file.mode) & fs.ModePerm
		if group != nil {
			mode |= 0o440
		}
		if err := own(full, file.user, group, mode); err != nil {
			return err
		}
	}
	return nil
}

// own sets owner and exact mode; the umask has no say.
func own(path string, user, group *int64, mode fs.FileMode) error {
	if user != nil || group != nil {
		id := func(v *int64) int {
			if v == nil {
				return -1
			}
			return int(*v)
		}
		if err := os.Lchown(path, id(user), id(group)); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// linkNames makes the visible name of every file, and removes those of files
// that are no more.
func linkNames(dir string, content payload) error {
	wanted := map[string]bool{}
	for path := range content {
		top, _, _ := strings.Cut(path, "/")
		wanted[top] = true
		err := os.Symlink(filepath.Join(dataLink, top), filepath.Join(dir, top))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink && !strings.HasPrefix(e.Name(), "..") && !wanted[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// holds says whether the directory holds exactly the payload. Modes count as
// well: a changed defaultMode is a change.
func holds(dir string, content payload) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		file, wanted := content[relative]
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !wanted || !bytes.Equal(raw, file.data) || info.Mode().Perm()&^0o440 != fs.FileMode(file.mode)&fs.ModePerm&^0o440 {
			return unix.ESTALE
		}
		found++
		return nil
	})
	return err == nil && found == len(content)
}
