package payload

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// ErrNotBuilt is what every call returns from a program that was compiled before its payload was built.
var ErrNotBuilt = errors.New("payload not built: run make")

//go:embed data
var data embed.FS

// Payload reads a folder of archives. The zero value is of no use: see Embedded and Open.
type Payload struct {
	fsys   fs.FS
	groups map[string]Group // by name, the archive's name without .tar.zst
}

// Embedded returns the payload in this program.
func Embedded() (*Payload, error) {
	fsys, err := fs.Sub(data, "data")
	if err != nil {
		return nil, err
	}
	return Open(fsys)
}

// Open returns the payload in fsys, or ErrNotBuilt when there is none.
func Open(fsys fs.FS) (*Payload, error) {
	names, err := fs.Glob(fsys, "*.json")
	if err != nil {
		return nil, err
	}
	p := &Payload{fsys: fsys, groups: map[string]Group{}}
	for _, name := range names {
		content, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		var group Group
		if err := json.Unmarshal(content, &group); err != nil {
			return nil, fmt.Errorf("payload's %s: %w", name, err)
		}
		p.groups[strings.TrimSuffix(name, path.Ext(name))] = group
	}
	if len(p.groups) == 0 {
		return nil, ErrNotBuilt
	}
	return p, nil
}

// Files lists what the payload holds, sorted by name.
func (p *Payload) Files() []File {
	var files []File
	for _, group := range p.groups {
		files = append(files, group.Files...)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files
}

// Manifests is a file tree of real applications' manifests, unedited: podinfo/webapp is what the demo applies.
func (p *Payload) Manifests() (fs.FS, error) {
	if _, err := fs.Stat(p.fsys, "manifests"); err != nil {
		return nil, ErrNotBuilt
	}
	return fs.Sub(p.fsys, "manifests")
}

// Files lists what the payload in this program holds; see Payload.Files.
func Files() ([]File, error) {
	p, err := Embedded()
	if err != nil {
		return nil, err
	}
	return p.Files(), nil
}

// Manifests is the tree of manifests in this program; see Payload.Manifests.
func Manifests() (fs.FS, error) {
	p, err := Embedded()
	if err != nil {
		return nil, err
	}
	return p.Manifests()
}

// Unpack brings files of the payload in this program into dir; see Payload.Unpack.
func Unpack(dir string, names ...string) error {
	p, err := Embedded()
	if err != nil {
		return err
	}
	return p.Unpack(dir, names...)
}
