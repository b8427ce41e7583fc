// Command pack is the building side of the payload: it packs files into one group's archive and writes the list of
// what is in it. The Makefile calls it.
//
//	pack OUT.tar.zst FILE…        writes OUT.tar.zst and OUT.json
package main

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"tinykube/internal/payload"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: pack OUT.tar.zst FILE...")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// pack writes the archive first and the list last: a list without its archive would be believed, an archive without
// its list is ignored.
func pack(out string, files []string) error {
	list := strings.TrimSuffix(out, ".tar.zst") + ".json"
	if err := os.Remove(list); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	archive, err := os.Create(out)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(archive, 1<<20)
	group, err := writeArchive(buffered, files)
	if err := errors.Join(err, buffered.Flush(), archive.Close()); err != nil {
		return errors.Join(err, os.Remove(out))
	}
	document, err := json.MarshalIndent(group, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(list, append(document, '\n'), 0o644)
}

// writeArchive writes the compressed tar of files. The order matters to the size: programs that share code should be
// near each other.
func writeArchive(w io.Writer, files []string) (payload.Group, error) {
	var group payload.Group
	compressed, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(payload.Window))
	if err != nil {
		return group, err
	}
	archive := tar.NewWriter(compressed)
	for _, path := range files {
		file, err := writeFile(archive, path)
		if err != nil {
			return group, fmt.Errorf("%s: %w", path, err)
		}
		group.Files = append(group.Files, file)
	}
	return group, errors.Join(archive.Close(), compressed.Close())
}

// writeFile adds one file to the archive and says what it was.
func writeFile(archive *tar.Writer, path string) (payload.File, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return payload.File{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return payload.File{}, err
	}
	sum := sha256.Sum256(content)
	file := payload.File{Name: filepath.Base(path), SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content)), Mode: 0o644}
	if info.Mode()&0o111 != 0 {
		file.Mode = 0o755
		file.Module, file.Version = origin(path)
	}
	header := &tar.Header{Name: file.Name, Typeflag: tar.TypeReg, Mode: int64(file.Mode), Size: file.Size}
	if err := archive.WriteHeader(header); err != nil {
		return payload.File{}, err
	}
	_, err = archive.Write(content)
	return file, err
}

// origin asks a Go program which module its main package came from. For a main of our own around somebody's library
// (CoreDNS with our choice of plugins) it is the dependency of the same name that tells the version.
func origin(path string) (module, version string) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return "", ""
	}
	for _, dependency := range info.Deps {
		if strings.HasPrefix(info.Main.Path, "tinykube/") && filepath.Base(dependency.Path) == filepath.Base(path) {
			return dependency.Path, dependency.Version
		}
	}
	if info.Main.Version == "(devel)" {
		return info.Main.Path, ""
	}
	return info.Main.Path, info.Main.Version
}
