package kubelet

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerInput is all that a container's configuration is made of.
type containerInput struct {
	facts     podFacts
	container *corev1.Container
	attempt   uint32
	image     *runtimeapi.Image
	volumes   map[string]mountedVolume
	handler   string // of the sandbox
	target    string // container whose process namespace to join (debugging)
}

// containerConfig describes one container to the runtime. An error here is a
// CreateContainerConfigError: the pod asks for something that is not there.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kuberuntime generateContainerConfig.
func (k *Kubelet) containerConfig(ctx context.Context, in containerInput) (*runtimeapi.ContainerConfig, error) {
	pod, c := in.facts.pod, in.container
	services, err := k.servicesFor(pod)
	if err != nil {
		return nil, err
	}
	env, err := environment(ctx, in.facts, c, k.objects, services)
	if err != nil {
		return nil, err
	}
	mounts, err := k.containerMounts(in, env)
	if err != nil {
		return nil, err
	}
	devices, err := blockDevices(in)
	if err != nil {
		return nil, err
	}
	userns, err := k.userNamespace(pod, in.handler)
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		m.UidMappings, m.GidMappings = userns.GetUids(), userns.GetGids()
	}
	security, err := k.containerSecurity(pod, c, in.image, userns)
	if err != nil {
		return nil, err
	}
	if in.target != "" {
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = in.target
	}
	logPath := containerLogPath(c.Name, in.attempt)
	if err := os.MkdirAll(filepath.Join(k.logDir(pod), filepath.Dir(logPath)), 0o755); err != nil {
		return nil, err
	}
	labels := podLabels(pod)
	labels[labelContainerName] = c.Name
	return &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.image.Id, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, env),
		Args:        expandAll(c.Args, env),
		WorkingDir:  c.WorkingDir,
		Envs:        sortedEnv(env),
		Mounts:      mounts,
		Devices:     devices,
		Labels:      labels,
		Annotations: containerAnnotations(pod, c, in.attempt),
		LogPath:     logPath,
		Stdin:       c.Stdin, StdinOnce: c.StdinOnce, Tty: c.TTY,
		StopSignal: stopSignal(c),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: k.containerResources(pod, c), SecurityContext: security},
	}, nil
}

// stopSignal is the container's own choice; else the image's counts.
func stopSignal(c *corev1.Container) runtimeapi.Signal {
	if c.Lifecycle == nil || c.Lifecycle.StopSignal == nil {
		return runtimeapi.Signal_RUNTIME_DEFAULT
	}
	return runtimeapi.Signal(runtimeapi.Signal_value[string(*c.Lifecycle.StopSignal)])
}

// containerAnnotations is what a later kubelet must know of this container
// even if the pod itself is forgotten by then.
func containerAnnotations(pod *corev1.Pod, c *corev1.Container, attempt uint32) map[string]string {
	out := map[string]string{
		annotationHash:              containerHash(c),
		annotationRestartCount:      strconv.Itoa(int(attempt)),
		annotationTerminationPath:   terminationPath(c),
		annotationTerminationPolicy: string(c.TerminationMessagePolicy),
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		out[annotationGracePeriod] = strconv.FormatInt(*pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	return out
}

func terminationPath(c *corev1.Container) string {
	if c.TerminationMessagePath == "" {
		return corev1.TerminationMessagePathDefault
	}
	return c.TerminationMessagePath
}

// containerLogPath is relative to the pod's log directory.
func containerLogPath(name string, attempt uint32) string {
	return filepath.Join(name, strconv.Itoa(int(attempt))+".log")
}

// nextAttempt numbers a new life of a container. The runtime remembers the
// last one; if even that is collected, the log files do.
func (k *Kubelet) nextAttempt(pod *corev1.Pod, name string, seen *observedPod) uint32 {
	if latest := seen.latest(name); latest != nil {
		if latest.State == runtimeapi.ContainerState_CONTAINER_CREATED {
			return latest.attempt() // it never lived; create removes it
		}
		return latest.attempt() + 1
	}
	next := uint32(0)
	entries, _ := os.ReadDir(filepath.Join(k.logDir(pod), name)) // no directory: no earlier life
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), ".log")
		if n, err := strconv.ParseUint(number, 10, 32); err == nil && uint32(n)+1 > next {
			next = uint32(n) + 1
		}
	}
	return next
}

