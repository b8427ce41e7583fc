package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ensure brings a volume to its pod, unless the pod has it: then nobody needs
// to be asked, and the pod goes on even if nobody answers. find says which
// volume it is.
func (v *csiVolumes) ensure(ctx context.Context, pod *corev1.Pod, name string, readOnly bool, find func() (csiVolume, error)) (mountedVolume, error) {
	ready := v.ready(pod, name)
	w, err := find()
	if err != nil && ready == nil {
		return mountedVolume{}, err
	}
	if ready == nil && !v.shown(w.csiRecord) {
		return v.setUp(ctx, w)
	}
	if err == nil {
		err = v.refresh(ctx, w)
	}
	if err != nil {
		v.log.Debug("volume not refreshed", "key", pod.Namespace+"/"+pod.Name, "err", err)
	}
	if ready == nil {
		return v.mounted(w), nil
	}
	return mountedVolume{path: ready.target(v.rootDir), readOnly: readOnly}, nil
}

func (v *csiVolumes) mounted(w csiVolume) mountedVolume {
	if w.block {
		return mountedVolume{path: w.link(v.rootDir), readOnly: w.readOnly, block: true}
	}
	return mountedVolume{path: w.target(v.rootDir), readOnly: w.readOnly}
}

// setUp goes all the way from the driver to the pod.
func (v *csiVolumes) setUp(ctx context.Context, w csiVolume) (mountedVolume, error) {
	mounted := v.mounted(w)
	driver, err := v.api.csiDriver(ctx, w.Driver)
	if err != nil {
		return mounted, failed("MountVolume.SetUp", w.SpecName, err)
	}
	if err := w.allowed(driver); err != nil {
		return mounted, failed("MountVolume.SetUp", w.SpecName, fmt.Errorf("kubernetes.io/csi: mounter.SetupAt failed to check volume lifecycle mode: %w", err))
	}
	w.AttachRequired = fmt.Sprint(w.attaches(driver))
	if err := v.record(w); err != nil {
		return mounted, failed("MountVolume.SetUp", w.SpecName, err)
	}
	var attachment map[string]string
	if w.attaches(driver) {
		if attachment, err = v.waitForAttach(ctx, w); err != nil {
			return mounted, err
		}
	}
	defer v.lock(w.uniqueName())()
	client, err := v.connect(ctx, w.Driver)
	if err != nil {
		return mounted, w.setUpFailed(fmt.Errorf("mounter.SetUpAt failed to get CSI client: %w", err))
	}
	defer client.close()
	ctx, cancel := context.WithTimeout(ctx, csiTimeout)
	defer cancel()
	if !w.ephemeral() {
		if err := v.stage(ctx, w, client, attachment); err != nil {
			return mounted, failed("MountVolume.MountDevice", w.SpecName, err)
		}
	}
	if err := v.publish(ctx, w, client, driver, attachment); err != nil {
		return mounted, w.setUpFailed(err)
	}
	if err := v.expandIfGrown(ctx, w, client); err != nil {
		return mounted, told{fmt.Errorf("MountVolume.Setup failed while expanding volume for volume %q : %w", w.SpecName, err)}
	}
	return mounted, nil
}

// refresh does what a running pod's volume may need: to be told of anew, if its
// driver wants that, and to grow.
func (v *csiVolumes) refresh(ctx context.Context, w csiVolume) error {
	driver, err := v.api.csiDriver(ctx, w.Driver)
	if err != nil {
		return err
	}
	republish := driver != nil && isTrue(driver.Spec.RequiresRepublish) && !w.block
	if !republish && !w.grown() {
		return nil
	}
	defer v.lock(w.uniqueName())()
	client, err := v.connect(ctx, w.Driver)
	if err != nil {
		return err
	}
	defer client.close()
	ctx, cancel := context.WithTimeout(ctx, csiTimeout)
	defer cancel()
	if republish {
		var metadata map[string]string
		if w.attaches(driver) {
			attachment, err := v.api.attachment(ctx, w.Attachment)
			if err != nil {
				return err
			}
			metadata = attachment.Status.AttachmentMetadata
		}
		w.State = stateReady
		if err := v.publish(ctx, w, client, driver, metadata); err != nil {
			return err
		}
	}
	if err := v.expandIfGrown(ctx, w, client); err != nil {
		err = failed("NodeExpandVolume.NodeExpandVolume", w.SpecName, err)
		v.event(podReference(w.pod), corev1.EventTypeWarning, "VolumeResizeFailed", "%v", err)
		return err
	}
	return nil
}

func (w *csiVolume) setUpFailed(err error) error {
	step := "MountVolume.SetUp"
	if w.block {
		step = "MapVolume.SetUpDevice"
	}
	return failed(step, w.SpecName, fmt.Errorf("kubernetes.io/csi: %w", err))
}

