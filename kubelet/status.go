package kubelet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/api/qos"
)

// statusInput is all that a pod's status is derived from.
type statusInput struct {
	pod      *corev1.Pod
	seen     *observedPod
	old      corev1.PodStatus
	waiting  map[string]*waitError
	terminal bool // the pod has ended: nothing will start again
	resize   []corev1.PodCondition
	over     bool // all its containers restart together
	reason   string
	message  string // set when the kubelet itself ended the pod

	disruption bool // it did so for the node's sake
	rejected   bool // it never let it in
	hostIPs    []string

	recursiveReadOnly bool // the runtime can do it
	now               time.Time
	verdictOf         func(*observedContainer) verdict
	readyOf           func(*observedContainer) bool
}

// podStatus derives what the API shall say about the pod. It is a pure
// function of its input but for the termination messages, which lie in files.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_pods.go generateAPIPodStatus.
func podStatus(in statusInput) corev1.PodStatus {
	status := *in.old.DeepCopy()
	in.over = mayRestartAll(in.pod) && (restartsAll(in.pod, in.seen) || conditionTrue(status, corev1.AllContainersRestarting))
	status.QOSClass = qos.Of(in.pod)
	status.ObservedGeneration = in.pod.Generation
	if status.StartTime == nil { // nothing was told of it yet: it began with its first sandbox
		status.StartTime = seconds(in.now)
		if n := len(in.seen.sandboxes); n > 0 {
			status.StartTime = seconds(time.Unix(0, in.seen.sandboxes[n-1].CreatedAt))
		}
	}
	status.InitContainerStatuses = nil
	for i := range in.pod.Spec.InitContainers {
		s := containerStatus(in, &in.pod.Spec.InitContainers[i])
		status.InitContainerStatuses = append(status.InitContainerStatuses, s)
	}
	initialized := len(pendingInits(in.pod, status.InitContainerStatuses)) == 0
	status.ContainerStatuses, status.EphemeralContainerStatuses = nil, nil
	for i := range in.pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, containerStatus(in, &in.pod.Spec.Containers[i]))
	}
	for i := range in.pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&in.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		s := containerStatus(in, c)
		s.Ready, s.Started = false, nil // no probes and no traffic: nobody asks
		status.EphemeralContainerStatuses = append(status.EphemeralContainerStatuses, s)
	}
	// Init containers are told in their order, the others by name.
	for _, list := range [][]corev1.ContainerStatus{status.ContainerStatuses, status.EphemeralContainerStatuses} {
		slices.SortFunc(list, func(a, b corev1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	}
	if !isTerminal(in.old.Phase) { // what has ended stays ended
		status.Phase = podPhase(in.pod, status, initialized, in.terminal)
		if in.terminal && in.reason != "" {
			status.Phase = corev1.PodFailed
		}
		if in.reason != "" {
			status.Reason, status.Message = in.reason, in.message
		}
	}
	if in.rejected { // there is nothing more to tell
		return corev1.PodStatus{ObservedGeneration: status.ObservedGeneration, QOSClass: status.QOSClass, StartTime: status.StartTime,
			Phase: status.Phase, Reason: status.Reason, Message: status.Message}
	}
	setResources(&status, in.pod)
	setAddresses(&status, in)
	setConditions(&status, in)
	shortenMessages(in.pod, &status)
	return status
}

// maxMessages bounds what all containers of a pod have to say at their end.
const maxMessages = 12 << 10

// shortenMessages gives each container its share, however much it has said.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/status normalizeStatus.
func shortenMessages(pod *corev1.Pod, status *corev1.PodStatus) {
	share := maxMessages / max(1, len(allContainers(pod)))
	for _, s := range allStatuses(status) {
		for _, ended := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if ended != nil {
				ended.Message = ended.Message[:min(len(ended.Message), share)]
			}
		}
	}
}

