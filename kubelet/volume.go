package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Volumes live below the pod's own directory, so that everything a pod ever
// had can be found again, and taken away, with nothing but its UID:
//
//	<root>/pods/<uid>/volumes/kubernetes.io~<kind>/<volume>   the volume
//	                  volume-subpaths/<volume>/<container>/<n> bind of a subPath
//	                  containers/<container>/<hash>            termination message
//	                  etc-hosts                                /etc/hosts
//
// setUp is called again and again while the pod lives and changes only what
// differs; tearDown reads the mount table, not memory.
//
// Simplified: hostPath, emptyDir, configMap, secret, downwardAPI, projected,
// images, claims and CSI. A pod with any other volume waits with a FailedMount event that says so.
type volumes struct {
	rootDir string
	objects objectReader
	tokens  *tokens
	// defaultTmpfsBytes bounds memory volumes that say nothing themselves.
	defaultTmpfsBytes int64
	csi               *csiVolumes
	metrics           *metrics
}

// mountedVolume is a volume ready to be mounted into containers.
type mountedVolume struct {
	path     string
	readOnly bool // content that only the kubelet may write
	block    bool // a device: for volumeDevices, not volumeMounts
	// image is instead of all that: the runtime shows what is in it. It is nil
	// until the image is on the node (bringup.go).
	image *runtimeapi.ImageSpec
}

func (v *volumes) podDir(uid types.UID) string {
	return filepath.Join(v.rootDir, "pods", string(uid))
}

func (v *volumes) dir(uid types.UID, kind, name string) string {
	return filepath.Join(v.podDir(uid), "volumes", "kubernetes.io~"+kind, name)
}

// setUp makes every volume of the pod, or brings it up to date.
func (v *volumes) setUp(ctx context.Context, f podFacts) (map[string]mountedVolume, error) {
	mounted := map[string]mountedVolume{}
	for i := range f.pod.Spec.Volumes {
		volume := &f.pod.Spec.Volumes[i]
		began := time.Now()
		one, err := v.setUpOne(ctx, f, volume)
		since(v.metrics.volumeTime.WithLabelValues("false", "volume_mount", map[bool]string{true: "success", false: "fail-unknown"}[err == nil], volumePlugin(volume)), began)
		if said := (told{}); errors.As(err, &said) {
			return nil, err
		} else if err != nil {
			return nil, failed("MountVolume.SetUp", volume.Name, err)
		}
		mounted[volume.Name] = one
	}
	return mounted, nil
}

// withUsedVolumes is the pod without the volumes that none of its containers
// asks for: it does not wait for those.
//
// Upstream: kubernetes@v1.36 pkg/volume/util GetPodVolumeNames.
func withUsedVolumes(pod *corev1.Pod) *corev1.Pod {
	used := map[string]bool{}
	for _, c := range allContainers(pod) {
		for _, m := range c.VolumeMounts {
			used[m.Name] = true
		}
		for _, d := range c.VolumeDevices {
			used[d.Name] = true
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.FileKeyRef != nil {
				used[e.ValueFrom.FileKeyRef.VolumeName] = true
			}
		}
	}
	out := *pod
	out.Spec.Volumes = slices.DeleteFunc(slices.Clone(pod.Spec.Volumes), func(v corev1.Volume) bool { return !used[v.Name] })
	return &out
}

func (v *volumes) setUpOne(ctx context.Context, f podFacts, volume *corev1.Volume) (mountedVolume, error) {
	source, path := volume.VolumeSource, ""
	switch {
	case source.HostPath != nil:
		return mountedVolume{path: source.HostPath.Path}, setUpHostPath(source.HostPath)
	case source.EmptyDir != nil, source == corev1.VolumeSource{}:
		path = v.dir(f.pod.UID, "empty-dir", volume.Name)
		return mountedVolume{path: path}, v.setUpEmptyDir(path, f.pod, source.EmptyDir)
	case source.PersistentVolumeClaim != nil, source.Ephemeral != nil:
		return v.setUpClaim(ctx, f.pod, volume)
	case source.CSI != nil:
		return v.csi.ensure(ctx, f.pod, volume.Name, isTrue(source.CSI.ReadOnly), func() (csiVolume, error) {
			return inlineCSI(f.pod, volume.Name, v.csi.nodeName, source.CSI), nil
		})
	case source.Image != nil:
		return mountedVolume{readOnly: true}, nil
	case source.ConfigMap != nil:
		path = v.dir(f.pod.UID, "configmap", volume.Name)
	case source.Secret != nil:
		path = v.dir(f.pod.UID, "secret", volume.Name)
	case source.DownwardAPI != nil:
		path = v.dir(f.pod.UID, "downward-api", volume.Name)
	case source.Projected != nil:
		path = v.dir(f.pod.UID, "projected", volume.Name)
	default:
		return mountedVolume{}, fmt.Errorf("this kind of volume is not supported yet")
	}
	// What may be secret never reaches a disk.
	if source.ConfigMap == nil {
		if err := ensureTmpfs(path, v.defaultTmpfsBytes); err != nil {
			return mountedVolume{}, err
		}
	}
	return mountedVolume{path: path, readOnly: true}, v.setUpPayload(ctx, f, volume, path)
}