// record writes down that the pod is to have the volume, and the node.
func (v *csiVolumes) record(w csiVolume) error {
	defer v.lock(w.uniqueName())()
	if !w.ephemeral() {
		if err := writeRecord(w.deviceDir(v.rootDir), w.device()); err != nil {
			return err
		}
	}
	// What an earlier kubelet began stays as it was left.
	if _, err := readRecord(w.podDir(v.rootDir)); err == nil {
		return nil
	}
	w.State = stateWanted
	return v.save(w.csiRecord)
}

// waitForAttach waits until the controllers say that the volume is attached to
// this node and know that the node has it in use. It answers what the driver's
// controller has to say to its node part.
//
// Invariant: the node is read after volumesInUse was written: a volume that is
// attached then is not detached until we let go of it.
//
// Simplified: the node and the attachment are asked for again and again, where
// upstream watches both.
func (v *csiVolumes) waitForAttach(ctx context.Context, w csiVolume) (map[string]string, error) {
	parent := ctx
	ctx, cancel := context.WithTimeout(parent, attachTimeout)
	defer cancel()
	v.touchNode()
	for pause := 20 * time.Millisecond; ; pause = min(pause*5/4, time.Second) { // most drivers need some ten
		attachment, attached, err := v.attached(ctx, w)
		if attached {
			return attachment, nil
		}
		if err != nil && ctx.Err() == nil {
			return nil, failed("MountVolume.WaitForAttach", w.SpecName, err)
		}
		if !wait(ctx, pause) {
			if parent.Err() != nil { // the pod ends, or we do
				return nil, parent.Err()
			}
			return nil, told{fmt.Errorf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[%s], failed to process volumes=[]: %w",
				w.PodVolume, w.PodVolume, ctx.Err())}
		}
	}
}

func (v *csiVolumes) attached(ctx context.Context, w csiVolume) (metadata map[string]string, attached bool, err error) {
	node, err := v.api.node(ctx, v.nodeName)
	if err != nil {
		return nil, false, err
	}
	if !handedOver(node, w.uniqueName()) {
		return nil, false, nil
	}
	attachment, err := v.api.attachment(ctx, w.Attachment)
	switch {
	case err != nil:
		return nil, false, fmt.Errorf("volume %v has GET error for volume attachment %v: %w", w.Handle, w.Attachment, err)
	case attachment.DeletionTimestamp != nil:
		return nil, false, errors.New("volume attachment is being deleted")
	case attachment.Status.Attached:
		return attachment.Status.AttachmentMetadata, true, nil
	case attachment.Status.AttachError != nil:
		return nil, false, errors.New(attachment.Status.AttachError.Message)
	}
	return nil, false, nil
}

// handedOver says that both sides of the handshake are in the node's status.
func handedOver(node *corev1.Node, name corev1.UniqueVolumeName) bool {
	return slices.Contains(node.Status.VolumesInUse, name) &&
		slices.ContainsFunc(node.Status.VolumesAttached, func(v corev1.AttachedVolume) bool { return v.Name == name })
}

// stage prepares the volume on the node, once for all of its pods.
func (v *csiVolumes) stage(ctx context.Context, w csiVolume, client *csiClient, attachment map[string]string) error {
	staging := w.staging(v.rootDir)
	if err := os.MkdirAll(staging, 0o750); err != nil {
		return fmt.Errorf("kubernetes.io/csi: attacher.MountDevice failed to create dir %#v:  %w", staging, err)
	}
	others := v.users(w.device())
	others = slices.DeleteFunc(others, func(r csiRecord) bool { return r.uid == w.uid })
	if !client.has(csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME) || slices.ContainsFunc(others, v.shown) {
		return nil // what a pod is shown has been staged
	}
	secrets, err := v.secrets(ctx, w.stageFrom)
	if err != nil {
		return fmt.Errorf("fetching NodeStageSecretRef %s/%s failed: %w", w.stageFrom.Namespace, w.stageFrom.Name, err)
	}
	_, err = client.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: w.Handle, PublishContext: attachment,
		StagingTargetPath: staging, VolumeCapability: w.capability(client), Secrets: secrets, VolumeContext: w.attributes})
	if err != nil && final(err) && len(others) == 0 {
		_ = os.Remove(staging) // nothing to unstage
	}
	return err
}

