package kubelet

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/api/qos"
	"tinykube/api/requests"
)

// A pod's resources change in place in two steps (allocation.go has the
// picture). The node grants what it has room for; until then the condition
// PodResizePending says why not. Then the pod's worker carries it out, which is
// PodResizeInProgress: it makes the pod's group wide enough for both the old and
// the new, tells the runtime container by container, and makes the group as
// narrow as it shall be. A container whose resizePolicy asks for it gets
// another life instead (plan.go).
//
// Upstream: kubernetes@v1.36 pkg/kubelet/allocation, and kuberuntime doPodResizeAction.
type resizeConditions struct {
	pending, inProgress *corev1.PodCondition
}

// restoredResize is what an earlier kubelet has told of the pod.
func restoredResize(status corev1.PodStatus) (r resizeConditions) {
	for _, c := range status.Conditions {
		switch c.Type {
		case corev1.PodResizePending:
			r.pending = &c
		case corev1.PodResizeInProgress:
			r.inProgress = &c
		}
	}
	return r
}

func (r resizeConditions) list() (out []corev1.PodCondition) {
	for _, c := range []*corev1.PodCondition{r.pending, r.inProgress} {
		if c != nil {
			out = append(out, *c)
		}
	}
	return out
}

func resizeCondition(kind corev1.PodConditionType, generation int64, reason, message string, was *corev1.PodCondition) *corev1.PodCondition {
	now := *seconds(time.Now())
	c := &corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, ObservedGeneration: generation, Reason: reason, Message: message,
		LastProbeTime: now, LastTransitionTime: now}
	if was != nil && was.Reason == reason {
		c.LastTransitionTime = was.LastTransitionTime
	}
	return c
}

// resizePods grants what pods ask for by now, as far as the node has it. Those
// come first that ask for less, then the more important, then who has waited
// longest. It is called again and again, so that nobody needs to be told when
// room has been made. The caller holds k.mu.
func (k *Kubelet) resizePods() {
	var waiting []*worker
	for _, w := range k.workers {
		if w.wantsResize() {
			waiting = append(waiting, w)
		}
	}
	if len(waiting) == 0 {
		return
	}
	slices.SortFunc(waiting, func(a, b *worker) int {
		return cmp.Or(compareBools(b.growing(), a.growing()), cmp.Compare(priority(b.wanted), priority(a.wanted)),
			compareBools(qos.Of(a.wanted) == corev1.PodQOSGuaranteed, qos.Of(b.wanted) == corev1.PodQOSGuaranteed),
			a.pendingSince().Compare(b.pendingSince()), cmp.Compare(a.key, b.key))
	})
	for _, w := range waiting {
		if err := k.resizePod(w); err != nil {
			k.log.Warn("pod resize", "key", w.key, "err", err)
		}
	}
	all, _ := k.placedPods(nil)
	if err := k.cgroups.setBurstableShares(all); err != nil {
		k.log.Warn("weight of the burstable pods", "err", err)
	}
}

// wantsResize says whether the pod asks for something else than it has.
func (w *worker) wantsResize() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.placed && w.wanted != w.pod && w.ending == nil && !w.removed && !isTerminal(w.status.Phase)
}

// growing says whether the pod asks for more than it has.
func (w *worker) growing() bool {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		has, asks := specRequests(w.pod)[name], specRequests(w.wanted)[name]
		if asks.Cmp(has) > 0 {
			return true
		}
	}
	return false
}

func (w *worker) pendingSince() time.Time {
	if w.resize.pending == nil {
		return time.Now()
	}
	return w.resize.pending.LastTransitionTime.Time
}

// specRequests is what a pod's spec requests, whatever its status says of a
// resize on its way.
func specRequests(pod *corev1.Pod) corev1.ResourceList {
	return requests.Pod(&corev1.Pod{Spec: pod.Spec})
}

