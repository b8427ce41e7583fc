package kubelet

import (
	"context"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"tinykube/api/claims"
)

// volumeStats asks the drivers of a pod's volumes how full they are.
//
// Simplified: it asks when it is asked itself, and does not wait long; upstream
// asks once a minute and remembers.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/server/stats volume_stat_calculator.go
func (v *csiVolumes) volumeStats(ctx context.Context, pod *corev1.Pod) (out []statsapi.VolumeStats) {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	for _, record := range v.published(pod.UID) {
		fs, err := v.driverStats(ctx, record)
		if err != nil || fs == nil {
			continue // it does not say, or not now
		}
		stats := statsapi.VolumeStats{Name: record.PodVolume, FsStats: *fs}
		for i := range pod.Spec.Volumes {
			if name, _ := claims.Of(pod, &pod.Spec.Volumes[i]); name != "" && pod.Spec.Volumes[i].Name == record.PodVolume {
				stats.PVCRef = &statsapi.PVCReference{Name: name, Namespace: pod.Namespace}
			}
		}
		out = append(out, stats)
	}
	return out
}

// statsTimeout bounds what drivers may add to an answer.
const statsTimeout = 2 * time.Second

func (v *csiVolumes) driverStats(ctx context.Context, record csiRecord) (*statsapi.FsStats, error) {
	if record.PodVolume == "" || !v.shown(record) {
		return nil, nil
	}
	client, err := v.connect(ctx, record.Driver)
	if err != nil {
		return nil, err
	}
	defer client.close()
	if !client.has(csi.NodeServiceCapability_RPC_GET_VOLUME_STATS) {
		return nil, nil
	}
	answer, err := client.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: record.Handle, VolumePath: record.target(v.rootDir)})
	if err != nil {
		return nil, err
	}
	fs := &statsapi.FsStats{Time: metav1.Now()}
	for _, usage := range answer.Usage {
		available, total, used := uint64(max(usage.Available, 0)), uint64(max(usage.Total, 0)), uint64(max(usage.Used, 0))
		switch usage.Unit {
		case csi.VolumeUsage_BYTES:
			fs.AvailableBytes, fs.CapacityBytes, fs.UsedBytes = &available, &total, &used
		case csi.VolumeUsage_INODES:
			fs.InodesFree, fs.Inodes, fs.InodesUsed = &available, &total, &used
		}
	}
	return fs, nil
}
