package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A volume of a CSI driver comes to a pod in four steps, and leaves in the
// opposite order. Each is written down before it is done (csi_record.go), so
// that a kubelet that was killed in any of them knows what there may be to undo:
//
//	record it      node.status.volumesInUse: nobody detaches it from here on
//	wait           node.status.volumesAttached, VolumeAttachment.status.attached
//	stage          once per node, at .../csi/<driver>/<hash>/globalmount
//	publish        once per pod, at pods/<uid>/volumes/kubernetes.io~csi/<name>/mount
//
// Nothing of it is kept in memory. A volume that is recorded as ready, and is
// mounted, is ready; what is recorded as wanted by a pod that is gone, is given
// back. The driver is asked over its socket, which may be somebody else's by
// the next call; every call may be repeated (Spec: CSI 1.13 §Volume Lifecycle).
//
// Simplified: SELinux labels are not handed to drivers; on a node that enforces
// them a container could not read the volume.
//
// Upstream: kubernetes@v1.36 pkg/volume/csi.
type csiVolumes struct {
	rootDir, nodeName string
	objects           objectReader
	api               csiObjects
	tokens            *tokens
	endpoint          func(driver string) (string, bool) // of a registered driver
	touchNode         func()                             // node.status.volumesInUse may differ
	event             func(about corev1.ObjectReference, eventType, reason, format string, args ...any)
	log               *slog.Logger

	mu    sync.Mutex // guards locks
	locks map[corev1.UniqueVolumeName]*sync.Mutex
}

// csiObjects is what must be known of a driver's volumes from the API.
type csiObjects interface {
	csiDriver(ctx context.Context, name string) (*storagev1.CSIDriver, error) // nil: there is none
	attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error)
	node(ctx context.Context, name string) (*corev1.Node, error)
	resized(ctx context.Context, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) error
}

const (
	// csiTimeout is how long a driver may take for a call. Upstream: csiTimeout.
	csiTimeout = 2 * time.Minute
	// attachTimeout is how long a pod waits before it tells that it does.
	// Upstream: podAttachAndMountTimeout.
	attachTimeout = 2*time.Minute + 3*time.Second
	// csiSweep is how often what no pod uses is looked for.
	csiSweep = 10 * time.Second
)

// told is an error that says itself which step of which volume failed.
type told struct{ err error }

func (t told) Error() string { return t.err.Error() }
func (t told) Unwrap() error { return t.err }

// addCSI makes what a kubelet needs for drivers.
func (k *Kubelet) addCSI() {
	node := csiNode{k}
	k.plugins = &pluginRegistry{dir: filepath.Join(k.cfg.RootDir, "plugins_registry"), watch: k.cfg.WatchFiles, log: k.log,
		install: node.install, uninstall: node.uninstall, changed: make(chan struct{}, 1), sockets: map[string]*pluginSocket{}}
	k.volumes.csi = &csiVolumes{rootDir: k.cfg.RootDir, nodeName: k.cfg.NodeName, objects: k.objects, api: apiObjects{k.client},
		tokens: k.volumes.tokens, endpoint: k.plugins.endpoint, touchNode: func() { k.node.touchStatus() }, event: k.report, log: k.log}
}

// failed words an error as upstream's events do.
func failed(step, volume string, err error) error {
	return told{fmt.Errorf("%s failed for volume %q : %w", step, volume, err)}
}

// lock holds a volume: no two pods stage and unstage it at once.
func (v *csiVolumes) lock(name corev1.UniqueVolumeName) (unlock func()) {
	v.mu.Lock()
	if v.locks == nil {
		v.locks = map[corev1.UniqueVolumeName]*sync.Mutex{}
	}
	held := v.locks[name]
	if held == nil {
		held = &sync.Mutex{} // never removed: a node sees some thousands
		v.locks[name] = held
	}
	v.mu.Unlock()
	held.Lock()
	return held.Unlock
}

// csiClient is a connection to a driver for the calls of one step.
type csiClient struct {
	csi.NodeClient
	conn *grpc.ClientConn
	can  []csi.NodeServiceCapability_RPC_Type
}

func (c *csiClient) close() { _ = c.conn.Close() }

func (c *csiClient) has(capability csi.NodeServiceCapability_RPC_Type) bool {
	return slices.Contains(c.can, capability)
}

