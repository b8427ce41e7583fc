package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	goruntime "runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/api/version"
	"tinykube/internal/cgroup"
)

const (
	// runtimePatience is how long the runtime may be silent before the node
	// says so.
	runtimePatience = 30 * time.Second
)

// fillStatus writes what the node is like into its object.
func (n *nodeReporter) fillStatus(ctx context.Context, node *corev1.Node) {
	k, s := n.k, &node.Status
	s.Addresses = nil
	for _, ip := range k.hostIPs() {
		s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip})
	}
	s.Addresses = append(s.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: k.cfg.NodeName})
	// Extended resources of others (device plugins) stay in the lists.
	if s.Capacity == nil {
		s.Capacity, s.Allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	}
	for name, q := range k.capacity {
		s.Capacity[name] = q
	}
	for name, q := range k.allocatable() {
		s.Allocatable[name] = q
	}
	s.DaemonEndpoints.KubeletEndpoint.Port = k.cfg.Server.Port
	s.NodeInfo = nodeInfo(s.NodeInfo, n.runtimeVersion)
	if images, err := k.nodeImages(ctx); err == nil {
		s.Images = images
	}
	n.mu.Lock()
	s.Features, s.RuntimeHandlers = n.features, n.handlers
	n.mu.Unlock()
	// What schedulers and API servers of several versions ask for before they
	// send a pod that needs it; sorted.
	s.DeclaredFeatures = []string{"InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits"}
	s.VolumesInUse = k.volumes.csi.inUse()
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	set := func(kind corev1.NodeConditionType, status corev1.ConditionStatus, reason, text string) {
		setNodeCondition(s, corev1.NodeCondition{Type: kind, Status: status, Reason: reason, Message: text, LastHeartbeatTime: now})
	}
	k.evictor.pressureConditions(set)
	if err := k.nodeErrors(); err != nil {
		set(corev1.NodeReady, corev1.ConditionFalse, "KubeletNotReady", err.Error())
	} else {
		set(corev1.NodeReady, corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status")
	}
}

// nodeErrors is why the node is not ready.
func (k *Kubelet) nodeErrors() error {
	k.node.mu.Lock()
	failures := []error{k.node.runtime, k.node.network}
	k.node.mu.Unlock()
	failures = append(failures, k.relist.healthy(time.Now()), k.shutdown.err())
	failures = slices.DeleteFunc(failures, func(err error) bool { return err == nil })
	switch len(failures) {
	case 0:
		return nil
	case 1:
		return failures[0]
	}
	var texts []string
	for _, err := range failures {
		texts = append(texts, err.Error())
	}
	return fmt.Errorf("[%s]", strings.Join(texts, ", "))
}

// networkReady is nil once pods can have a network of their own.
func (k *Kubelet) networkReady() error {
	k.node.mu.Lock()
	defer k.node.mu.Unlock()
	if !k.node.checked {
		return errors.New("the container runtime has not been asked yet")
	}
	return k.node.network
}

// watchRuntime asks the runtime how it is. When the answer changes the node's
// status changes at once: everybody waits for the network of a new node.
func (k *Kubelet) watchRuntime(ctx context.Context) error {
	for {
		if k.node.askRuntime(ctx) {
			k.node.touchStatus()
			k.wakeAll()
		}
		period := 5 * time.Second
		if k.networkReady() != nil {
			period = time.Second
		}
		if !wait(ctx, period) {
			return nil
		}
	}
}

// askRuntime returns whether the answer differs from the last.
func (n *nodeReporter) askRuntime(ctx context.Context) (changed bool) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	answer, err := n.k.runtime.runtime.Status(ctx, &runtimeapi.StatusRequest{})
	now := time.Now()
	var notRunning, noNetwork error
	if err != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		// A runtime that is being restarted is no reason to send the node's
		// traffic elsewhere.
		if !n.checked || now.Sub(n.answered) < runtimePatience {
			return false
		}
		down := fmt.Errorf("container runtime is down: %s", message(err))
		changed, n.runtime = n.runtime == nil, down
		return changed
	}
	for _, c := range answer.GetStatus().GetConditions() {
		if c.Status {
			continue
		}
		text := fmt.Errorf("%s=false reason:%s message:%s", c.Type, c.Reason, c.Message)
		switch c.Type {
		case runtimeapi.RuntimeReady:
			notRunning = fmt.Errorf("container runtime not ready: %w", text)
		case runtimeapi.NetworkReady:
			noNetwork = fmt.Errorf("container runtime network not ready: %w", text)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	changed = !n.checked || (n.network == nil) != (noNetwork == nil) || (n.runtime == nil) != (notRunning == nil)
	n.checked, n.network, n.runtime, n.answered = true, noNetwork, notRunning, now
	n.noteFeatures(answer)
	return changed
}

func (n *nodeReporter) noteFeatures(answer *runtimeapi.StatusResponse) {
	if f := answer.Features; f != nil {
		n.features = &corev1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
	}
	n.handlers = nil
	for _, h := range answer.RuntimeHandlers {
		out := corev1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			out.Features = &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &f.UserNamespaces}
		}
		n.handlers = append(n.handlers, out)
	}
}

