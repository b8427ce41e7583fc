package kubelet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"tinykube/api/requests"
)

// The pod worker's state machine, as a pure function: what the pod should be
// and what is there, in; what to do next, out. It remembers nothing, so it
// gives the same answer to a kubelet that has just been killed and restarted.
//
//	no sandbox, or a dead one ─▶ stop the rest, make a sandbox
//	                                  │
//	             init 1 ─▶ init 2 ─▶ …│each to its end, a sidecar to "started"
//	                                  ▼
//	                     every container: running, or restarted by policy

// stopOrder is a container that must go, and what to tell about it.
type stopOrder struct {
	container *observedContainer
	message   string
	probe     string // that gave it up, if one did
}

// podPlan is the next step of one pod.
type podPlan struct {
	stopPod       bool // stop every container and sandbox that is left
	createSandbox bool
	attempt       uint32      // of the sandbox to create
	stop          []stopOrder // containers to stop before anything starts
	start         []*corev1.Container
}

func (p *podPlan) empty() bool {
	return !p.stopPod && !p.createSandbox && len(p.stop) == 0 && len(p.start) == 0
}

// verdict is what the probes say of one running container.
type verdict struct {
	started bool   // its startup probe has passed, or it has none
	unfit   string // "liveness" or "startup" when that probe failed for good
}

// planPod decides the next step of a pod that should run.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kuberuntime computePodActions.
//
// LAB 13 plan: first the sandbox, with all that a new one asks for, then the
// init containers, then the others. The helpers below answer one question each;
// which ones, in what order, and where to stop, is the state machine.
func planPod(pod *corev1.Pod, seen *observedPod, verdictOf func(*observedContainer) verdict) podPlan {
	sandbox := seen.sandbox()
	if needNewSandbox(pod, seen) {
		// A pod whose work is done needs no new sandbox to be done in.
		if !anythingToRun(pod, seen) {
			return podPlan{stopPod: seen.alive()}
		}
		// Even a dead sandbox is stopped: that gives its address back.
		plan := podPlan{createSandbox: true, stopPod: sandbox != nil}
		if sandbox != nil {
			plan.attempt = sandbox.Metadata.GetAttempt() + 1
		}
		if len(pod.Spec.InitContainers) > 0 {
			plan.start = []*corev1.Container{&pod.Spec.InitContainers[0]}
			return plan
		}
		for i := range pod.Spec.Containers {
			c := &pod.Spec.Containers[i]
			if shouldStart(pod, c, seen.latest(c.Name)) {
				plan.start = append(plan.start, c)
			}
		}
		return plan
	}
	var plan podPlan
	if initialized := planInit(&plan, pod, seen, sandbox.Id, verdictOf); !initialized {
		return plan
	}
	for i := range pod.Spec.Containers {
		planContainer(&plan, pod, &pod.Spec.Containers[i], seen, verdictOf)
	}
	planEphemeral(&plan, pod, seen)
	return plan
}

// needNewSandbox says whether the newest sandbox can no longer hold the pod.
func needNewSandbox(pod *corev1.Pod, seen *observedPod) bool {
	newest := seen.sandbox()
	switch {
	case !isReady(newest), slices.ContainsFunc(seen.sandboxes[1:], isReady):
		return true
	case usesHostNetwork(newest) != pod.Spec.HostNetwork:
		return true
	case !pod.Spec.HostNetwork && newest.Network.GetIp() == "":
		return true
	}
	return false
}

// anythingToRun says whether a new sandbox would get any container.
func anythingToRun(pod *corev1.Pod, seen *observedPod) bool {
	return slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return shouldStart(pod, &c, seen.latest(c.Name)) })
}

// planInit walks the init containers in order and stops at the first that is
// not done yet. It returns whether the regular containers may run.
func planInit(plan *podPlan, pod *corev1.Pod, seen *observedPod, sandboxID string, verdictOf func(*observedContainer) verdict) bool {
	passed := initPassed(pod, seen, sandboxID)
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		latest := seen.latestIn(sandboxID, c.Name)
		if isSidecar(c) {
			if latest != nil && latest.running() && unfit(plan, pod, c, latest, verdictOf) == "" {
				if i >= passed && !verdictOf(latest).started {
					return false
				}
				continue
			}
			plan.start = append(plan.start, c)
			if i >= passed {
				return false
			}
			continue
		}
		if i < passed {
			continue // something later ran already; this one may be collected
		}
		switch {
		case latest == nil, latest.State == runtimeapi.ContainerState_CONTAINER_CREATED,
			latest.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN:
			plan.start = append(plan.start, c)
			return false
		case latest.running():
			return false
		case latest.ExitCode != 0:
			// With policy Never the pod has failed; the caller sees the status.
			if restarts(pod, c, latest.ExitCode) {
				plan.start = append(plan.start, c)
			}
			return false
		}
	}
	return true
}

// initPassed is how many init containers have already been got past: all of
// them once a regular container exists in the sandbox.
func initPassed(pod *corev1.Pod, seen *observedPod, sandboxID string) int {
	for i := range pod.Spec.Containers {
		if seen.latestIn(sandboxID, pod.Spec.Containers[i].Name) != nil {
			return len(pod.Spec.InitContainers)
		}
	}
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		if seen.latestIn(sandboxID, pod.Spec.InitContainers[i].Name) != nil {
			return i
		}
	}
	return 0
}