// containerMounts lists volumes, /etc/hosts and the termination message.
func (k *Kubelet) containerMounts(in containerInput, env map[string]string) ([]*runtimeapi.Mount, error) {
	pod, c := in.facts.pod, in.container
	var out []*runtimeapi.Mount
	ownsHosts := true
	for i, m := range c.VolumeMounts {
		volume, found := in.volumes[m.Name]
		if !found {
			return nil, fmt.Errorf("volume mount %q names a volume that the pod does not have", m.Name)
		}
		if volume.block {
			return nil, fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", m.Name)
		}
		subPath, err := expandSubPath(m, env)
		if err != nil {
			return nil, err
		}
		if volume.image != nil {
			out = append(out, &runtimeapi.Mount{ContainerPath: absolute(m.MountPath), Image: volume.image, ImageSubPath: subPath, Readonly: true})
			continue
		}
		recursive, err := recursiveReadOnly(m, k.node.supports(in.handler).recursiveReadOnly)
		if err != nil {
			return nil, err
		}
		source := volume.path
		if subPath != "" {
			target := filepath.Join(k.volumes.podDir(pod.UID), "volume-subpaths", m.Name, c.Name, strconv.Itoa(i))
			if err := bindSubPath(source, subPath, target); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
			}
			source = target
		}
		if m.MountPath == "/etc/hosts" {
			ownsHosts = false
		}
		out = append(out, &runtimeapi.Mount{
			ContainerPath:     absolute(m.MountPath),
			HostPath:          source,
			Readonly:          m.ReadOnly || volume.readOnly,
			RecursiveReadOnly: recursive,
			Propagation:       propagation(m.MountPropagation),
		})
	}
	if ownsHosts {
		path, err := k.writeHostsFile(pod, in.facts.podIPs)
		if err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	path, err := k.terminationFile(pod, c, in.attempt)
	if err != nil {
		return nil, err
	}
	return append(out, &runtimeapi.Mount{ContainerPath: terminationPath(c), HostPath: path}), nil
}

// expandSubPath is the part of its volume that a mount wants. A variable that is
// not there would be a part that nobody asked for.
func expandSubPath(m corev1.VolumeMount, env map[string]string) (string, error) {
	subPath, missing := m.SubPath, []string(nil)
	if m.SubPathExpr != "" {
		subPath = expand(m.SubPathExpr, func(name string) (string, bool) {
			if env[name] == "" {
				missing = append(missing, name)
			}
			return env[name], true
		})
	}
	slices.Sort(missing)
	switch {
	case len(missing) > 0:
		return "", fmt.Errorf("missing value for %s", strings.Join(slices.Compact(missing), ", "))
	case filepath.IsAbs(subPath):
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", subPath)
	case slices.Contains(strings.Split(subPath, "/"), ".."):
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", subPath)
	}
	return subPath, nil
}

// recursiveReadOnly says whether what is mounted below a read-only mount is
// read-only too, which not every runtime can do.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_pods.go resolveRecursiveReadOnly.
func recursiveReadOnly(m corev1.VolumeMount, supported bool) (bool, error) {
	switch mode := m.RecursiveReadOnly; {
	case mode == nil || *mode == corev1.RecursiveReadOnlyDisabled:
		return false, nil
	case !m.ReadOnly:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not read-only", m.Name)
	case m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not compatible with propagation %q", m.Name, *m.MountPropagation)
	case !supported && *mode == corev1.RecursiveReadOnlyEnabled:
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
	}
	return supported, nil
}

// blockDevices lists the volumes that a container gets as devices.
//
// Upstream: kubernetes@v1.36 pkg/kubelet kubelet_pods.go makeBlockVolumes.
func blockDevices(in containerInput) (out []*runtimeapi.Device, err error) {
	for _, d := range in.container.VolumeDevices {
		volume, found := in.volumes[d.Name]
		switch {
		case !found:
			return nil, fmt.Errorf("volume device %q names a volume that the pod does not have", d.Name)
		case !volume.block:
			return nil, fmt.Errorf("volume %s has volumeMode Filesystem, but is specified in volumeDevices", d.Name)
		}
		permissions := "mrw"
		if volume.readOnly {
			permissions = "r"
		}
		out = append(out, &runtimeapi.Device{HostPath: volume.path, ContainerPath: d.DevicePath, Permissions: permissions})
	}
	return out, nil
}

// terminationFile makes the file in which a container may leave its last words.
func (k *Kubelet) terminationFile(pod *corev1.Pod, c *corev1.Container, attempt uint32) (string, error) {
	dir := filepath.Join(k.volumes.podDir(pod.UID), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%s/%d", pod.UID, attempt)
	path := filepath.Join(dir, fmt.Sprintf("%08x", h.Sum32()))
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return "", err
	}
	return path, os.Chmod(path, 0o666) // whoever the container runs as
}

func propagation(p *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if p != nil {
		switch *p {
		case corev1.MountPropagationBidirectional:
			return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		case corev1.MountPropagationHostToContainer:
			return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		}
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

func absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return "/" + path
}