// setNodeCondition keeps the time of the last real change.
func setNodeCondition(s *corev1.NodeStatus, c corev1.NodeCondition) {
	c.LastTransitionTime = c.LastHeartbeatTime
	if old := findNodeCondition(s, c.Type); old != nil {
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

func findNodeCondition(s *corev1.NodeStatus, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// statusDiffers compares without the heartbeats, which always differ.
func statusDiffers(old, new *corev1.NodeStatus) bool {
	a, b := old.DeepCopy(), new.DeepCopy()
	for _, s := range []*corev1.NodeStatus{a, b} {
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
	}
	return !equal(a, b)
}

// hostIPs are the node's addresses: those it was given, or the first that the
// machine has.
func (k *Kubelet) hostIPs() []string {
	if len(k.cfg.NodeIPs) > 0 {
		return k.cfg.NodeIPs
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addresses {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
			return []string{ip.IP.String()}
		}
	}
	return nil
}

// capacity is what the node has: its share, if it was given one.
func capacity(cfg Config) corev1.ResourceList {
	cpu, memory := cfg.NodeCPU, cfg.NodeMemory
	if cpu.IsZero() {
		cpu = *resource.NewQuantity(int64(goruntime.NumCPU()), resource.DecimalSI)
	}
	if memory.IsZero() {
		memory.Set(machineMemory())
	}
	memory = *resource.NewQuantity(memory.Value(), resource.BinarySI) // told in Ki, however it was given
	out := corev1.ResourceList{
		corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory,
		corev1.ResourcePods: *resource.NewQuantity(int64(cfg.MaxPods), resource.DecimalSI),
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cfg.RootDir, &fs); err == nil {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(fs.Blocks)*fs.Bsize, resource.BinarySI)
	}
	return out
}

// machineMemory is the machine's memory, or what our cgroup may use of it.
func machineMemory() int64 {
	total := int64(cgroup.Table("/proc", "meminfo")["MemTotal:"]) << 10 // an unreadable one means no memory to give
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if limit, err := readNumber(file); err == nil {
			total = min(total, limit)
		}
	}
	return total
}

// allocatable is what pods may have: the capacity without what is reserved for
// the system, for Kubernetes, and for the moment in which memory runs out.
func (k *Kubelet) allocatable() corev1.ResourceList {
	out := k.capacity.DeepCopy()
	for _, reserved := range []corev1.ResourceList{k.cfg.SystemReserved, k.cfg.KubeReserved, hardReserve(k.cfg.Thresholds, k.capacity)} {
		for name, q := range reserved {
			have, found := out[name]
			if !found {
				continue
			}
			if have.Sub(q); have.Sign() < 0 {
				have = resource.Quantity{}
			}
			out[name] = have
		}
	}
	return out
}

// podsLimit is the memory of all pods together: eviction needs room between
// what is promised and where the kernel starts to kill.
func (k *Kubelet) podsLimit() int64 {
	limit := k.capacity.Memory().Value()
	for _, reserved := range []corev1.ResourceList{k.cfg.SystemReserved, k.cfg.KubeReserved} {
		limit -= reserved.Memory().Value()
	}
	return max(limit, 0)
}

// nodeImages lists the largest images, as the scheduler's image locality wants.
func (k *Kubelet) nodeImages(ctx context.Context) ([]corev1.ContainerImage, error) {
	answer, err := k.runtime.images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, err
	}
	var out []corev1.ContainerImage
	for _, image := range answer.Images {
		names := append(slices.Clone(image.RepoDigests), image.RepoTags...)
		if len(names) > 0 {
			out = append(out, corev1.ContainerImage{Names: names[:min(len(names), 5)], SizeBytes: int64(image.Size)})
		}
	}
	slices.SortFunc(out, func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), cmp.Compare(a.Names[0], b.Names[0]))
	})
	if most := k.cfg.MaxNodeImages; most >= 0 {
		out = out[:min(len(out), most)]
	}
	return out, nil
}

func nodeInfo(old corev1.NodeSystemInfo, runtimeVersion string) corev1.NodeSystemInfo {
	read := func(paths ...string) string {
		for _, p := range paths {
			if raw, err := os.ReadFile(p); err == nil {
				return strings.TrimSpace(string(raw))
			}
		}
		return ""
	}
	info := old
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		info.KernelVersion = unix.ByteSliceToString(name.Release[:])
	}
	info.MachineID = read("/etc/machine-id", "/var/lib/dbus/machine-id")
	info.SystemUUID = cmp.Or(strings.ToLower(read("/sys/class/dmi/id/product_uuid")), info.MachineID)
	info.BootID = read("/proc/sys/kernel/random/boot_id")
	info.OSImage = "Linux"
	for _, line := range strings.Split(read("/etc/os-release", "/usr/lib/os-release"), "\n") {
		if value, found := strings.CutPrefix(line, "PRETTY_NAME="); found {
			info.OSImage = strings.Trim(value, `"`)
		}
	}
	info.ContainerRuntimeVersion = runtimeVersion
	info.KubeletVersion = version.Git
	info.OperatingSystem, info.Architecture = goruntime.GOOS, goruntime.GOARCH
	return info
}
