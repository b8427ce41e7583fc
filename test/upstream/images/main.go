// Command images builds the two images that flannel's own manifest names, as
// archives for `tinykube node load`:
//
//	images -flanneld bin/upstream/flanneld -plugin bin/payload/cni -cp bin/upstream/cp DIR
//
// The one holds the flanneld that is given and this machine's iptables, which
// flanneld runs; the other the CNI plugin flannel that is given. So the manifest
// runs as it is, and nothing is pulled.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"tinykube/internal/image"
)

func main() {
	var flanneld, plugin, cp string
	flannelName := flag.String("flannel-image", "ghcr.io/flannel-io/flannel:v0.28.9", "name of the image with flanneld")
	pluginName := flag.String("plugin-image", "ghcr.io/flannel-io/flannel-cni-plugin:v1.9.1-flannel3", "name of the image with the CNI plugin")
	flag.StringVar(&flanneld, "flanneld", "", "the program flanneld")
	flag.StringVar(&plugin, "plugin", "", "the CNI plugin flannel")
	flag.StringVar(&cp, "cp", "", "the program beside this one's folder")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	program := func(path, source string) image.File { return image.File{Path: path, Mode: 0o755, Source: source} }
	iptables, err := iptablesLayer()
	for _, spec := range []image.Spec{
		{
			Name:   *flannelName,
			Layers: []image.Layer{image.Base(), iptables, {program("/opt/bin/flanneld", flanneld), program("/opt/bin/install-conf", cp)}},
			Config: v1.Config{Entrypoint: []string{"/opt/bin/flanneld"}, Env: []string{image.DefaultPath}, WorkingDir: "/"},
		},
		{
			Name:   *pluginName,
			Layers: []image.Layer{image.Base(), {program("/flannel", plugin), program("/bin/cp", cp)}},
			Config: v1.Config{Env: []string{image.DefaultPath}, WorkingDir: "/"},
		},
	} {
		if err == nil {
			err = write(flag.Arg(0), spec)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func write(dir string, spec image.Spec) error {
	built, err := image.Build(spec)
	if err != nil {
		return err
	}
	path, err := image.WriteArchive(dir, spec.Name, built)
	if err == nil {
		fmt.Println(path)
	}
	return err
}

// sharedObject finds paths in what ldd prints.
var sharedObject = regexp.MustCompile(`(/\S+) \(0x`)

// iptablesLayer is this machine's iptables, in the flavour that it uses, with
// the libraries that it is linked against and the extensions that it loads.
func iptablesLayer() (image.Layer, error) {
	program, err := exec.LookPath("iptables")
	if err != nil {
		return nil, err
	}
	if program, err = filepath.EvalSymlinks(program); err != nil {
		return nil, err
	}
	linked, err := exec.Command("ldd", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", program, err)
	}
	var extensions []string
	for _, folder := range []string{"/usr/lib/*/xtables/*.so", "/usr/lib/xtables/*.so", "/usr/lib64/xtables/*.so"} {
		found, err := filepath.Glob(folder)
		if err != nil {
			return nil, err
		}
		extensions = append(extensions, found...)
	}
	if len(extensions) == 0 {
		return nil, errors.New("the extensions of iptables are not in any folder that is known")
	}
	layer := image.Layer{{Path: "/usr/sbin/" + filepath.Base(program), Mode: 0o755, Source: program}}
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
		layer = append(layer, image.File{Path: "/usr/sbin/" + name, Symlink: filepath.Base(program)})
	}
	for _, match := range sharedObject.FindAllStringSubmatch(string(linked), -1) {
		extensions = append(extensions, match[1])
	}
	for _, path := range extensions {
		layer = append(layer, image.File{Path: path, Mode: 0o755, Source: path})
	}
	return layer, nil
}
