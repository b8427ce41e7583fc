package kubelet

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxEnvFile bounds what is read of a file that a container has written.
const maxEnvFile = 1 << 20

// errEnvFile says no more: the file may hold secrets, and its path is the node's.
var errEnvFile = errors.New("couldn't parse env file")

// fromFile resolves a reference to a line of a file in one of the pod's volumes,
// which an init container may have written. Whoever wrote it does not choose
// what is read: no link leads out of the volume.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_pods.go makeEnvironmentVariables.
func (f podFacts) fromFile(ref *corev1.FileKeySelector) (value string, found bool, err error) {
	volume, known := f.volumes[ref.VolumeName]
	if !known || volume.path == "" || volume.block {
		return "", false, fmt.Errorf("cannot find the volume %q referenced by FileKeyRef", ref.VolumeName)
	}
	file, err := os.OpenInRoot(volume.path, ref.Path)
	if err != nil {
		return "", false, errEnvFile
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", false, errEnvFile
	}
	text, err := io.ReadAll(io.LimitReader(file, maxEnvFile))
	if err == nil {
		value, err = envFileValue(string(text), ref.Key)
	}
	if err != nil {
		return "", false, errEnvFile
	}
	if value == "" && !isTrue(ref.Optional) {
		return "", false, fmt.Errorf("environment variable key %q not found in file %q", ref.Key, volume.path+"/"+ref.Path)
	}
	return value, value != "", nil
}

// envFileValue finds NAME='value' in a file of such assignments: a shell can
// read it, too, and nothing in it is ever expanded. A value may have newlines.
// Lines before the one that is found must be well-formed, later ones are not read.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/util/env ParseEnv.
func envFileValue(text, key string) (string, error) {
	for text != "" {
		line, _, _ := strings.Cut(text, "\n")
		if line = strings.TrimLeft(line, " \t\r"); line == "" || line[0] == '#' {
			_, text, _ = strings.Cut(text, "\n")
			continue
		}
		name, _, assigned := strings.Cut(line, "=")
		if !assigned || name == "" || strings.TrimRight(name, " \t") != name {
			return "", fmt.Errorf("not an assignment: %.60q", line)
		}
		_, text, _ = strings.Cut(text, "=")
		value := ""
		switch {
		case strings.HasPrefix(text, "'"):
			var closed bool
			if value, text, closed = strings.Cut(text[1:], "'"); !closed {
				return "", fmt.Errorf("the value of %s has no end", name)
			}
			var after string
			after, text, _ = strings.Cut(text, "\n")
			if after = strings.TrimLeft(after, " \t\r"); after != "" && after[0] != '#' {
				return "", fmt.Errorf("more than the value of %s", name)
			}
		case strings.HasPrefix(text, " "), strings.HasPrefix(text, "\t"):
			_, text, _ = strings.Cut(text, "\n") // nothing is assigned, as in a shell
		default:
			return "", fmt.Errorf("the value of %s is not in single quotes", name)
		}
		if name == key {
			return value, nil
		}
	}
	return "", nil
}