// connect finds a driver and asks what it can do.
func (v *csiVolumes) connect(ctx context.Context, driver string) (*csiClient, error) {
	endpoint, found := v.endpoint(driver)
	if !found {
		return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", driver)
	}
	client, err := dialCSI(endpoint)
	if err != nil {
		return nil, err
	}
	answer, err := client.NodeGetCapabilities(ctx, &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		client.close()
		return nil, err
	}
	for _, c := range answer.Capabilities {
		client.can = append(client.can, c.GetRpc().GetType())
	}
	return client, nil
}

func dialCSI(endpoint string) (*csiClient, error) {
	conn, err := grpc.NewClient("unix:"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &csiClient{NodeClient: csi.NewNodeClient(conn), conn: conn}, nil
}

// final says that a call certainly did nothing: there is nothing to undo.
//
// Spec: CSI 1.13 §Error Scheme, and gRPC's status codes.
func final(err error) bool {
	known, ok := status.FromError(err)
	return ok && !slices.Contains([]codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Unavailable,
		codes.ResourceExhausted, codes.Aborted}, known.Code())
}

// inUse is node.status.volumesInUse: what must not be detached.
func (v *csiVolumes) inUse() (out []corev1.UniqueVolumeName) {
	for _, record := range v.devices() {
		if record.AttachRequired != "false" {
			out = append(out, record.uniqueName())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// run gives back, now and then, what no pod uses: what could not be given back
// when its last pod ended, and what a killed kubelet left.
func (v *csiVolumes) run(ctx context.Context) error {
	for wait(ctx, csiSweep) {
		for _, device := range v.devices() {
			if err := v.release(ctx, device); err != nil && ctx.Err() == nil {
				v.log.Warn("volume not given back", "key", device.uniqueName(), "err", err)
			}
		}
	}
	return nil
}

// tearDown takes all of a pod's volumes from it.
func (v *csiVolumes) tearDown(ctx context.Context, uid types.UID) error {
	var failures []error
	for _, record := range v.published(uid) {
		if err := v.unpublish(ctx, record); err != nil {
			failures = append(failures, fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", record.SpecName, err))
		}
	}
	return errors.Join(failures...)
}

// unpublish takes one volume from its pod, and from the node if that was the
// last one.
func (v *csiVolumes) unpublish(ctx context.Context, record csiRecord) error {
	defer v.lock(record.uniqueName())()
	if record.State != stateWanted {
		client, err := v.connect(ctx, record.Driver)
		if err != nil {
			return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: %w", err)
		}
		defer client.close()
		callCtx, cancel := context.WithTimeout(ctx, csiTimeout)
		defer cancel()
		target := record.target(v.rootDir)
		_, err = client.NodeUnpublishVolume(callCtx, &csi.NodeUnpublishVolumeRequest{VolumeId: record.Handle, TargetPath: target})
		if _, there := os.Lstat(target); err != nil && (status.Code(err) != codes.NotFound || !errors.Is(there, fs.ErrNotExist)) {
			return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed: %w", err)
		} // what a driver has forgotten, and is not there, need not go
	}
	if err := v.removePublished(record); err != nil {
		return err
	}
	if !record.ephemeral() {
		// Whether or not this works now, the pod has ended; run tries again.
		if err := v.releaseLocked(ctx, record.device()); err != nil {
			v.log.Warn("volume not given back", "key", record.uniqueName(), "err", err)
		}
	}
	return nil
}

// release unstages a volume that no pod of this node uses.
func (v *csiVolumes) release(ctx context.Context, device csiRecord) error {
	if len(v.users(device)) > 0 { // most are: do not wait for their locks
		return nil
	}
	defer v.lock(device.uniqueName())()
	return v.releaseLocked(ctx, device)
}

func (v *csiVolumes) releaseLocked(ctx context.Context, device csiRecord) error {
	if len(v.users(device)) > 0 {
		return nil
	}
	staging := device.staging(v.rootDir)
	if _, err := os.Lstat(staging); err == nil {
		client, err := v.connect(ctx, device.Driver)
		if err != nil {
			return fmt.Errorf("kubernetes.io/csi: attacher.UnmountDevice failed to create newCsiDriverClient: %w", err)
		}
		defer client.close()
		if client.has(csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME) {
			callCtx, cancel := context.WithTimeout(ctx, csiTimeout)
			defer cancel()
			if _, err := client.NodeUnstageVolume(callCtx, &csi.NodeUnstageVolumeRequest{VolumeId: device.Handle, StagingTargetPath: staging}); err != nil {
				return fmt.Errorf("kubernetes.io/csi: attacher.UnmountDevice failed: %w", err)
			}
		}
	}
	if err := v.removeDevice(device); err != nil {
		return err
	}
	v.touchNode()
	return nil
}
