package kubelet

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
)

// Images are a cache: they can be pulled again. When their disk is fuller than
// the high threshold, those that no container uses go, the longest unused
// first, until it is as full as the low one.
//
// Invariant: an image that a container uses, dead or alive, that the runtime
// pinned (pause), or that was seen for less than the minimum age (somebody may
// be about to use it) is never removed.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/images/image_gc_manager.go.
type imagePolicy struct {
	highPercent, lowPercent int64
	minAge, maxAge          time.Duration // maxAge 0: unused images may grow old
}

const imageGCPeriod = 5 * time.Minute

func newImagePolicy(c *kubeletv1beta1.KubeletConfiguration) (imagePolicy, error) {
	p := imagePolicy{highPercent: int64(ptr.Deref(c.ImageGCHighThresholdPercent, 85)), lowPercent: int64(ptr.Deref(c.ImageGCLowThresholdPercent, 80)),
		minAge: c.ImageMinimumGCAge.Duration, maxAge: c.ImageMaximumGCAge.Duration}
	switch {
	case p.highPercent < 0 || p.highPercent > 100:
		return p, fmt.Errorf("invalid configuration: imageGCHighThresholdPercent (--image-gc-high-threshold) %d must be between 0 and 100, inclusive", p.highPercent)
	case p.lowPercent < 0 || p.lowPercent > 100:
		return p, fmt.Errorf("invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) %d must be between 0 and 100, inclusive", p.lowPercent)
	case p.lowPercent >= p.highPercent:
		return p, fmt.Errorf("invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) %d must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) %d", p.lowPercent, p.highPercent)
	case p.maxAge != 0 && p.maxAge <= p.minAge:
		return p, fmt.Errorf("invalid configuration: imageMaximumGCAge %v must be greater than imageMinimumGCAge %v", p.maxAge, p.minAge)
	}
	return p, nil
}

// off says that images are for ever: what 100 percent means.
func (p imagePolicy) off() bool { return p.highPercent == 100 && p.maxAge == 0 }

// imageRecord is what is remembered of an image. Forgetting it (a restart)
// only makes the image look new.
type imageRecord struct {
	id                 string
	size               int64
	pinned, inUse      bool
	detected, usedLast time.Time
}

// imageRecords is the memory of what images were last used for.
type imageRecords struct {
	mu    sync.Mutex // guards known
	known map[string]imageRecord
}

// update takes the images and those in use over. Those of the first look count
// as new, where upstream counts them as old as can be: what was brought to a
// node before its kubelet is meant for it.
func (r *imageRecords) update(images []*runtimeapi.Image, used map[string]bool, now time.Time) []imageRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[string]imageRecord{}
	var out []imageRecord
	for _, image := range images {
		record, found := r.known[image.Id]
		if !found {
			record = imageRecord{id: image.Id, detected: now}
		}
		record.size, record.pinned, record.inUse = int64(image.Size), image.Pinned, used[image.Id]
		if record.inUse {
			record.usedLast = now
		}
		next[image.Id] = record
		out = append(out, record)
	}
	r.known = next
	return out
}

// planImages chooses what to remove to free so many bytes: by age, then the
// longest unused first.
func planImages(images []imageRecord, policy imagePolicy, bytes int64, now time.Time) (remove []imageRecord) {
	free := slices.DeleteFunc(slices.Clone(images), func(i imageRecord) bool {
		return i.inUse || i.pinned || now.Sub(i.detected) < policy.minAge
	})
	slices.SortFunc(free, func(a, b imageRecord) int {
		return cmp.Or(a.usedLast.Compare(b.usedLast), a.detected.Compare(b.detected), cmp.Compare(a.id, b.id))
	})
	for _, image := range free {
		old := policy.maxAge > 0 && min(now.Sub(image.usedLast), now.Sub(image.detected)) > policy.maxAge
		if bytes <= 0 && !old {
			continue
		}
		remove = append(remove, image)
		bytes -= image.size
	}
	return remove
}

