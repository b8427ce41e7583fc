package image

import (
	"io/fs"
	"path"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// selfPath is where this program lies in its own image.
const selfPath = "/bin/tinykube"

// Self describes an image, to be called name, that holds the running program and, in /usr/local/bin, a link for each
// of commands: the program looks at the name by which it was started to know which component it is, so a manifest
// that says `command: [kube-apiserver, …]` works as it does with upstream's images.
//
// The program is read from /proc/self/exe: that is the file which is running, even after a newer build has replaced it
// on disk.
func Self(name string, commands []string) Spec {
	program := Layer{{Path: selfPath, Mode: 0o755, Source: "/proc/self/exe"}}
	links := Layer{}
	for _, command := range slices.Sorted(slices.Values(commands)) {
		links = append(links, File{Path: path.Join("/usr/local/bin", command), Symlink: selfPath})
	}
	return Spec{
		Name:   name,
		Layers: []Layer{Base(), program, links},
		Config: v1.Config{Env: []string{DefaultPath}, WorkingDir: "/", Entrypoint: []string{selfPath}},
	}
}

// DefaultPath is the PATH of our images.
const DefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Base is the lowest layer of our images: the files a program expects of any system, whoever it runs as. The kubelet
// and the CRI server mount /etc/hosts, /etc/hostname and /etc/resolv.conf over whatever an image has.
func Base() Layer {
	return Layer{
		{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\napp:x:100:101:app:/home/app:/sbin/nologin\n" +
			"nobody:x:65534:65534:nobody:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n")},
		{Path: "/etc/group", Data: []byte("root:x:0:root\napp:x:101:app\nnobody:x:65534:\nnonroot:x:65532:\n")},
		{Path: "/etc/nsswitch.conf", Data: []byte("hosts: files dns\n")},
		{Path: "/root", Dir: true, Mode: 0o700},
		{Path: "/tmp", Dir: true, Mode: 0o777 | fs.ModeSticky},
		{Path: "/var/tmp", Dir: true, Mode: 0o777 | fs.ModeSticky},
		{Path: "/run", Dir: true},
	}
}