// allStatuses lists what is told of containers of any sort.
func allStatuses(status *corev1.PodStatus) (all []*corev1.ContainerStatus) {
	for _, list := range [][]corev1.ContainerStatus{status.InitContainerStatuses, status.ContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	return all
}

// statusOf is what is told of a container, or nil.
func statusOf(status *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, s := range allStatuses(status) {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// containerStatus derives one container's status from its observed lives.
func containerStatus(in statusInput, c *corev1.Container) corev1.ContainerStatus {
	old, started := statusOf(&in.old, c.Name), false
	out := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &started, VolumeMounts: mountStatuses(c, in.recursiveReadOnly)}
	lives := in.seen.attempts(c.Name)
	if len(lives) == 0 {
		return unseenStatus(in, c, old, out)
	}
	latest := lives[0]
	out.RestartCount = int32(latest.attempt())
	if old != nil { // one that never logged anything left nothing to count
		out.RestartCount = max(out.RestartCount, old.RestartCount)
	}
	out.ContainerID = latest.fullID()
	out.ImageID = latest.ImageRef
	if image := latest.Image.GetUserSpecifiedImage(); image != "" {
		out.Image = image
	} else if image := latest.Image.GetImage(); image != "" && !strings.HasPrefix(image, "sha256:") {
		out.Image = image
	}
	out.Resources = actualResources(c, latest)
	out.AllocatedResources = c.Resources.Requests.DeepCopy()
	out.User = containerUser(latest)
	out.State = containerState(latest)
	if len(lives) > 1 && lives[1].exited() {
		out.LastTerminationState = containerState(lives[1])
	} else if old != nil && old.RestartCount == out.RestartCount {
		out.LastTerminationState = old.LastTerminationState // collected since
	}
	switch {
	case latest.running():
		started = in.verdictOf(latest).started
		out.Ready = in.readyOf(latest)
	case latest.exited():
		out.Ready = isInit(in.pod, c.Name) && !isSidecar(c) && latest.ExitCode == 0
		// It waits for another life: the last one is history already.
		if why := in.waiting[c.Name]; why != nil && !in.terminal && shouldStart(in.pod, c, latest) {
			out.LastTerminationState = out.State
			out.State = waitingState(why.reason, why.text)
		}
	default:
		out.State = waitingFor(in, c)
	}
	return out
}

// unseenStatus is the status of a container of which the runtime knows nothing.
func unseenStatus(in statusInput, c *corev1.Container, old *corev1.ContainerStatus, out corev1.ContainerStatus) corev1.ContainerStatus {
	out.State = waitingFor(in, c)
	if old == nil {
		return out
	}
	out.RestartCount, out.LastTerminationState = old.RestartCount, old.LastTerminationState
	switch {
	case in.over && old.State.Waiting == nil:
		const text = "The container is removed because RestartAllContainers in place"
		out.RestartCount++
		out.State = waitingState(reasonRestartingAll, text)
		out.LastTerminationState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: reasonRestartingAll, Message: text, ExitCode: 137}}
	case old.State.Terminated != nil: // collected; what was said of it stays true
		kept := *old.DeepCopy()
		return kept
	case old.State.Running != nil && in.terminal:
		out.ContainerID, out.ImageID = old.ContainerID, old.ImageID
		out.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason: "ContainerStatusUnknown", ExitCode: 137, ContainerID: old.ContainerID,
			Message: "The container could not be located when the pod was terminated"}}
	}
	return out
}

// waitingFor says why a container that never ran in this pod is not there yet.
func waitingFor(in statusInput, c *corev1.Container) corev1.ContainerState {
	if why := in.waiting[c.Name]; why != nil {
		return waitingState(why.reason, why.text)
	}
	if len(in.pod.Spec.InitContainers) > 0 {
		return waitingState(reasonInitializing, "")
	}
	return waitingState(reasonCreating, "")
}

func waitingState(reason, text string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: text}}
}

func containerState(c *observedContainer) corev1.ContainerState {
	startedAt := *seconds(time.Unix(0, c.StartedAt))
	if c.running() {
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: startedAt}}
	}
	if !c.exited() {
		return waitingState(reasonCreating, "")
	}
	t := &corev1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: terminationMessage(c),
		StartedAt: startedAt, FinishedAt: *seconds(time.Unix(0, c.FinishedAt)), ContainerID: c.fullID()}
	if c.ExitCode == 0 && t.Reason == "" {
		t.Reason = "Completed"
	} else if t.Reason == "" {
		t.Reason = "Error"
	}
	return corev1.ContainerState{Terminated: t}
}