// bytesOver is how much must go to bring a disk from above the high threshold
// to the low one.
func (p imagePolicy) bytesOver(disk observation) (bytes, usedPercent int64) {
	if disk.capacity <= 0 {
		return 0, 0
	}
	usedPercent = 100 - disk.available*100/disk.capacity
	if usedPercent < p.highPercent {
		return 0, usedPercent
	}
	return disk.capacity*(100-p.lowPercent)/100 - disk.available, usedPercent
}

// collectImages keeps the images' disk below its threshold until ctx ends.
func (k *Kubelet) collectImages(ctx context.Context) error {
	if k.cfg.Images.off() || k.cfg.Hollow {
		return nil
	}
	for failures := 0; ; {
		if err := k.collectImagesOnce(ctx, time.Now()); err != nil && ctx.Err() == nil {
			if failures++; failures > 1 { // the runtime may not know its disk yet
				k.eventNode(corev1.EventTypeWarning, "ImageGCFailed", "%s", err)
			}
			k.log.Warn("image garbage collection", "attempt", failures, "err", err)
		} else {
			failures = 0
		}
		if !wait(ctx, imageGCPeriod) {
			return nil
		}
	}
}

func (k *Kubelet) collectImagesOnce(ctx context.Context, now time.Time) error {
	images, err := k.knownImages(ctx, now)
	if err != nil {
		return err
	}
	disk, found := k.observeNode(ctx)[imageFsAvailable]
	if !found || disk.capacity == 0 {
		return fmt.Errorf("invalid capacity 0 on image filesystem")
	}
	over, percent := k.cfg.Images.bytesOver(disk)
	freed, err := k.removeImages(ctx, planImages(images, k.cfg.Images, over, now))
	if err == nil && freed < over {
		text := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", percent, byteSize(disk.capacity), freed)
		k.eventNode(corev1.EventTypeWarning, "FreeDiskSpaceFailed", "%s", text)
		err = fmt.Errorf("%s", text)
	}
	return err
}

// knownImages asks the runtime for all images and for what uses them.
func (k *Kubelet) knownImages(ctx context.Context, now time.Time) ([]imageRecord, error) {
	images, err := k.runtime.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	containers, err := k.runtime.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, c := range containers.Containers {
		used[c.ImageId], used[c.ImageRef], used[c.GetImage().GetImage()] = true, true, true
	}
	for _, w := range k.allWorkers() {
		if _, seen, _ := w.view(); seen != nil {
			for _, c := range seen.containers {
				for _, m := range c.Mounts { // images can be volumes, too
					used[m.GetImage().GetImage()] = true
				}
			}
		}
	}
	k.pulled.prune(images.Images, now)
	return k.imageUse.update(images.Images, used, now), nil
}

func (k *Kubelet) removeImages(ctx context.Context, images []imageRecord) (freed int64, err error) {
	for _, image := range images {
		k.log.Info("removing an unused image", "key", image.id, "bytes", image.size)
		if _, err = k.runtime.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image.id}}); err != nil {
			return freed, fmt.Errorf("remove image %s: %s", image.id, message(err))
		}
		freed += image.size
	}
	return freed, nil
}

// reclaimDisk frees what nobody needs before a pod has to go: every dead
// container, every image that nothing uses. It returns whether there was
// anything to try for this signal.
func (k *Kubelet) reclaimDisk(ctx context.Context, s signal) bool {
	if (s == nodeFsAvailable || s == nodeFsInodesFree) && k.dedicatedImageFs(ctx) {
		return false
	}
	if err := k.removeDead(ctx, true); err != nil {
		k.log.Warn("dead containers", "err", err)
	}
	now := time.Now()
	images, err := k.knownImages(ctx, now)
	if err == nil {
		_, err = k.removeImages(ctx, planImages(images, k.cfg.Images, math.MaxInt64, now))
	}
	if err != nil {
		k.log.Warn("unused images", "err", err)
	}
	return true
}

// byteSize tells bytes to people.
func byteSize(bytes int64) string {
	units, size := []string{"B", "KiB", "MiB", "GiB", "TiB"}, float64(bytes)
	for len(units) > 1 && size >= 1024 {
		units, size = units[1:], size/1024
	}
	return fmt.Sprintf("%.1f %s", size, units[0])
}
