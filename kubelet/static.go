package kubelet

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"tinykube/api/defaults"
	"tinykube/api/validation"
)

// The annotations of static pods and of their mirrors.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/types/pod_update.go.
const (
	annotationConfigHash   = "kubernetes.io/config.hash"
	annotationConfigMirror = "kubernetes.io/config.mirror"
	annotationConfigSource = "kubernetes.io/config.source"
	annotationConfigSeen   = "kubernetes.io/config.seen"
	sourceFile             = "file"
	sourceAPI              = "api"
)

// maxManifestBytes bounds one file.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/config/common.go maxConfigLength.
const maxManifestBytes = 10 << 20

// staticPods reads pods from the files of a directory: how a node runs what
// must be there before any API server is. The directory is the truth: a file
// that appears is a pod to run, one that is gone a pod to end, and one that
// changed is another pod, with another UID.
type staticPods struct {
	path     string // directory or file; empty: no static pods
	nodeName string
	period   time.Duration // rescan, whatever inotify says
	watch    bool          // use inotify
	log      *slog.Logger
	changed  func() // called after a scan that changed something
	remote   remotePods
	podSet

	files map[string]staticFile // by path; owned by scan
}

// podSet is the pods of a source, and whether it has been read at all: before
// that, nobody may conclude that a pod is not wanted.
type podSet struct {
	mu   sync.Mutex // guards what follows
	pods map[types.UID]*corev1.Pod
	read bool
}

func (s *podSet) list() (pods []*corev1.Pod, read bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.pods)), s.read
}

