package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What a pod may use can change while it runs (resize.go). Between what is
// wanted and what is so lie two promises, and both must outlive the kubelet:
//
//	spec ──the node has room──▶ allocated ──the runtime was told──▶ given
//
// All of the kubelet sees a pod with what is allocated to it, not with what its
// spec asks for; so one that asks for too much goes on as it was. What is given
// could be read from the cgroups, but for requests of memory, of which the
// kernel knows nothing.
//
// Each is a file of upstream's name and form: a real kubelet goes on with what
// ours has promised, and ours with what a real one has.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/allocation/state.
type resourceRecord struct {
	path string // empty: remembered as long as we live

	mu   sync.Mutex // guards pods
	pods map[types.UID]podGrant
}

// podGrant is what one pod has been promised. It is replaced, never changed.
type podGrant struct {
	ContainerResources map[string]corev1.ResourceRequirements
	PodLevelResources  *corev1.ResourceRequirements
}

// recordFile is how a record lies on disk. The data is text within the text, so
// that there is something to take a checksum of.
type recordFile struct {
	Data     string `json:"data"`
	Checksum uint64 `json:"checksum"`
}

type recordEntries struct {
	Entries map[types.UID]podGrant `json:"entries,omitempty"`
}

// load reads what an earlier kubelet has promised. A record that cannot be read
// is no reason to forget it: pods would be given what nobody has checked.
func (r *resourceRecord) load() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	raw, err := os.ReadFile(r.path)
	if r.path == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var file recordFile
	var entries recordEntries
	if err == nil {
		err = json.Unmarshal(raw, &file)
	}
	if err == nil && file.Checksum != recordChecksum(file.Data) {
		err = errors.New("checkpoint is corrupted")
	}
	if err == nil {
		err = json.Unmarshal([]byte(file.Data), &entries)
	}
	if err != nil {
		return fmt.Errorf("could not restore state from checkpoint: %w, please drain this node and delete pod resource information checkpoint file %q before restarting Kubelet", err, r.path)
	}
	if entries.Entries != nil {
		r.pods = entries.Entries
	}
	return nil
}

// of is what a pod has been promised.
func (r *resourceRecord) of(uid types.UID) (podGrant, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	grant, found := r.pods[uid]
	return grant, found
}

// set makes a promise. It is on disk before anybody can build on it.
func (r *resourceRecord) set(uid types.UID, grant podGrant) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, found := r.pods[uid]; found && equal(was, grant) {
		return nil
	}
	next := maps.Clone(r.pods)
	next[uid] = grant
	if err := saveRecord(r.path, next); err != nil {
		return fmt.Errorf("save pod resource information: %w", err)
	}
	r.pods = next
	return nil
}

// setContainer is set for one container of a pod.
func (r *resourceRecord) setContainer(pod *corev1.Pod, c *corev1.Container) error {
	was, _ := r.of(pod.UID) // one worker has the pod: nobody else writes of it
	next := podGrant{ContainerResources: maps.Clone(was.ContainerResources), PodLevelResources: pod.Spec.Resources}
	if next.ContainerResources == nil {
		next.ContainerResources = map[string]corev1.ResourceRequirements{}
	}
	next.ContainerResources[c.Name] = effective(pod, c)
	return r.set(pod.UID, next)
}

// keep forgets all other pods. The file follows with the next promise.
func (r *resourceRecord) keep(alive []types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(r.pods)
	maps.DeleteFunc(next, func(uid types.UID, _ podGrant) bool { return !slices.Contains(alive, uid) })
	r.pods = next
}

func saveRecord(path string, pods map[types.UID]podGrant) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(recordEntries{pods})
	if err != nil {
		return err
	}
	raw, err := json.Marshal(recordFile{string(data), recordChecksum(string(data))})
	if err != nil {
		return err
	}
	return replaceFile(path, raw)
}

// replaceFile writes a file so that a reader, or whoever comes after a crash,
// finds the old content or the new.
func replaceFile(path string, content []byte) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path))
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// recordChecksum is upstream's, which hashes how a dump of the text looks.
func recordChecksum(data string) uint64 {
	h := fnv.New32a()
	fmt.Fprintf(h, "(string)%s", data)
	return uint64(h.Sum32())
}

// grantOf is what a pod asks for.
func grantOf(pod *corev1.Pod) podGrant {
	grant := podGrant{ContainerResources: map[string]corev1.ResourceRequirements{}, PodLevelResources: pod.Spec.Resources}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		grant.ContainerResources[c.Name] = c.Resources
	}
	return grant
}

// allocatedPod returns the pod as the node has promised it to be: itself, if it
// asks for nothing else or if nothing has been promised yet.
func (k *Kubelet) allocatedPod(pod *corev1.Pod) *corev1.Pod {
	grant, found := k.allocated.of(pod.UID)
	if !found || equal(grant, grantOf(pod)) {
		return pod
	}
	pod = pod.DeepCopy()
	pod.Spec.Resources = grant.PodLevelResources
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if r, found := grant.ContainerResources[list[i].Name]; found {
				list[i].Resources = r
			}
		}
	}
	return pod
}

// effective is what a container may use: where it has no limit of its own, its
// pod's is its.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/util GetLimits.
func effective(pod *corev1.Pod, c *corev1.Container) corev1.ResourceRequirements {
	if pod.Spec.Resources == nil {
		return c.Resources
	}
	out := *c.Resources.DeepCopy()
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if zero(out.Limits, name) && !zero(pod.Spec.Resources.Limits, name) {
			if out.Limits == nil {
				out.Limits = corev1.ResourceList{}
			}
			out.Limits[name] = pod.Spec.Resources.Limits[name]
		}
	}
	return out
}
