package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// write puts the named files, and what is below them, into an archive.
func (o options) write(out, messages io.Writer) error {
	archive := tar.NewWriter(out)
	told := false
	for _, name := range o.names {
		if filepath.IsAbs(name) && !told {
			told = true // in tar's own words, which scripts know
			fmt.Fprintln(messages, "tar: Removing leading `/' from member names")
		}
		start := name
		if !filepath.IsAbs(name) {
			start = filepath.Join(o.folder, name)
		}
		err := filepath.WalkDir(start, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			member := strings.TrimLeft(filepath.Clean(name)+strings.TrimPrefix(path, start), "/")
			if member == "" {
				member = "."
			}
			if o.verbose {
				fmt.Fprintln(messages, member)
			}
			return o.add(archive, path, member)
		})
		if err != nil {
			return err
		}
	}
	return archive.Close()
}

func (o options) add(archive *tar.Writer, path, member string) error {
	look := os.Lstat
	if o.dereference {
		look = os.Stat
	}
	info, err := look(path)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil // as every tar: a socket is nothing without its listener
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	header.Name = member
	if info.IsDir() {
		header.Name += "/"
	}
	if err := archive.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	// A file that grows meanwhile, a log, is cut to the size in its header.
	if _, err := io.CopyN(archive, file, header.Size); err != nil {
		return errors.Join(fmt.Errorf("%s changed as it was read", path), err)
	}
	return nil
}