// setUpPayload writes what the API server knows into the volume. If it cannot
// be asked, a volume that has content keeps it: the pod goes on living.
func (v *volumes) setUpPayload(ctx context.Context, f podFacts, volume *corev1.Volume, path string) error {
	payload, err := v.payload(ctx, f, volume)
	if err != nil {
		if _, populated := os.Lstat(filepath.Join(path, dataLink)); populated == nil {
			return nil
		}
		return err
	}
	return writePayload(path, payload, fsGroup(f.pod))
}

func setUpHostPath(source *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	want, checked := hostPathTypes[kind]
	info, err := os.Stat(source.Path)
	switch {
	case !checked: // the runtime creates a missing directory
		return nil
	case err != nil && kind == corev1.HostPathDirectoryOrCreate:
		return os.MkdirAll(source.Path, 0o755)
	case err != nil && kind == corev1.HostPathFileOrCreate:
		file, err := os.OpenFile(source.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err == nil {
			file.Close()
		}
		return err
	case err != nil, info.Mode().Type() != want.mode:
		return fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, want.noun)
	}
	return nil
}

// hostPathTypes is what must be at the path of each type.
var hostPathTypes = map[corev1.HostPathType]struct {
	mode fs.FileMode
	noun string
}{
	corev1.HostPathDirectoryOrCreate: {fs.ModeDir, "directory"}, corev1.HostPathDirectory: {fs.ModeDir, "directory"},
	corev1.HostPathFileOrCreate: {0, "file"}, corev1.HostPathFile: {0, "file"}, corev1.HostPathSocket: {fs.ModeSocket, "socket file"},
	corev1.HostPathCharDev: {fs.ModeDevice | fs.ModeCharDevice, "character device"}, corev1.HostPathBlockDev: {fs.ModeDevice, "block device"},
}

// setUpEmptyDir makes the directory once; it then belongs to the containers.
//
// Simplified: sizeLimit bounds memory volumes only; on disk it would need
// eviction by usage.
func (v *volumes) setUpEmptyDir(path string, pod *corev1.Pod, source *corev1.EmptyDirVolumeSource) error {
	if source != nil && source.Medium == corev1.StorageMediumMemory {
		if err := ensureTmpfs(path, v.tmpfsBytes(pod, source)); err != nil {
			return err
		}
	} else if source != nil && source.Medium != corev1.StorageMediumDefault {
		return fmt.Errorf("emptyDir medium %q is not supported yet", source.Medium)
	}
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	group := fsGroup(pod)
	if group == nil {
		return os.Chmod(path, 0o777) // undo the umask
	}
	if err := os.Lchown(path, -1, int(*group)); err != nil {
		return err
	}
	return os.Chmod(path, 0o777|fs.ModeSetgid)
}

func (v *volumes) tmpfsBytes(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource) int64 {
	size := v.defaultTmpfsBytes
	limits := podLimits(pod)
	if limit := limits.Memory().Value(); limit > 0 {
		size = limit
	}
	if source.SizeLimit != nil && source.SizeLimit.Value() > 0 {
		size = min(size, source.SizeLimit.Value())
	}
	return size
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// tearDown unmounts and removes the pod's volumes; with all set, everything
// else the pod has on disk as well.
func (v *volumes) tearDown(ctx context.Context, uid types.UID, all bool) error {
	base := v.podDir(uid)
	mounts, err := mountsBelow(base)
	if err != nil {
		return err
	}
	// What a driver has mounted, it unmounts.
	drivers := filepath.Join(base, "volumes", "kubernetes.io~csi")
	mounts = slices.DeleteFunc(mounts, func(path string) bool { return strings.HasPrefix(path, drivers+"/") })
	// Deepest first: a mount may lie on a mount.
	slices.SortFunc(mounts, func(a, b string) int { return strings.Compare(b, a) })
	for _, m := range mounts {
		if err := unmount(m); err != nil {
			return fmt.Errorf("unmount %s: %w", m, err)
		}
	}
	if err := v.csi.tearDown(ctx, uid); err != nil {
		return err
	}
	// Invariant: nothing is removed while anything is mounted below it: a
	// bind of a subPath is the user's data, not ours.
	if mounts, err = mountsBelow(base); err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%s is still mounted", mounts[0])
	}
	if all {
		return os.RemoveAll(base)
	}
	for _, part := range []string{"volumes", "volumeDevices", "volume-subpaths"} {
		if err := os.RemoveAll(filepath.Join(base, part)); err != nil {
			return err
		}
	}
	return nil
}

// podsOnDisk lists every pod that has a directory, alive or not.
func (v *volumes) podsOnDisk() (uids []types.UID) {
	for _, dir := range children(filepath.Join(v.rootDir, "pods")) {
		uids = append(uids, types.UID(filepath.Base(dir)))
	}
	return uids
}