// replace takes over what was read and says whether it differs. A pod that is
// known stays the same object: only what was said of it first counts.
func (s *podSet) replace(pods []*corev1.Pod) (changed bool) {
	next := map[types.UID]*corev1.Pod{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pods {
		if next[p.UID] = s.pods[p.UID]; next[p.UID] == nil {
			next[p.UID], changed = p, true
		}
	}
	changed = changed || !s.read || len(next) != len(s.pods)
	s.pods, s.read = next, true
	return changed
}

// staticFile remembers a file that has been read, so that an unchanged one
// costs a stat, and that a file being rewritten does not end its pod.
type staticFile struct {
	stamp   fileStamp
	pod     *corev1.Pod // last good content
	failure string      // last complaint, not to repeat it
}

// fileStamp changes with a file's content, name and rights.
type fileStamp struct {
	device, inode uint64
	size          int64
	changed       unix.Timespec
}

// scanFirst makes the source complete before anything is concluded from it.
func (s *staticPods) scanFirst() {
	if s.path == "" {
		s.replace(nil)
		return
	}
	s.scan()
}

// run scans until ctx ends.
func (s *staticPods) run(ctx context.Context) error {
	if s.path == "" {
		return nil
	}
	ticker := time.NewTicker(s.period)
	defer ticker.Stop()
	var watcher *fsnotify.Watcher
	defer func() {
		if watcher != nil {
			watcher.Close()
		}
	}()
	for {
		if s.scan() {
			s.changed()
		}
		if watcher == nil && s.watch {
			watcher = s.openWatch() // the directory may have appeared meanwhile
		}
		var events <-chan fsnotify.Event // nil, and silent, without a watch
		if watcher != nil {
			events = watcher.Events
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-events:
			// Editors and kubeadm write in several steps: let them finish.
			if !wait(ctx, 100*time.Millisecond) {
				return nil
			}
			for len(events) > 0 {
				<-events
			}
		}
	}
}

// openWatch shortens the wait for the next scan. It is only a hint: if inotify
// has no room left, the periodic scan does it all.
func (s *staticPods) openWatch() *fsnotify.Watcher {
	watcher, err := fsnotify.NewBufferedWatcher(100)
	if err == nil {
		if err = watcher.Add(s.path); err == nil {
			return watcher
		}
		watcher.Close()
	}
	s.log.Debug("no inotify for static pods, rescanning only", "err", err)
	return nil
}

// list returns the pods that should run, and whether all has been read.
func (s *staticPods) list() ([]*corev1.Pod, bool) {
	own, read := s.podSet.list()
	remote, remoteRead := s.remote.list()
	return append(own, remote...), read && (remoteRead || s.remote.url == "")
}

// scan reads the directory and says whether the pods changed.
func (s *staticPods) scan() bool {
	paths, err := manifestPaths(s.path)
	if err != nil {
		// A directory that cannot be read is not an empty one: what runs goes on.
		s.log.Warn("static pod path not readable", "err", err)
		return false
	}
	files, pods := map[string]staticFile{}, []*corev1.Pod(nil)
	for _, path := range paths {
		f := s.load(path)
		files[path] = f
		if f.pod != nil {
			pods = append(pods, f.pod)
		}
	}
	s.files = files
	return s.replace(pods)
}

// manifestPaths lists what to read. Dotfiles are somebody's work in progress,
// and folders are not looked into.
func manifestPaths(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().IsRegular() {
		return []string{path}, nil
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is neither a directory nor a file", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		full := filepath.Join(path, e.Name())
		if info, err := os.Stat(full); err != nil || !info.IsDir() {
			out = append(out, full)
		}
	}
	slices.Sort(out)
	return out, nil
}

// load reads one file, unless it is the one that is known. A file that does not
// parse keeps its last good pod: half a manifest must not stop an API server.
func (s *staticPods) load(path string) staticFile {
	known := s.files[path]
	var stat unix.Stat_t
	err := unix.Stat(path, &stat)
	stamp := fileStamp{uint64(stat.Dev), stat.Ino, stat.Size, stat.Ctim}
	if err == nil && stamp == known.stamp {
		return known
	}
	if err == nil && stat.Mode&unix.S_IFMT != unix.S_IFREG {
		err = fmt.Errorf("not a regular file (mode %o)", stat.Mode) // it would block, or never end
	}
	var pod *corev1.Pod
	if err == nil {
		pod, err = readManifest(path, s.nodeName)
	}
	if err != nil {
		if err.Error() != known.failure {
			s.log.Error("static pod manifest refused", "key", path, "err", err)
		}
		known.failure, known.stamp = err.Error(), stamp
		if errors.As(err, new(*fs.PathError)) {
			known.stamp = fileStamp{} // not what it says is wrong: the next scan may read it
		}
		return known
	}
	if known.pod != nil && known.pod.UID == pod.UID {
		pod = known.pod // touched, not changed
	}
	return staticFile{stamp: stamp, pod: pod}
}

func readManifest(path, nodeName string) (*corev1.Pod, error) {
	// It was a file when we looked; a FIFO put in its place must not hold us up.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := readBounded(file)
	if err != nil {
		return nil, err
	}
	return parseStaticPod(raw, sourceFile, path, nodeName)
}

func readBounded(manifest io.Reader) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(manifest, maxManifestBytes+1))
	if err == nil && len(raw) > maxManifestBytes {
		err = fmt.Errorf("larger than %d bytes", maxManifestBytes)
	}
	return raw, err
}

// parseStaticPod turns a manifest into the pod that this node runs.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/config/common.go applyDefaults.
func parseStaticPod(raw []byte, source, path, nodeName string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := yaml.Unmarshal(raw, pod); err != nil {
		return nil, err
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" {
		return nil, fmt.Errorf("it is %s %s, not v1 Pod", pod.APIVersion, pod.Kind)
	}
	if len(pod.Spec.Containers) == 0 || pod.Name == "" && pod.GenerateName == "" {
		return nil, errors.New("a pod needs metadata.name and spec.containers")
	}
	if kind := apiReference(pod); kind != "" {
		return nil, fmt.Errorf("static pods may not reference %s", kind)
	}
	pod.Status = corev1.PodStatus{}
	if pod.UID == "" {
		uid, err := staticUID(pod, source, path, nodeName)
		if err != nil {
			return nil, err
		}
		pod.UID = uid
	}
	pod.Name = cmp.Or(pod.Name, pod.GenerateName) + "-" + strings.ToLower(nodeName)
	pod.Namespace = cmp.Or(pod.Namespace, metav1.NamespaceDefault)
	pod.Spec.NodeName = nodeName
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotationConfigHash] = string(pod.UID)
	pod.Annotations[annotationConfigSource] = source
	pod.Annotations[annotationConfigSeen] = time.Now().Format(time.RFC3339Nano)
	// It must survive whatever is wrong with its node: it may be the cure.
	tolerateAll := corev1.Toleration{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	if !slices.Contains(pod.Spec.Tolerations, tolerateAll) {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, tolerateAll)
	}
	defaults.Apply(pod)
	// Nobody else has looked at it: names become paths and cgroups on the node.
	if errs := validation.Pod(pod); len(errs) > 0 {
		return nil, fmt.Errorf("invalid pod: %w", errs.ToAggregate())
	}
	if strings.Contains(string(pod.UID), "/") || pod.UID == "." || pod.UID == ".." {
		return nil, fmt.Errorf("invalid pod: metadata.uid %q is no name of a directory", pod.UID)
	}
	pod.Status.Phase = corev1.PodPending
	return pod, nil
}

