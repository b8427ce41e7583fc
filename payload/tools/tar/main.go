// Command tar writes and reads archives. `kubectl cp` runs it inside the container.
//
//	tar -c|-x|-t [-vzmphO] [-f FILE] [-C FOLDER] [NAME…]
//
// FILE is - for standard input or output, and is when none is given. The dash before the letters may be missing.
package main

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// options are the flags that archives are made and unpacked by.
type options struct {
	create, extract, list                    bool
	verbose, zip, dereference                bool
	touch, toStdout, anyOwner, subtractUmask bool
	file, folder                             string
	names                                    []string
}

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "tar:", err)
		os.Exit(2)
	}
}

func parse(args []string) (options, error) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = append([]string{"-" + args[0]}, args[1:]...)
	}
	var o options
	flags := pflag.NewFlagSet("tar", pflag.ContinueOnError)
	flags.BoolVarP(&o.create, "create", "c", false, "write an archive")
	flags.BoolVarP(&o.extract, "extract", "x", false, "unpack an archive")
	flags.BoolVarP(&o.list, "list", "t", false, "list an archive")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "print each name")
	flags.BoolVarP(&o.zip, "gzip", "z", false, "the archive is compressed")
	flags.BoolVarP(&o.dereference, "dereference", "h", false, "write what links point to")
	flags.BoolVarP(&o.touch, "touch", "m", false, "do not restore times")
	flags.BoolVarP(&o.toStdout, "to-stdout", "O", false, "unpack to standard output")
	flags.BoolVar(&o.anyOwner, "no-same-owner", os.Geteuid() != 0, "do not restore owners")
	flags.BoolVar(&o.subtractUmask, "no-same-permissions", os.Geteuid() != 0, "subtract the umask from permissions")
	keep := flags.BoolP("preserve-permissions", "p", false, "restore permissions")
	flags.StringVarP(&o.file, "file", "f", "-", "the archive")
	flags.StringVarP(&o.folder, "directory", "C", ".", "folder to work in")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.subtractUmask = o.subtractUmask && !*keep
	o.names = flags.Args()
	modes := 0
	for _, mode := range []bool{o.create, o.extract, o.list} {
		if mode {
			modes++
		}
	}
	if modes != 1 {
		return o, errors.New("give one of -c, -x and -t")
	}
	if o.create && len(o.names) == 0 {
		return o, errors.New("an empty archive is not made: name something")
	}
	return o, nil
}

func run(args []string, in io.Reader, out, messages io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.create {
		return o.toFile(out, func(w io.Writer) error { return o.write(w, messages) })
	}
	if o.file != "-" {
		file, err := os.Open(o.file)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	in = bufio.NewReader(in)
	if o.zip {
		if in, err = gzip.NewReader(in); err != nil {
			return err
		}
	}
	if err := o.read(tar.NewReader(in), out); err != nil {
		return err
	}
	// A writer at the other end of a pipe must be able to finish its last block.
	_, err = io.Copy(io.Discard, in)
	return err
}

// toFile gives write the archive's file, compressed if asked for.
func (o options) toFile(out io.Writer, write func(io.Writer) error) (err error) {
	if o.file != "-" {
		file, err := os.Create(o.file)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	if !o.zip {
		return write(out)
	}
	zipped := gzip.NewWriter(out)
	return errors.Join(write(zipped), zipped.Close())
}

// wanted reports whether a member is one of the names, or below one.
func (o options) wanted(member string) bool {
	for _, name := range o.names {
		if name = strings.Trim(name, "/"); member == name || strings.HasPrefix(member, name+"/") {
			return true
		}
	}
	return len(o.names) == 0
}

func describe(h *tar.Header, verbose bool) string {
	if !verbose {
		return h.Name
	}
	return fmt.Sprintf("%s %d/%d %9d %s %s", h.FileInfo().Mode(), h.Uid, h.Gid, h.Size, h.ModTime.UTC().Format(time.DateTime), h.Name)
}