// terminationMessage is what the runtime says of a container's end and, behind
// it, the end of what the container left in its message file, or of its log if
// it failed without a word and asked for that.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kuberuntime convertToKubeContainerStatus.
func terminationMessage(c *observedContainer) string {
	const fileLimit, logLimit, logLines = 4096, 2048, 80
	path, left := c.Annotations[annotationTerminationPath], ""
	for _, m := range c.Mounts {
		if path != "" && m.ContainerPath == path {
			raw, _ := readTail(m.HostPath, fileLimit)
			left = string(raw)
		}
	}
	fallback := c.Annotations[annotationTerminationPolicy] == string(corev1.TerminationMessageFallbackToLogsOnError)
	if left == "" && fallback && c.ExitCode != 0 && c.Reason != "ContainerCannotRun" {
		left = logTail(c.LogPath, logLines, logLimit)
	}
	if c.Message != "" && left != "" {
		return c.Message + ": " + left
	}
	return c.Message + left
}

func mountStatuses(c *corev1.Container, recursive bool) []corev1.VolumeMountStatus {
	var out []corev1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		s := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if all, err := recursiveReadOnly(m, recursive); err == nil && all {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

func containerUser(c *observedContainer) *corev1.ContainerUser {
	u := c.User.GetLinux()
	if u == nil {
		return nil
	}
	return &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
}

// pendingInits names the init containers that still stand before the others.
func pendingInits(pod *corev1.Pod, statuses []corev1.ContainerStatus) []string {
	var out []string
	for i, s := range statuses {
		done := s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
		if isSidecar(&pod.Spec.InitContainers[i]) {
			done = s.Started != nil && *s.Started
		}
		if !done {
			out = append(out, s.Name)
		}
	}
	return out
}

// podPhase sums the containers up.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kubelet_pods.go getPhase.
func podPhase(pod *corev1.Pod, status corev1.PodStatus, initialized, terminal bool) corev1.PodPhase {
	var running, waiting, succeeded, failed int
	restarting := false
	for _, s := range status.ContainerStatuses {
		if c := findContainer(pod, s.Name); c != nil && s.State.Terminated != nil {
			restarting = restarting || restarts(pod, c, s.State.Terminated.ExitCode)
		}
		switch {
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil && s.State.Terminated.ExitCode == 0:
			succeeded++
		case s.State.Terminated != nil:
			failed++
		case s.LastTerminationState.Terminated != nil: // between two lives
			failed++
			restarting = true
		default:
			waiting++
		}
	}
	initializes := false // perhaps in its second sandbox: what the others did before counts no more
	for i, s := range status.InitContainerStatuses {
		initializes = initializes || s.State.Running != nil && !isSidecar(&pod.Spec.InitContainers[i])
	}
	if !initialized && running == 0 && succeeded+failed == 0 {
		for i, s := range status.InitContainerStatuses {
			c := &pod.Spec.InitContainers[i]
			over := s.State.Terminated != nil && s.State.Terminated.ExitCode != 0
			if over && (!restarts(pod, c, s.State.Terminated.ExitCode) || terminal) {
				return corev1.PodFailed
			}
		}
		if !terminal {
			return corev1.PodPending
		}
	}
	switch {
	case terminal && failed+waiting+running == 0 && succeeded > 0:
		return corev1.PodSucceeded
	case terminal:
		return corev1.PodFailed
	case waiting > 0, initializes:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case succeeded+failed == 0:
		return corev1.PodPending
	case restarting:
		return corev1.PodRunning
	case failed > 0:
		return corev1.PodFailed
	}
	return corev1.PodSucceeded
}

// setAddresses keeps the last addresses of a pod whose sandbox is gone.
func setAddresses(status *corev1.PodStatus, in statusInput) {
	status.HostIP, status.HostIPs = first(in.hostIPs), nil
	for _, ip := range in.hostIPs {
		status.HostIPs = append(status.HostIPs, corev1.HostIP{IP: ip})
	}
	ips := in.seen.ips()
	if in.pod.Spec.HostNetwork && in.seen.sandbox() != nil {
		ips = in.hostIPs
	}
	if len(ips) == 0 {
		return
	}
	status.PodIP, status.PodIPs = ips[0], nil
	for _, ip := range ips {
		status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
	}
}

// setConditions sets the conditions that are the kubelet's, and no others.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/status/generate.go.
func setConditions(status *corev1.PodStatus, in statusInput) {
	sandbox := in.seen.sandbox()
	networked := sandbox != nil && sandbox.State == runtimeapi.PodSandboxState_SANDBOX_READY
	set := func(kind corev1.PodConditionType, ok bool, reason, text string) {
		condition := corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, ObservedGeneration: in.pod.Generation}
		if !ok {
			condition.Status = corev1.ConditionFalse
		}
		condition.Reason, condition.Message = reason, text
		upsertCondition(status, condition, in.now)
	}
	isResize := func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress
	}
	status.Conditions = slices.DeleteFunc(status.Conditions, isResize)
	if !isTerminal(status.Phase) {
		status.Conditions = append(slices.Clone(in.resize), status.Conditions...)
	}
	set(corev1.PodReadyToStartContainers, networked, "", "")

	pending := pendingInits(in.pod, status.InitContainerStatuses)
	switch {
	case status.Phase == corev1.PodSucceeded:
		set(corev1.PodInitialized, true, "PodCompleted", "")
	case len(pending) > 0 && !anyStarted(status.ContainerStatuses) && !conditionTrue(*status, corev1.PodInitialized):
		set(corev1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", pending))
	default:
		set(corev1.PodInitialized, true, "", "")
	}

	ready, reason, text := containersReady(in.pod, *status)
	gatesOK, gateText := gatesPassed(in.pod)
	if ready && !gatesOK {
		set(corev1.PodReady, false, "ReadinessGatesNotReady", gateText)
	} else {
		set(corev1.PodReady, ready, reason, text)
	}
	set(corev1.ContainersReady, ready, reason, text)
	// A pod that reached a kubelet is scheduled, whoever did it.
	set(corev1.PodScheduled, true, "", "")
	if mayRestartAll(in.pod) {
		upsertCondition(status, restartingAll(in, *status), in.now)
	}
	if in.disruption {
		set(corev1.DisruptionTarget, true, corev1.PodReasonTerminationByKubelet, in.message)
	}
}

func conditionTrue(status corev1.PodStatus, kind corev1.PodConditionType) bool {
	return slices.ContainsFunc(status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
}

func anyStarted(statuses []corev1.ContainerStatus) bool {
	return slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.ContainerID != "" })
}

