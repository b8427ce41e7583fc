package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations by which an importer learns an image's name: containerd's own carries the full reference, the OCI one
// only the tag.
//
// Upstream: containerd@v2.4.2 core/images/annotations.go AnnotationImageName.
// Spec: OCI image-spec 1.1 §Pre-Defined Annotation Keys.
const (
	annotationImageName = "io.containerd.image.name"
	annotationRefName   = "org.opencontainers.image.ref.name"
)

// WriteTar writes img under name as an OCI archive: what `ctr images import`, `podman load` and containerd's Import
// read. It streams; nothing but the JSON documents is held in memory.
//
// Spec: OCI image-spec 1.1 §Image Layout.
func WriteTar(w io.Writer, name string, img v1.Image) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", name, err)
	}
	index, err := indexFor(name, img, int64(len(manifest)))
	if err != nil {
		return fmt.Errorf("index of %s: %w", name, err)
	}
	archive := tar.NewWriter(w)
	if err := writeBlob(archive, "oci-layout", 0, bytes.NewReader([]byte(`{"imageLayoutVersion":"1.0.0"}`))); err != nil {
		return err
	}
	if err := writeBlob(archive, "index.json", 0, bytes.NewReader(index)); err != nil {
		return err
	}
	if err := writeBlobs(archive, img, manifest); err != nil {
		return fmt.Errorf("archive of %s: %w", name, err)
	}
	return archive.Close()
}

// indexFor makes the index: one manifest, for this platform, with the image's name.
func indexFor(name string, img v1.Image, size int64) ([]byte, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	return json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1, Digest: digest, Size: size,
			Platform:    &v1.Platform{OS: "linux", Architecture: runtime.GOARCH},
			Annotations: map[string]string{annotationImageName: name, annotationRefName: tagOf(name)},
		}},
	})
}

// writeBlobs writes manifest, config and layers, each under its digest.
func writeBlobs(archive *tar.Writer, img v1.Image, manifest []byte) error {
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if err := writeBlob(archive, blobPath(digest), 0, bytes.NewReader(manifest)); err != nil {
		return err
	}
	configDigest, err := img.ConfigName()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	if err := writeBlob(archive, blobPath(configDigest), 0, bytes.NewReader(config)); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	written := map[v1.Hash]bool{}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		if written[digest] {
			continue
		}
		written[digest] = true
		if err := writeLayerBlob(archive, digest, layer); err != nil {
			return err
		}
	}
	return nil
}

func writeLayerBlob(archive *tar.Writer, digest v1.Hash, layer v1.Layer) error {
	size, err := layer.Size()
	if err != nil {
		return err
	}
	content, err := layer.Compressed()
	if err != nil {
		return err
	}
	defer content.Close()
	return writeBlob(archive, blobPath(digest), size, content)
}

// writeBlob writes one file of the archive. size 0 means: ask the reader, which holds everything in memory.
func writeBlob(archive *tar.Writer, name string, size int64, content io.Reader) error {
	if inMemory, ok := content.(*bytes.Reader); ok {
		size = inMemory.Size()
	}
	header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: epoch}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.Copy(archive, content); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func blobPath(digest v1.Hash) string { return "blobs/" + digest.Algorithm + "/" + digest.Hex }

func tagOf(name string) string {
	_, tag, found := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":")
	if !found {
		return "latest"
	}
	return tag
}

// WriteArchive writes img as an archive into dir and returns its path. The file's name carries the image's digest, so
// that a file which is already there is the right one and is left alone; archives of the same name with another digest
// are removed. A half-written archive is never seen: the file appears by rename. Callers that share a folder take turns.
func WriteArchive(dir, name string, img v1.Image) (string, error) {
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", name, err)
	}
	base := strings.NewReplacer("/", "_", ":", "_").Replace(name)
	target := filepath.Join(dir, base+"@"+digest.Hex[:16]+".tar")
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	temporary, err := os.CreateTemp(dir, "."+base+"-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(temporary.Name()) // after the rename there is nothing left to remove
	if err := errors.Join(WriteTar(temporary, name, img), temporary.Close()); err != nil {
		return "", err
	}
	if err := os.Rename(temporary.Name(), target); err != nil {
		return "", err
	}
	return target, removeOthers(dir, base, target)
}

// removeOthers removes archives of the same image that were built from other files, and what a killed run left.
func removeOthers(dir, base, keep string) error {
	archives, err := filepath.Glob(filepath.Join(dir, base+"@*.tar"))
	unfinished, globErr := filepath.Glob(filepath.Join(dir, "."+base+"-*"))
	err = errors.Join(err, globErr)
	for _, archive := range append(archives, unfinished...) {
		if archive != keep {
			err = errors.Join(err, os.Remove(archive))
		}
	}
	return err
}
