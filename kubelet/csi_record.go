package kubelet

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What is known of a driver's volumes lies beside them, where upstream's
// kubelet puts it, and as it writes it:
//
//	<root>/plugins/kubernetes.io/csi/<driver>/<hash of handle>/
//	    globalmount, vol_data.json                       staged, of the node
//	<root>/pods/<uid>/volumes/kubernetes.io~csi/<name>/
//	    mount, vol_data.json                             published, of a pod
//
// and for a volume that is a block device and no file system:
//
//	<root>/plugins/kubernetes.io/csi/volumeDevices/
//	    staging/<name>, <name>/data/vol_data.json        staged
//	    publish/<name>/<uid>                             published
//	<root>/pods/<uid>/volumeDevices/kubernetes.io~csi/<name>   a link to it
//
// Simplified: upstream also holds a loop device open on a mapped device, so that
// no other may take its number while a pod uses it.
//
// Invariant: the pod's record is there before the driver is called for it and
// goes after all that the driver did is undone; the node's likewise.
//
// Upstream: kubernetes@v1.36 pkg/volume/csi csi_util.go, csi_block.go.

// csiRecord is a vol_data.json. Upstream knows all keys but the last three, and
// passes over what it does not know.
type csiRecord struct {
	Driver     string `json:"driverName"`
	Handle     string `json:"volumeHandle"`
	SpecName   string `json:"specVolID,omitempty"` // the PersistentVolume's name, or the pod's for a volume of its own
	Node       string `json:"nodeName,omitempty"`
	Lifecycle  string `json:"volumeLifecycleMode,omitempty"`
	Attachment string `json:"attachmentID,omitempty"`

	PodVolume      string `json:"podVolumeName,omitempty"` // the name in the pod's spec
	State          string `json:"state,omitempty"`
	AttachRequired string `json:"attachRequired,omitempty"`

	uid   types.UID // of the pod; empty: what is staged
	block bool
}

// The states of a pod's volume. A record without one may be anything.
const (
	stateWanted     = "wanted"     // the driver has not been told yet
	statePublishing = "publishing" // it may have done anything
	stateReady      = "ready"
)

const csiDataFile = "vol_data.json"

func (r csiRecord) ephemeral() bool { return r.Lifecycle == lifecycleEphemeral }

// uniqueName is how the API calls the volume.
func (r csiRecord) uniqueName() corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + r.Driver + "^" + r.Handle)
}

// device is the node's record beside the pod's.
func (r csiRecord) device() csiRecord {
	out := csiRecord{Driver: r.Driver, Handle: r.Handle, AttachRequired: r.AttachRequired, block: r.block}
	if r.block { // its paths are made of the name
		out.SpecName = r.SpecName
	}
	return out
}

func csiPlugins(root string) string { return filepath.Join(root, "plugins", "kubernetes.io", "csi") }

func blockPlugins(root string) string { return filepath.Join(csiPlugins(root), "volumeDevices") }

// deviceDir holds the node's record.
func (r csiRecord) deviceDir(root string) string {
	if r.block {
		return filepath.Join(blockPlugins(root), r.SpecName, "data")
	}
	sum := sha256.Sum256([]byte(r.Handle))
	return filepath.Join(csiPlugins(root), r.Driver, hex.EncodeToString(sum[:]))
}

func (r csiRecord) staging(root string) string {
	if r.block {
		return filepath.Join(blockPlugins(root), "staging", r.SpecName)
	}
	return filepath.Join(r.deviceDir(root), "globalmount")
}

// podDir holds the pod's record; of a block device, the link that containers
// are given.
func (r csiRecord) podDir(root string) string {
	if r.block {
		return filepath.Join(root, "pods", string(r.uid), "volumeDevices", "kubernetes.io~csi")
	}
	return filepath.Join(root, "pods", string(r.uid), "volumes", "kubernetes.io~csi", r.SpecName)
}

func (r csiRecord) link(root string) string { return filepath.Join(r.podDir(root), r.SpecName) }

// target is where the driver publishes.
func (r csiRecord) target(root string) string {
	if r.block {
		return filepath.Join(blockPlugins(root), "publish", r.SpecName, string(r.uid))
	}
	return filepath.Join(r.podDir(root), "mount")
}

