package kubelet

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/cgroup"
)

// What a node and its pods use: the numbers behind eviction, image collection
// and /stats/summary. Memory and processes come from the kernel's own books
// (cgroups, /proc), containers from the runtime, files from counting them.

// imageDisk is where the runtime keeps images and containers' own files.
type imageDisk struct {
	mu   sync.Mutex // guards path
	path string     // "" until the runtime has said
}

// imageFs is the directory of the runtime's images. A runtime that names none
// shares the kubelet's disk.
func (k *Kubelet) imageFs(ctx context.Context) string {
	k.images.mu.Lock()
	defer k.images.mu.Unlock()
	if k.images.path != "" {
		return k.images.path
	}
	answer, err := k.runtime.images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(answer.ImageFilesystems) == 0 {
		return k.cfg.RootDir // asked again next time
	}
	k.images.path = answer.ImageFilesystems[0].GetFsId().GetMountpoint()
	return k.images.path
}

// dedicatedImageFs says whether images lie on another disk than pods' files.
func (k *Kubelet) dedicatedImageFs(ctx context.Context) bool {
	var own, images unix.Stat_t
	return unix.Stat(k.cfg.RootDir, &own) == nil && unix.Stat(k.imageFs(ctx), &images) == nil && own.Dev != images.Dev
}

// partsOf says which of a pod's files count when a filesystem is short.
func (k *Kubelet) partsOf(s signal) fsPart {
	if !k.dedicatedImageFs(context.Background()) {
		return fsPart{rootfs: true, logsAndVolumes: true}
	}
	onNodeFs := s == nodeFsAvailable || s == nodeFsInodesFree
	return fsPart{rootfs: !onNodeFs, logsAndVolumes: onNodeFs}
}

// observeNode reads every signal that can be read.
func (k *Kubelet) observeNode(ctx context.Context) map[signal]observation {
	if k.observe != nil {
		return k.observe()
	}
	out := map[signal]observation{}
	if capacity := k.capacity.Memory().Value(); capacity > 0 {
		if used, err := k.cgroups.workingSet(""); err == nil {
			out[memoryAvailable] = observation{max(capacity-used, 0), capacity}
		}
	}
	// Full for the pods, though perhaps not for the system.
	if limit := k.podsLimit(); k.cgroups.enabled && limit > 0 {
		if used, err := k.cgroups.workingSet("kubepods"); err == nil {
			out[allocatableMemoryAvailable] = observation{max(limit-used, 0), limit}
		}
	}
	disk := func(path string, space, inodes signal) {
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err != nil {
			return
		}
		out[space] = observation{int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize}
		if s.Files > 0 { // some filesystems count no inodes
			out[inodes] = observation{int64(s.Ffree), int64(s.Files)}
		}
	}
	disk(k.cfg.RootDir, nodeFsAvailable, nodeFsInodesFree)
	images := k.imageFs(ctx)
	disk(images, imageFsAvailable, imageFsInodesFree)
	disk(images, containerFsAvailable, containerFsInodesFree)
	if running, most, err := processes(); err == nil {
		out[pidAvailable] = observation{most - running, most}
	}
	return out
}

// processes reads how many threads the machine has and may have.
func processes() (running, most int64, err error) {
	raw, err := os.ReadFile("/proc/loadavg") // 0.1 0.2 0.3 running/all last
	if err != nil {
		return 0, 0, err
	}
	if fields := strings.Fields(string(raw)); len(fields) > 3 {
		_, all, _ := strings.Cut(fields[3], "/")
		if running, err = strconv.ParseInt(all, 10, 64); err != nil {
			return 0, 0, err
		}
	}
	for _, file := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		n, err := readNumber(file)
		if err != nil {
			return 0, 0, err
		}
		if most == 0 || n < most {
			most = n
		}
	}
	return running, most, nil
}

// workingSet is the memory of a group below the node's own that the kernel
// cannot simply take back: all but files that nobody touched for long.
func (t *cgroupTree) workingSet(path string) (int64, error) {
	if group := filepath.Join(t.root, path); group != "/" {
		used, err := cgroup.Read(group, t.v2)
		if err == nil && used.Memory == 0 {
			err = errors.New("the kernel does not count this group's memory, or there is none in it")
		}
		return int64(used.WorkingSet), err
	}
	machine := cgroup.Table("/proc", "meminfo") // in KiB
	if machine["MemTotal:"] == 0 {
		return 0, errors.New("/proc/meminfo does not say how much memory there is")
	}
	return max(int64(machine["MemTotal:"])-int64(machine["MemFree:"])-int64(machine["Inactive(file):"]), 0) << 10, nil
}

func readNumber(file string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}

// podUsages measures pods. Counting files is dear, so only when asked for.
func (k *Kubelet) podUsages(ctx context.Context, pods []*corev1.Pod, disk bool) map[types.UID]podUsage {
	out := map[types.UID]podUsage{}
	answer, err := k.runtime.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		k.log.Warn("usage of the pods", "err", message(err))
		return out
	}
	for _, s := range answer.Stats {
		uid := types.UID(s.GetAttributes().GetLabels()[labelPodUID])
		use := podUsage{known: true, processes: int64(s.GetLinux().GetProcess().GetProcessCount().GetValue())}
		for _, c := range s.GetLinux().GetContainers() {
			use.containers = append(use.containers, containerUse{
				name:   c.GetAttributes().GetLabels()[labelContainerName],
				memory: int64(c.GetMemory().GetWorkingSetBytes().GetValue()),
				rootfs: fsUse{int64(c.GetWritableLayer().GetUsedBytes().GetValue()), int64(c.GetWritableLayer().GetInodesUsed().GetValue())}})
		}
		out[uid] = use
	}
	for _, pod := range pods {
		if use := out[pod.UID]; disk && use.known {
			k.addFiles(pod, &use)
			out[pod.UID] = use
		}
	}
	return out
}

// addFiles counts a pod's logs and the volumes that lie on the node's disk.
func (k *Kubelet) addFiles(pod *corev1.Pod, use *podUsage) {
	logs := k.logDir(pod)
	for i := range use.containers {
		use.containers[i].logs = countFiles(filepath.Join(logs, use.containers[i].name))
	}
	use.volumes = map[string]fsUse{}
	for _, v := range pod.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			use.volumes[v.Name] = countFiles(k.volumes.dir(pod.UID, "empty-dir", v.Name))
		}
	}
}

// countFiles adds up what lies below a directory, as du does: blocks, not
// lengths, and a file with two names once. Whatever cannot be read is nothing:
// it may have gone meanwhile.
func countFiles(dir string) fsUse {
	var use fsUse
	linked := map[uint64]bool{}
	root := uint64(0)
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if root == 0 {
			root = stat.Dev
		}
		if stat.Dev != root { // another disk is mounted there
			if entry.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if stat.Nlink > 1 && !entry.IsDir() {
			if linked[stat.Ino] {
				return nil
			}
			linked[stat.Ino] = true
		}
		use.bytes += stat.Blocks * 512
		use.inodes++
		return nil
	})
	return use
}