func containersReady(pod *corev1.Pod, status corev1.PodStatus) (ok bool, reason, text string) {
	switch status.Phase {
	case corev1.PodSucceeded:
		return false, "PodCompleted", ""
	case corev1.PodFailed:
		return false, "PodFailed", ""
	}
	var unready []string
	for i, s := range status.InitContainerStatuses {
		if isSidecar(&pod.Spec.InitContainers[i]) && !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	for _, s := range status.ContainerStatuses {
		if !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	if len(unready) > 0 {
		return false, "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
	}
	return true, "", ""
}

// gatesPassed looks for conditions that others write, in what the API shows.
func gatesPassed(pod *corev1.Pod) (bool, string) {
	status := pod.Status
	var texts []string
	for _, gate := range pod.Spec.ReadinessGates {
		i := slices.IndexFunc(status.Conditions, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
		switch {
		case i < 0:
			texts = append(texts, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case status.Conditions[i].Status != corev1.ConditionTrue:
			texts = append(texts, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, status.Conditions[i].Status))
		}
	}
	return len(texts) == 0, strings.Join(texts, ", ")
}

func upsertCondition(status *corev1.PodStatus, c corev1.PodCondition, now time.Time) {
	c.LastTransitionTime = *seconds(now)
	i := slices.IndexFunc(status.Conditions, func(old corev1.PodCondition) bool { return old.Type == c.Type })
	if i < 0 {
		status.Conditions = append(status.Conditions, c)
		return
	}
	if old := status.Conditions[i]; old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	status.Conditions[i] = c
}

// seconds is a time as JSON will carry it: what is read back must be equal to
// what was written.
func seconds(t time.Time) *metav1.Time {
	out := metav1.NewTime(t.Truncate(time.Second))
	return &out
}