// save writes a pod's record; a block device's is its link.
func (v *csiVolumes) save(r csiRecord) error {
	if !r.block {
		return writeRecord(r.podDir(v.rootDir), r)
	}
	if err := os.MkdirAll(r.podDir(v.rootDir), 0o750); err != nil {
		return err
	}
	err := os.Symlink(r.target(v.rootDir), r.link(v.rootDir))
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func writeRecord(dir string, r csiRecord) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, csiDataFile), raw)
}

func readRecord(dir string) (r csiRecord, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, csiDataFile))
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(raw, &r); err != nil {
		return r, fmt.Errorf("%s: %w", dir, err)
	}
	if r.Driver == "" || r.Handle == "" {
		return r, fmt.Errorf("%s/%s names no volume", dir, csiDataFile)
	}
	return r, nil
}

// published lists the volumes of a pod.
func (v *csiVolumes) published(uid types.UID) (out []csiRecord) {
	pod := csiRecord{uid: uid}
	for _, dir := range children(pod.podDir(v.rootDir)) {
		r, err := readRecord(dir)
		if err != nil { // nothing is done before the record is written
			continue
		}
		r.uid, r.SpecName = uid, filepath.Base(dir)
		out = append(out, r)
	}
	pod.block = true
	for _, link := range children(pod.podDir(v.rootDir)) {
		r, err := readRecord(csiRecord{block: true, SpecName: filepath.Base(link)}.deviceDir(v.rootDir))
		if err != nil {
			continue
		}
		r.uid, r.SpecName, r.block = uid, filepath.Base(link), true
		if _, err := os.Lstat(r.staging(v.rootDir)); err != nil {
			r.State = stateWanted // it has not come as far as being staged
		}
		out = append(out, r)
	}
	return out
}

// devices lists what the node has, or is about to have.
func (v *csiVolumes) devices() (out []csiRecord) {
	base := csiPlugins(v.rootDir)
	for _, driver := range children(base) {
		for _, dir := range children(driver) {
			block := driver == blockPlugins(v.rootDir)
			if block {
				dir = filepath.Join(dir, "data")
			}
			if r, err := readRecord(dir); err == nil {
				r.block = block
				out = append(out, r)
			}
		}
	}
	return out
}

// users are the pods of this node that have, or are to have, the volume.
func (v *csiVolumes) users(device csiRecord) (out []csiRecord) {
	for _, pod := range children(filepath.Join(v.rootDir, "pods")) {
		for _, r := range v.published(types.UID(filepath.Base(pod))) {
			if r.block == device.block && !r.ephemeral() && r.uniqueName() == device.uniqueName() {
				out = append(out, r)
			}
		}
	}
	return out
}

// removePublished removes what the driver left at the target, and the record.
//
// Invariant: it never removes a volume's content: a directory that is not empty
// stays, and is an error.
func (v *csiVolumes) removePublished(r csiRecord) error {
	if err := removeMountPoint(r.target(v.rootDir)); err != nil {
		return err
	}
	if r.block {
		return removeAll(filepath.Dir(r.target(v.rootDir)), r.link(v.rootDir))
	}
	dir := r.podDir(v.rootDir)
	return removeAll(filepath.Join(dir, "."+csiDataFile), filepath.Join(dir, csiDataFile), dir)
}

func (v *csiVolumes) removeDevice(r csiRecord) error {
	if err := removeMountPoint(r.staging(v.rootDir)); err != nil {
		return err
	}
	dir := r.deviceDir(v.rootDir)
	paths := []string{filepath.Join(dir, "."+csiDataFile), filepath.Join(dir, csiDataFile), dir}
	if r.block {
		paths = append(paths, filepath.Dir(dir))
	}
	return removeAll(paths...)
}

// removeMountPoint removes a directory or file that something may be left
// mounted at.
func removeMountPoint(path string) error {
	mounts, err := mountsBelow(path)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unmount(mounts[i]); err != nil {
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	return removeAll(path)
}

// removeAll removes files and empty directories, in this order. That one is not
// there is fine; that a publish directory has other pods' devices, too.
func removeAll(paths ...string) error {
	for _, path := range paths {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !(strings.Contains(path, "/volumeDevices/publish/") && len(children(path)) > 0) {
			return err
		}
	}
	return nil
}

// children lists a directory's entries with their paths.
func children(dir string) (out []string) {
	entries, _ := os.ReadDir(dir) // what cannot be read has none
	for _, e := range entries {
		out = append(out, filepath.Join(dir, e.Name()))
	}
	return out
}

// isMounted says whether something is mounted right at path.
func isMounted(path string) bool {
	mounts, err := mountsBelow(path)
	return err == nil && slices.Contains(mounts, path)
}
