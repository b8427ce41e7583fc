package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Layer is the files of one layer, in the order in which they are written. Parent directories that are not listed are
// made with mode 0755 and owner root.
type Layer []File

// File is one entry of a layer. Exactly one of Source, Data, Symlink and Dir says what it is; none of them is an empty
// regular file.
type File struct {
	Path     string      // in the image, absolute
	Mode     fs.FileMode // permissions, with ModeSticky and the like; 0 is 0644, or 0755 for a directory
	UID, GID int

	Source  string // the content is this file of the machine
	Data    []byte // the content
	Symlink string // the link's target
	Dir     bool
}

// tarLayer is a Layer whose digest is known. It implements v1.Layer; compressed and uncompressed are the same bytes.
type tarLayer struct {
	files  Layer
	digest v1.Hash
	size   int64
}

var _ v1.Layer = (*tarLayer)(nil)

// newTarLayer writes the layer's tar once, into a hash.
func newTarLayer(files Layer) (*tarLayer, error) {
	sum := &hashCounter{hash: sha256.New()}
	if err := writeLayer(sum, files); err != nil {
		return nil, err
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.hash.Sum(nil))}
	return &tarLayer{files: files, digest: digest, size: sum.size}, nil
}

func (l *tarLayer) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *tarLayer) DiffID() (v1.Hash, error)            { return l.digest, nil }
func (l *tarLayer) Size() (int64, error)                { return l.size, nil }
func (l *tarLayer) MediaType() (types.MediaType, error) { return types.OCIUncompressedLayer, nil }
func (l *tarLayer) Compressed() (io.ReadCloser, error)  { return l.Uncompressed() }
func (l *tarLayer) Uncompressed() (rc io.ReadCloser, _ error) {
	r, w := io.Pipe()
	// The writer ends with the reader: Close makes its next write fail.
	go func() { w.CloseWithError(writeLayer(w, l.files)) }()
	return r, nil
}

// writeLayer writes files as a tar, each after the directories that it needs.
func writeLayer(w io.Writer, files Layer) error {
	archive := tar.NewWriter(w)
	made := map[string]bool{".": true, "": true}
	for _, file := range files {
		name := strings.TrimPrefix(path.Clean(file.Path), "/")
		if err := writeParents(archive, path.Dir(name), made); err != nil {
			return err
		}
		if made[name] {
			return fmt.Errorf("%s is in the layer twice, or after its own content", file.Path)
		}
		made[name] = true
		if err := writeFile(archive, name, file); err != nil {
			return fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	return archive.Close()
}

// writeParents writes entries for dir and the directories above it, unless they were written before.
func writeParents(archive *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	if err := writeParents(archive, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return writeFile(archive, dir, File{Dir: true})
}

// writeFile writes one entry.
func writeFile(archive *tar.Writer, name string, file File) error {
	header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: tarMode(file), Uid: file.UID, Gid: file.GID, ModTime: epoch}
	content := io.Reader(bytes.NewReader(file.Data))
	header.Size = int64(len(file.Data))
	switch {
	case file.Dir:
		header.Name, header.Typeflag = name+"/", tar.TypeDir
	case file.Symlink != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, file.Symlink
	case file.Source != "":
		source, err := os.Open(file.Source)
		if err != nil {
			return err
		}
		defer source.Close()
		info, err := source.Stat()
		if err != nil {
			return err
		}
		// LimitReader: a source that grows meanwhile must not spoil the archive; one that shrinks is an error at
		// the next header, and whoever imports the layer checks the digest.
		content, header.Size = io.LimitReader(source, info.Size()), info.Size()
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

// tarMode gives the permission bits as tar and Unix count them.
func tarMode(file File) int64 {
	mode := int64(file.Mode.Perm())
	switch {
	case file.Symlink != "":
		return 0o777
	case mode == 0 && file.Dir:
		mode = 0o755
	case mode == 0:
		mode = 0o644
	}
	for bit, value := range map[fs.FileMode]int64{fs.ModeSticky: 0o1000, fs.ModeSetgid: 0o2000, fs.ModeSetuid: 0o4000} {
		if file.Mode&bit != 0 {
			mode |= value
		}
	}
	return mode
}

// hashCounter hashes and counts what is written to it.
type hashCounter struct {
	hash hash.Hash
	size int64
}

func (c *hashCounter) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	return c.hash.Write(p)
}
