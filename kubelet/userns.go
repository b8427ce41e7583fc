package kubelet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A pod with hostUsers: false is root among users of its own: a range of the
// host's IDs that no other pod of this node has, and that own nothing. Which
// range is written into the pod's directory, in upstream's form, and nowhere
// else: it is free again when the directory goes.
//
// Simplified: ranges begin right after the host's own users, and /etc/subuid is
// not asked, as upstream does if there is a user called kubelet; and all have the
// default size (userNamespaces.idsPerPod is refused).
//
// Upstream: kubernetes@v1.36 pkg/kubelet/userns/userns_manager.go.
const (
	usernsFile   = "userns"
	usernsLength = 65536
)

type usernsRecord struct {
	UIDs []usernsRange `json:"uidMappings"`
	GIDs []usernsRange `json:"gidMappings"`
}

type usernsRange struct {
	HostID      uint32 `json:"hostId"`
	ContainerID uint32 `json:"containerId"`
	Length      uint32 `json:"length"`
}

// userNamespace is what the runtime is told of a pod's users: nothing, if it
// has the host's.
func (k *Kubelet) userNamespace(pod *corev1.Pod, handler string) (*runtimeapi.UserNamespace, error) {
	if pod.Spec.HostUsers == nil || *pod.Spec.HostUsers {
		return nil, nil
	}
	if !k.node.supports(handler).userNamespaces {
		return nil, errors.New("can't set `spec.hostUsers: false`, runtime does not support user namespaces")
	}
	k.usernsMu.Lock()
	defer k.usernsMu.Unlock()
	path := filepath.Join(k.volumes.podDir(pod.UID), usernsFile)
	record, err := readUserns(path)
	if errors.Is(err, fs.ErrNotExist) {
		record, err = k.allocateUserns(path)
	}
	if err != nil {
		return nil, fmt.Errorf("user namespace: %w", err)
	}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: mappings(record.UIDs), Gids: mappings(record.GIDs)}, nil
}

func mappings(ranges []usernsRange) (out []*runtimeapi.IDMapping) {
	for _, r := range ranges {
		out = append(out, &runtimeapi.IDMapping{HostId: r.HostID, ContainerId: r.ContainerID, Length: r.Length})
	}
	return out
}

// readUserns reads a pod's range and trusts it as far as it makes sense: a pod
// must never be given the host's own users.
func readUserns(path string) (record usernsRecord, err error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(raw, &record); err != nil {
		return record, fmt.Errorf("%s: %w", path, err)
	}
	if len(record.UIDs) != 1 || !slices.Equal(record.UIDs, record.GIDs) || record.UIDs[0].HostID < usernsLength || record.UIDs[0].Length != usernsLength {
		return record, fmt.Errorf("%s: not one range of %d IDs outside of the host's", path, usernsLength)
	}
	return record, nil
}

// allocateUserns takes the first free range. The file is there before the pod
// is, and complete or not at all.
func (k *Kubelet) allocateUserns(path string) (record usernsRecord, err error) {
	taken := map[uint32]bool{}
	files, _ := filepath.Glob(filepath.Join(k.cfg.RootDir, "pods", "*", usernsFile))
	for _, file := range files {
		other, err := readUserns(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return record, err // whose range is unknown might be any
		}
		for _, r := range other.UIDs {
			taken[r.HostID] = true
		}
	}
	first := uint32(usernsLength)
	for taken[first] {
		if first += usernsLength; first == 0 {
			return record, errors.New("no range of IDs is left")
		}
	}
	mine := []usernsRange{{HostID: first, Length: usernsLength}}
	record = usernsRecord{UIDs: mine, GIDs: mine}
	raw, err := json.Marshal(record)
	if err == nil {
		err = replaceFile(path, raw)
	}
	return record, err
}

// handlerFeatures is what a handler of the runtime can do.
type handlerFeatures struct{ userNamespaces, recursiveReadOnly bool }

// supports says what the runtime said of a handler.
func (n *nodeReporter) supports(handler string) (out handlerFeatures) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range n.handlers {
		if h.Name == handler && h.Features != nil {
			out = handlerFeatures{isTrue(h.Features.UserNamespaces), isTrue(h.Features.RecursiveReadOnlyMounts)}
		}
	}
	return out
}

// strictGroups says whether the runtime can keep a container from the groups
// that its image's /etc/group names.
func (n *nodeReporter) strictGroups() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.features != nil && isTrue(n.features.SupplementalGroupsPolicy)
}