// staticUID is a hash of what the pod says and of where it says it. Upstream
// hashes its in-memory form, so the numbers differ; what matters is that the
// same file gives the same UID and that any change gives another.
func staticUID(pod *corev1.Pod, source, path, nodeName string) (types.UID, error) {
	raw, err := json.Marshal(pod)
	if err != nil {
		return "", err
	}
	h := fnv.New128a()
	h.Write(raw)
	if source == sourceURL {
		fmt.Fprintf(h, "url:%s", path) // one manifest for many nodes
	} else {
		fmt.Fprintf(h, "host:%sfile:%s", nodeName, path)
	}
	return types.UID(hex.EncodeToString(h.Sum(nil))), nil
}

// apiReference names a kind of API object that a pod refers to. Static pods are
// kept free of them: they must start without an API server, so what they need
// lies on the node.
//
// Upstream: kubernetes@v1.36 pkg/api/pod/util.go HasAPIObjectReference, of which
// the volumes that no kubelet of today has are left out.
func apiReference(pod *corev1.Pod) string {
	spec := &pod.Spec
	secrets, configMaps, volume := len(spec.ImagePullSecrets) > 0, false, ""
	for _, c := range allContainers(pod) {
		for _, e := range c.EnvFrom {
			secrets, configMaps = secrets || e.SecretRef != nil, configMaps || e.ConfigMapRef != nil
		}
		for _, e := range c.Env {
			if from := e.ValueFrom; from != nil {
				secrets, configMaps = secrets || from.SecretKeyRef != nil, configMaps || from.ConfigMapKeyRef != nil
			}
		}
	}
	for _, v := range spec.Volumes {
		secrets = secrets || v.Secret != nil || v.CSI != nil && v.CSI.NodePublishSecretRef != nil
		configMaps = configMaps || v.ConfigMap != nil
		switch {
		case v.CSI != nil:
			volume = cmp.Or(volume, "csidrivers (via CSI volumes)")
		case v.PersistentVolumeClaim != nil:
			volume = cmp.Or(volume, "persistentvolumeclaims")
		case v.Ephemeral != nil:
			volume = cmp.Or(volume, "persistentvolumeclaims (via ephemeral volumes)")
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				secrets, configMaps = secrets || s.Secret != nil, configMaps || s.ConfigMap != nil
				switch {
				case s.ServiceAccountToken != nil:
					volume = cmp.Or(volume, "serviceaccounts (via projected volumes)")
				case s.ClusterTrustBundle != nil:
					volume = cmp.Or(volume, "clustertrustbundles")
				case s.PodCertificate != nil:
					volume = cmp.Or(volume, "podcertificates")
				}
			}
		}
	}
	switch {
	case spec.ServiceAccountName != "", spec.DeprecatedServiceAccount != "":
		return "serviceaccounts"
	case secrets:
		return "secrets"
	case configMaps:
		return "configmaps"
	case len(spec.ResourceClaims) > 0:
		return "resourceclaims"
	}
	return volume
}

// isStatic recognises a pod that came from a file.
func isStatic(pod *corev1.Pod) bool {
	source := pod.Annotations[annotationConfigSource]
	return source != "" && source != sourceAPI
}

// isMirror recognises the API's picture of a static pod.
func isMirror(pod *corev1.Pod) bool {
	_, found := pod.Annotations[annotationConfigMirror]
	return found
}
