package payload

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"tinykube/internal/image"
)

// Archive is an image in the form in which a node imports it.
type Archive struct {
	Name string // the image's full reference
	Path string // an OCI archive
}

// WriteImages composes the images that the payload carries and leaves their archives in dir. What is there already is
// left alone, so it is cheap to call again.
func (p *Payload) WriteImages(dir string) ([]Archive, error) {
	specs, err := p.Images(filepath.Join(dir, "files"))
	if err != nil {
		return nil, err
	}
	var archives []Archive
	for _, spec := range specs {
		archive, err := WriteImage(dir, spec)
		if err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// WriteImages composes the images in this program's payload; see Payload.WriteImages.
func WriteImages(dir string) ([]Archive, error) {
	p, err := Embedded()
	if err != nil {
		return nil, err
	}
	return p.WriteImages(dir)
}

// WriteImage builds one image, for example image.Self's, and leaves its archive in dir. Like Unpack, it may be called by
// any number of processes at a time.
func WriteImage(dir string, spec image.Spec) (Archive, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Archive{}, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return Archive{}, err
	}
	defer unlock()
	built, err := image.Build(spec)
	if err != nil {
		return Archive{}, err
	}
	path, err := image.WriteArchive(dir, spec.Name, built)
	return Archive{Name: spec.Name, Path: path}, err
}

// Images unpacks the programs of the payload's images into dir and says how the images are made of them.
func (p *Payload) Images(dir string) ([]image.Spec, error) {
	if err := p.Unpack(dir, "pause", "coredns", "podinfo", "podcli", "podinfo.vue.html", "tools", "tools.commands"); err != nil {
		return nil, err
	}
	commands, err := os.ReadFile(filepath.Join(dir, "tools.commands"))
	if err != nil {
		return nil, err
	}
	tools, err := toolsLayer(filepath.Join(dir, "tools"), string(commands))
	if err != nil {
		return nil, err
	}
	program := func(path, name string) image.File {
		return image.File{Path: path, Mode: 0o755, Source: filepath.Join(dir, name)}
	}
	env := []string{image.DefaultPath}
	return []image.Spec{
		{
			Name:   image.Pause,
			Layers: []image.Layer{{program("/pause", "pause")}},
			Config: v1.Config{Entrypoint: []string{"/pause"}, Env: env, User: "65535:65535", WorkingDir: "/"},
		},
		{
			// Upstream's image runs as a user and gives the file the capability to bind port 53; a layer of ours
			// carries no extended attributes, so it runs as root and the manifest drops everything else.
			Name:   image.CoreDNS,
			Layers: []image.Layer{image.Base(), {program("/coredns", "coredns")}},
			Config: v1.Config{Entrypoint: []string{"/coredns"}, Env: env, WorkingDir: "/",
				ExposedPorts: map[string]struct{}{"53/tcp": {}, "53/udp": {}}},
		},
		{
			Name: image.Podinfo,
			Layers: []image.Layer{image.Base(), tools, {
				{Path: "/home/app", Dir: true, UID: 100, GID: 101},
				{Path: "/home/app/podinfo", Mode: 0o755, UID: 100, GID: 101, Source: filepath.Join(dir, "podinfo")},
				{Path: "/home/app/ui", Dir: true, UID: 100, GID: 101},
				{Path: "/home/app/ui/vue.html", UID: 100, GID: 101, Source: filepath.Join(dir, "podinfo.vue.html")},
				program("/usr/local/bin/podcli", "podcli"),
			}},
			// Upstream: podinfo@6.9.2 Dockerfile.
			Config: v1.Config{Cmd: []string{"./podinfo"}, Env: env, User: "app", WorkingDir: "/home/app"},
		},
		{
			Name:   image.Tools,
			Layers: []image.Layer{image.Base(), tools},
			Config: v1.Config{Cmd: []string{"sh"}, Env: env, WorkingDir: "/"},
		},
	}, nil
}

// toolsLayer is the shell and its commands: one program under many names, listed one per line, by import path or just
// by name. A line `name = text` makes a command that is spelt in shell; it takes the place of a program's of that name,
// which `tools name` still reaches.
func toolsLayer(program, commands string) (image.Layer, error) {
	files := map[string]image.File{}
	for line := range strings.Lines(commands) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, script, isScript := strings.Cut(line, " = ")
		name = name[strings.LastIndex(name, "/")+1:]
		if strings.ContainsAny(name, " \t") || name == "" {
			return nil, fmt.Errorf("list of tools: cannot read %q", line)
		}
		file := image.File{Path: "/bin/" + name, Symlink: "tools"}
		if isScript {
			file = image.File{Path: "/bin/" + name, Mode: 0o755, Data: []byte("#!/bin/sh\n" + script + "\n")}
		}
		files[name] = file
	}
	layer := image.Layer{{Path: "/bin/tools", Mode: 0o755, Source: program}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		layer = append(layer, files[name])
	}
	return layer, nil
}