// resizePod grants what one pod asks for, or says why it must wait. Whether the
// node could ever do it the API server has checked already.
func (k *Kubelet) resizePod(w *worker) error {
	wanted := w.wanted
	others, staying := k.placedPods(w)
	short := shortages(wanted, others, k.allocatable())
	if len(short) > 0 {
		refusal := short[0].rejection()
		if short := shortages(wanted, staying, k.allocatable()); len(short) > 0 {
			if r, _ := k.makeRoom(wanted, staying, short); r != nil { // else others are on their way out
				refusal = r
			}
		}
		w.deferResize(wanted, refusal)
		return nil
	}
	if err := k.allocated.set(w.uid, grantOf(wanted)); err != nil {
		return err
	}
	w.mu.Lock()
	w.pod = wanted
	w.resize = resizeConditions{inProgress: resizeCondition(corev1.PodResizeInProgress, wanted.Generation, "", "", nil)}
	w.mu.Unlock()
	k.eventf(wanted, corev1.EventTypeNormal, "ResizeStarted", "%s", resizeMessage("Pod resize started", wanted, wanted.Generation, ""))
	w.poke()
	return nil
}

// deferResize tells why the pod must wait.
func (w *worker) deferResize(wanted *corev1.Pod, why *rejection) {
	w.mu.Lock()
	was := w.resize.pending
	again := was != nil && was.Reason == corev1.PodReasonDeferred && was.ObservedGeneration == wanted.Generation
	if again && was.Message == why.message {
		w.mu.Unlock()
		return
	}
	w.resize.pending = resizeCondition(corev1.PodResizePending, wanted.Generation, corev1.PodReasonDeferred, why.message, was)
	w.mu.Unlock()
	if !again {
		w.k.eventf(wanted, corev1.EventTypeWarning, "ResizeDeferred", "%s",
			resizeMessage("Pod resize "+why.reason, wanted, wanted.Generation, why.message))
	}
	w.poke()
}

// resizeMessage is an event's text: what happened, and to what resources.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/events/resize.go.
func resizeMessage(what string, pod *corev1.Pod, generation int64, problem string) string {
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	}
	var summary struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}
	for _, c := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, container{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, container{c.Name, c.Resources})
	}
	summary.Generation, summary.Error = generation, problem
	raw, _ := json.Marshal(summary) // names and quantities
	return what + ": " + string(raw)
}

// differs says whether a running container has been given something else than
// is allocated to it, and whether it must be restarted for that. Init containers
// that end by themselves are left alone: their next life has it.
func (c *observedContainer) differs(pod *corev1.Pod, spec *corev1.Container) (differs, restart bool) {
	if c.given == nil || !c.running() || isInit(pod, spec.Name) && !isSidecar(spec) {
		return false, false
	}
	want := effective(pod, spec)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if c.given.Requests[name].Equal(want.Requests[name]) && c.given.Limits[name].Equal(want.Limits[name]) {
			continue
		}
		differs = true
		for _, policy := range spec.ResizePolicy {
			restart = restart || policy.ResourceName == name && policy.RestartPolicy == corev1.RestartContainer
		}
	}
	return differs, restart
}

// resizing lists the running containers that differ, and says whether any of
// them must be restarted.
func resizing(pod *corev1.Pod, seen *observedPod) (inPlace []*corev1.Container, restarts bool) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			latest := seen.latest(list[i].Name)
			if latest == nil {
				continue
			}
			differs, restart := latest.differs(pod, &list[i])
			if restarts = restarts || restart; differs && !restart {
				inPlace = append(inPlace, &list[i])
			}
		}
	}
	return inPlace, restarts
}

