package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// read lists or unpacks an archive. Nothing is written outside the folder,
// whatever names, links and .. the archive is made of: os.Root refuses it.
func (o options) read(archive *tar.Reader, out io.Writer) error {
	root, err := os.OpenRoot(o.folder)
	if err != nil {
		return err
	}
	defer root.Close()
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag == tar.TypeXGlobalHeader || !o.wanted(strings.Trim(header.Name, "/")) {
			continue
		}
		switch {
		case o.list:
			fmt.Fprintln(out, describe(header, o.verbose))
		case o.toStdout:
			if _, err := io.Copy(out, archive); err != nil {
				return err
			}
		default:
			if o.verbose {
				fmt.Fprintln(out, header.Name)
			}
			if err := o.extractOne(root, header, archive); err != nil {
				return fmt.Errorf("%s: %w", header.Name, err)
			}
		}
	}
}

func (o options) extractOne(root *os.Root, header *tar.Header, content io.Reader) error {
	name := strings.TrimLeft(path.Clean(header.Name), "/")
	if name == "" || name == "." {
		return nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	mode := header.FileInfo().Mode()
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
	case tar.TypeReg:
		if err := writeFile(root, name, content); err != nil {
			return err
		}
	case tar.TypeSymlink, tar.TypeLink:
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if header.Typeflag == tar.TypeLink {
			return root.Link(strings.TrimLeft(path.Clean(header.Linkname), "/"), name)
		}
		return root.Symlink(header.Linkname, name)
	default:
		return fmt.Errorf("a member of type %q is not unpacked", header.Typeflag)
	}
	return o.restore(root, name, header, mode)
}

// writeFile replaces what is there, so that a link in its place is not followed.
func writeFile(root *os.Root, name string, content io.Reader) error {
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// restore gives a file or folder its owner, permissions and time.
func (o options) restore(root *os.Root, name string, header *tar.Header, mode fs.FileMode) error {
	if !o.anyOwner {
		if err := root.Lchown(name, header.Uid, header.Gid); err != nil {
			return err
		}
	}
	keep := fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if o.subtractUmask {
		keep = fs.ModePerm &^ currentUmask()
	}
	if err := root.Chmod(name, mode&keep); err != nil {
		return err
	}
	if o.touch {
		return nil
	}
	return root.Chtimes(name, header.ModTime, header.ModTime)
}

// currentUmask can only be asked by setting it.
func currentUmask() fs.FileMode {
	mask := syscall.Umask(0)
	syscall.Umask(mask)
	return fs.FileMode(mask)
}