// publish shows the volume to the pod.
func (v *csiVolumes) publish(ctx context.Context, w csiVolume, client *csiClient, driver *storagev1.CSIDriver, attachment map[string]string) error {
	secrets, err := v.secrets(ctx, w.publishFrom)
	if err != nil {
		return fmt.Errorf("fetching NodePublishSecretRef %s/%s failed: %w", w.publishFrom.Namespace, w.publishFrom.Name, err)
	}
	attributes := maps.Clone(w.attributes)
	if attributes == nil {
		attributes = map[string]string{}
	}
	if driver != nil && isTrue(driver.Spec.PodInfoOnMount) {
		maps.Copy(attributes, w.podInfo())
	}
	if secrets, err = v.addTokens(ctx, w, driver, attributes, secrets); err != nil {
		return fmt.Errorf("mounter.SetUpAt failed to get service account token attributes: %w", err)
	}
	request := &csi.NodePublishVolumeRequest{VolumeId: w.Handle, PublishContext: attachment, TargetPath: w.target(v.rootDir),
		VolumeCapability: w.capability(client), Readonly: w.readOnly, Secrets: secrets, VolumeContext: attributes}
	if !w.ephemeral() && client.has(csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME) {
		request.StagingTargetPath = w.staging(v.rootDir)
	}
	if err := os.MkdirAll(filepath.Dir(request.TargetPath), 0o750); err != nil { // the rest is the driver's
		return err
	}
	if w.State != stateReady { // it was, and is only told anew
		w.State = statePublishing
		if err := v.save(w.csiRecord); err != nil {
			return err
		}
	}
	if _, err = client.NodePublishVolume(ctx, request); err != nil {
		return fmt.Errorf("mounter.SetUpAt failed: %w", err) // the record says that it may be there
	}
	if w.State == stateReady {
		return nil
	}
	if w.ownsFiles(driver) && !client.has(csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP) {
		if err := giveToGroup(request.TargetPath, int(*fsGroup(w.pod)), w.pod.Spec.SecurityContext.FSGroupChangePolicy); err != nil {
			return fmt.Errorf("applyFSGroup failed for vol %s: %w", w.Handle, err)
		}
	}
	w.State = stateReady
	return v.save(w.csiRecord)
}

// secrets reads what a volume's driver is to be shown.
//
// Invariant: it goes to the driver and nowhere else: not to a log, not to disk.
func (v *csiVolumes) secrets(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := v.objects.secret(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for key, value := range secret.Data {
		out[key] = string(value)
	}
	return out, nil
}

// addTokens adds the tokens of the pod's account that a CSIDriver asks for, to
// the attributes or, if it prefers that, to the secrets.
func (v *csiVolumes) addTokens(ctx context.Context, w csiVolume, driver *storagev1.CSIDriver, attributes, secrets map[string]string) (map[string]string, error) {
	if driver == nil || len(driver.Spec.TokenRequests) == 0 {
		return secrets, nil
	}
	tokens := map[string]authenticationv1.TokenRequestStatus{}
	for _, request := range driver.Spec.TokenRequests {
		token, err := v.tokens.issue(ctx, w.pod, &corev1.ServiceAccountTokenProjection{Audience: request.Audience, ExpirationSeconds: request.ExpirationSeconds})
		if err != nil {
			return nil, err
		}
		tokens[request.Audience] = authenticationv1.TokenRequestStatus{Token: token.token, ExpirationTimestamp: metav1.NewTime(token.expires)}
	}
	raw, err := json.Marshal(tokens)
	if err != nil {
		return nil, err
	}
	to := attributes
	if isTrue(driver.Spec.ServiceAccountTokenInSecrets) {
		if secrets == nil {
			secrets = map[string]string{}
		}
		to = secrets
	}
	to["csi.storage.k8s.io/serviceAccount.tokens"] = string(raw)
	return secrets, nil
}

// ready finds a volume that the pod has already, from before a restart perhaps.
func (v *csiVolumes) ready(pod *corev1.Pod, name string) *csiRecord {
	for _, r := range v.published(pod.UID) {
		if !r.block && r.PodVolume == name && v.shown(r) {
			return &r
		}
	}
	return nil
}

// shown says that a pod has the volume: that all was done, and is still there.
// A reboot leaves the record and takes the mount.
func (v *csiVolumes) shown(r csiRecord) bool {
	if r.block {
		info, err := os.Stat(r.target(v.rootDir))
		return err == nil && info.Mode()&fs.ModeDevice != 0
	}
	return r.State == stateReady && isMounted(r.target(v.rootDir))
}

// giveToGroup makes a volume's files the group's, and lets it at them.
//
// It works within an os.Root: a pod that has the volume already may swap its
// directories for links while we walk.
//
// Upstream: kubernetes@v1.36 pkg/volume VolumeOwnership.
func giveToGroup(dir string, group int, policy *corev1.PodFSGroupChangePolicy) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch {
		info, err := root.Stat(".")
		if err == nil && int(info.Sys().(*syscall.Stat_t).Gid) == group && info.Mode()&fs.ModeSetgid != 0 && info.Mode().Perm()&0o770 == 0o770 {
			return nil
		}
	}
	// The top comes last: while it differs, the work is not done.
	return errors.Join(fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		return give(root, path, group)
	}), give(root, ".", group))
}

func give(root *os.Root, path string, group int) error {
	info, err := root.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	if err := root.Lchown(path, -1, group); err != nil {
		return err
	}
	mode := info.Mode()
	switch {
	case mode&fs.ModeSymlink != 0:
		return nil
	case mode.IsDir():
		return root.Chmod(path, mode.Perm()|0o770|mode&(fs.ModeSticky|fs.ModeSetuid)|fs.ModeSetgid)
	}
	return root.Chmod(path, mode.Perm()|0o660|mode&(fs.ModeSticky|fs.ModeSetuid|fs.ModeSetgid))
}