// actuate carries an allocated resize out, and finds in its next look that it is
// done. What goes wrong is told, and tried again; the rest of the pod goes on
// meanwhile.
func (w *worker) actuate(ctx context.Context, pod *corev1.Pod, seen *observedPod) error {
	inPlace, restarts := resizing(pod, seen)
	w.mu.Lock()
	was, stale := w.resize.inProgress, !equal(grantOf(w.pod), grantOf(pod))
	w.mu.Unlock()
	if stale { // granted since we began to look: the next look is due
		return nil
	}
	left := restarts || len(inPlace) > 0
	if !left && was == nil {
		return nil
	}
	next := was
	if was == nil { // the kubelet was killed before it had said so
		next = resizeCondition(corev1.PodResizeInProgress, pod.Generation, "", "", nil)
	}
	err := w.k.resizeContainers(ctx, pod, seen, inPlace, left)
	switch {
	case ctx.Err() != nil: // not a failure
	case err != nil && (next.Reason == "" || next.Message != err.Error()):
		w.k.eventf(pod, corev1.EventTypeWarning, "ResizeError", "%s", resizeMessage("Pod resize error", pod, next.ObservedGeneration, err.Error()))
		next = resizeCondition(next.Type, next.ObservedGeneration, corev1.PodReasonError, err.Error(), next)
	case err == nil && left:
		w.poke()
	case err == nil:
		w.k.eventf(pod, corev1.EventTypeNormal, "ResizeCompleted", "%s", resizeMessage("Pod resize completed", pod, next.ObservedGeneration, ""))
		next = nil
	}
	w.mu.Lock()
	if w.resize.inProgress == was { // else another resize has begun
		w.resize.inProgress = next
	}
	w.mu.Unlock()
	return err
}

func (w *worker) resizeInProgress() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resize.inProgress != nil
}

// resizeContainers changes what runs, and the group around it; last, when
// nothing is left to change, it takes from the group what is too much.
//
// Invariant: at no time is the pod's group narrower than a container in it:
// cgroup v1 refuses that.
func (k *Kubelet) resizeContainers(ctx context.Context, pod *corev1.Pod, seen *observedPod, inPlace []*corev1.Container, left bool) error {
	sandbox := seen.sandbox()
	if sandbox == nil || !seen.alive() {
		return nil // they will be made as they shall be
	}
	if err := k.checkMemoryUse(ctx, pod, seen, sandbox.Id, inPlace); err != nil {
		return err
	}
	_, err := k.runtime.runtime.UpdatePodSandboxResources(ctx, &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: sandbox.Id, Resources: podResources(pod)})
	if err != nil && status.Code(err) != codes.Unimplemented {
		return fmt.Errorf("updatePodSandboxResources failed for sanboxID %q: %s", sandbox.Id, message(err))
	}
	if err := k.cgroups.widenPod(pod); err != nil {
		return err
	}
	for _, c := range inPlace {
		_, err := k.runtime.runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: seen.latest(c.Name).Id, Linux: k.containerResources(pod, c)})
		if err != nil {
			return fmt.Errorf("update resources of container %s: %s", c.Name, message(err))
		}
		if err := k.runtime.given.setContainer(pod, c); err != nil {
			return err
		}
	}
	if left {
		return nil
	}
	return k.cgroups.ensurePod(pod)
}

// checkMemoryUse refuses to take memory away that is in use: on cgroup v2 the
// kernel would not refuse, but kill.
func (k *Kubelet) checkMemoryUse(ctx context.Context, pod *corev1.Pod, seen *observedPod, sandbox string, inPlace []*corev1.Container) error {
	less := map[string]int64{}
	for _, c := range inPlace {
		limits := effective(pod, c).Limits
		want, has := limits.Memory().Value(), seen.latest(c.Name).given.Limits.Memory().Value()
		if want > 0 && (has == 0 || want < has) {
			less[c.Name] = want
		}
	}
	limit := podResources(pod).MemoryLimitInBytes
	podLess := limit > 0 && k.cgroups.memoryLimit(pod) > limit
	if len(less) == 0 && !podLess {
		return nil
	}
	answer, err := k.runtime.runtime.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: sandbox})
	if err != nil {
		return fmt.Errorf("unable to read memory usage for pod %q", podTitle(pod))
	}
	var errs []error
	if used := int64(answer.GetStats().GetLinux().GetMemory().GetUsageBytes().GetValue()); podLess && used >= limit {
		errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", limit, used))
	}
	for _, s := range answer.GetStats().GetLinux().GetContainers() {
		name := s.GetAttributes().GetMetadata().GetName()
		if used := int64(s.GetMemory().GetUsageBytes().GetValue()); less[name] > 0 && used >= less[name] {
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", name, less[name], used))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot decrease memory limits: %w", utilerrors.NewAggregate(errs))
	}
	return nil
}