func planContainer(plan *podPlan, pod *corev1.Pod, c *corev1.Container, seen *observedPod, verdictOf func(*observedContainer) verdict) {
	latest := seen.latest(c.Name)
	if latest == nil || !latest.running() {
		if shouldStart(pod, c, latest) {
			plan.start = append(plan.start, c)
		}
		return
	}
	reason := unfit(plan, pod, c, latest, verdictOf)
	if reason == "" {
		return
	}
	// A changed spec is always brought about; a failed probe only where the
	// policy allows another life.
	if reason == "changed" || restartPolicy(pod, c) != corev1.RestartPolicyNever {
		plan.start = append(plan.start, c)
	}
}

// unfit orders a running container's end if its spec changed, what it may use
// too and that needs another life, or a probe gave it up; and says why.
func unfit(plan *podPlan, pod *corev1.Pod, c *corev1.Container, latest *observedContainer, verdictOf func(*observedContainer) verdict) string {
	who, then := "Container", ", will be restarted"
	if isSidecar(c) {
		who, then = "Init container", "" // as upstream says it
	}
	if recorded := latest.Annotations[annotationHash]; recorded != "" && recorded != containerHash(c) {
		plan.stop = append(plan.stop, stopOrder{latest, fmt.Sprintf("%s %s definition changed%s", who, c.Name, then), ""})
		return "changed"
	}
	if _, restart := latest.differs(pod, c); restart {
		plan.stop = append(plan.stop, stopOrder{latest, fmt.Sprintf("Container %s resize requires restart", c.Name), ""})
		return "changed"
	}
	if probe := verdictOf(latest).unfit; probe != "" {
		if restartPolicy(pod, c) == corev1.RestartPolicyNever {
			then = ""
		}
		plan.stop = append(plan.stop, stopOrder{latest, fmt.Sprintf("%s %s failed %s probe%s", who, c.Name, probe, then), probe})
		return probe
	}
	return ""
}

// orWhole makes the end of a pod's last container the end of the pod's sidecars
// and sandbox as well: nothing is left that needs them.
func (p podPlan) orWhole(pod *corev1.Pod, seen *observedPod) podPlan {
	if len(p.stop) == 0 || len(p.start) > 0 {
		return p
	}
	for i := range pod.Spec.Containers {
		latest := seen.latest(pod.Spec.Containers[i].Name)
		if latest != nil && latest.running() && !slices.ContainsFunc(p.stop, func(o stopOrder) bool { return o.container == latest }) {
			return p
		}
	}
	return podPlan{stopPod: true}
}

// planEphemeral starts debug containers, once each.
func planEphemeral(plan *podPlan, pod *corev1.Pod, seen *observedPod) {
	for i := range pod.Spec.EphemeralContainers {
		c := (*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if seen.latest(c.Name) == nil {
			plan.start = append(plan.start, c)
		}
	}
}

// shouldStart says whether a container that is not running has (another) life.
func shouldStart(pod *corev1.Pod, c *corev1.Container, latest *observedContainer) bool {
	if latest == nil {
		return true
	}
	switch latest.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return false
	case runtimeapi.ContainerState_CONTAINER_EXITED:
	default: // created but never started, or unknown: that life did not count
		return true
	}
	return restarts(pod, c, latest.ExitCode)
}

// restarts says whether a container that ended with this code gets another life.
func restarts(pod *corev1.Pod, c *corev1.Container, code int32) bool {
	if matchingRule(c, code) != "" { // alone, or with all the others: restartall.go
		return true
	}
	switch restartPolicy(pod, c) {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// matchingRule is what the first of the container's own rules that names this
// exit code wants done. The rules stand above its policy.
func matchingRule(c *corev1.Container, code int32) corev1.ContainerRestartRuleAction {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes != nil {
			in := rule.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn
			if slices.Contains(rule.ExitCodes.Values, code) == in {
				return rule.Action
			}
		}
	}
	return ""
}

// restartPolicy is the container's own policy, else the pod's; for an init
// container "Always" means: until it succeeds.
func restartPolicy(pod *corev1.Pod, c *corev1.Container) corev1.RestartPolicy {
	return cmp.Or(corev1.RestartPolicy(ptr.Deref(c.RestartPolicy, "")), pod.Spec.RestartPolicy, corev1.RestartPolicyAlways)
}

// isSidecar recognises a restartable init container.
func isSidecar(c *corev1.Container) bool { return requests.IsSidecar(c) }

// containerHash identifies what may change in a living pod's container: its
// image. (A static pod that changes gets a new UID, hence a new worker.) It is
// upstream's number, byte for byte: so a real kubelet that takes our containers
// over, or leaves us its own, sees no change in them.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/container/helpers.go HashContainer, which
// hashes not the JSON but how a dump of its bytes looks.
func containerHash(c *corev1.Container) string {
	raw, _ := json.Marshal(map[string]string{"name": c.Name, "image": c.Image}) // sorted keys: stable
	h := fnv.New32a()
	fmt.Fprintf(h, "([]uint8)%d", raw)
	return fmt.Sprintf("%x", h.Sum32())
}
