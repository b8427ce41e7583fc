package payload

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// temporaryPrefix marks files that Unpack has not finished. What is left of a killed run is removed by the next.
const temporaryPrefix = ".unpack-"

// Unpack brings the named files, or all when none is named, into dir, executable where they should be. Files that are
// there with the right digest are left alone. Any number of processes may call it for one folder at a time: they wait
// for each other, and the second finds the work done.
func (p *Payload) Unpack(dir string, names ...string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := removeUnfinished(dir); err != nil {
		return err
	}
	missing, err := p.missing(dir, names)
	if err != nil {
		return err
	}
	for group, files := range missing {
		if err := p.unpackGroup(dir, group, files); err != nil {
			return fmt.Errorf("unpack payload %s: %w", group, err)
		}
	}
	return nil
}

// lock takes the folder's lock. It is the kernel's, so it ends with its holder, however that ends.
func lock(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(file.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), file.Close())
	}
	return func() { file.Close() }, nil
}

func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), temporaryPrefix) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
		}
	}
	return err
}

// missing selects, by group, the files that dir does not hold as they should be.
func (p *Payload) missing(dir string, names []string) (map[string]map[string]File, error) {
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	missing := map[string]map[string]File{}
	for groupName, group := range p.groups {
		for _, file := range group.Files {
			if len(names) > 0 && !wanted[file.Name] {
				continue
			}
			delete(wanted, file.Name)
			if intact(filepath.Join(dir, file.Name), file) {
				continue
			}
			if missing[groupName] == nil {
				missing[groupName] = map[string]File{}
			}
			missing[groupName][file.Name] = file
		}
	}
	for name := range wanted {
		return nil, fmt.Errorf("payload holds no %s", name)
	}
	return missing, nil
}

// intact reports whether the file at path is file, by size, mode and digest.
func intact(path string, file File) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != file.Size || info.Mode().Perm() != fs.FileMode(file.Mode) {
		return false
	}
	content, err := os.Open(path)
	if err != nil {
		return false
	}
	defer content.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, content)
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == file.SHA256
}

// unpackGroup reads the group's archive until it has seen all of files.
func (p *Payload) unpackGroup(dir, group string, files map[string]File) error {
	compressed, err := p.fsys.Open(group + ".tar.zst")
	if err != nil {
		return err
	}
	defer compressed.Close()
	stream, err := zstd.NewReader(compressed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(Window), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer stream.Close()
	archive := tar.NewReader(stream)
	for len(files) > 0 {
		header, err := archive.Next()
		if err != nil {
			return fmt.Errorf("looking for %d more files: %w", len(files), err)
		}
		file, wanted := files[header.Name]
		if !wanted {
			continue
		}
		if err := place(dir, file, archive); err != nil {
			return fmt.Errorf("%s: %w", file.Name, err)
		}
		delete(files, header.Name)
	}
	return nil
}

// place writes content to dir under file's name, if it has file's digest.
//
// Invariant: a file under its own name is complete. Whoever has the old one open, or runs it, keeps the old one.
func place(dir string, file File, content io.Reader) (err error) {
	temporary, err := os.CreateTemp(dir, temporaryPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	sum := sha256.New()
	_, copyErr := io.Copy(io.MultiWriter(temporary, sum), content)
	if err := errors.Join(copyErr, temporary.Chmod(fs.FileMode(file.Mode)), temporary.Close()); err != nil {
		return err
	}
	if digest := hex.EncodeToString(sum.Sum(nil)); digest != file.SHA256 {
		return fmt.Errorf("digest is sha256:%s, should be sha256:%s", digest, file.SHA256)
	}
	return os.Rename(temporary.Name(), filepath.Join(dir, file.Name))
}
