package kubelet

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// seen builds an observation from words: "sandbox" or "dead" (a sandbox that is
// no more), then containers as name:state, newest last; states are running,
// created, exitN.
func seenOf(words string) *observedPod {
	seen := &observedPod{uid: "u"}
	sandboxes := 0
	attempts := map[string]uint32{}
	for _, word := range strings.Fields(words) {
		switch word {
		case "sandbox", "dead":
			s := &runtimeapi.PodSandboxStatus{Id: fmt.Sprint("s", sandboxes), Metadata: &runtimeapi.PodSandboxMetadata{Attempt: uint32(sandboxes)},
				Network: &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.1"}, State: runtimeapi.PodSandboxState_SANDBOX_READY}
			if word == "dead" {
				s.State = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			}
			sandboxes++
			seen.sandboxes = append(seen.sandboxes, s)
			continue
		}
		name, state, _ := strings.Cut(word, ":")
		c := &runtimeapi.ContainerStatus{Id: fmt.Sprint(name, attempts[name]), Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: attempts[name]}}
		attempts[name]++
		switch {
		case state == "running":
			c.State = runtimeapi.ContainerState_CONTAINER_RUNNING
		case state == "created":
			c.State = runtimeapi.ContainerState_CONTAINER_CREATED
		default:
			c.State = runtimeapi.ContainerState_CONTAINER_EXITED
			fmt.Sscanf(state, "exit%d", &c.ExitCode)
		}
		seen.containers = append(seen.containers, &observedContainer{ContainerStatus: c, sandboxID: fmt.Sprint("s", sandboxes-1), runtimeName: "fake"})
	}
	seen.sort()
	return seen
}

// podOf builds a pod from container names; those before "|" are init
// containers, and one that ends in "+" is a sidecar.
func podOf(policy corev1.RestartPolicy, names string) *corev1.Pod {
	pod := &corev1.Pod{Spec: corev1.PodSpec{RestartPolicy: policy}}
	pod.UID = "u"
	inits, regular, found := strings.Cut(names, "|")
	if !found {
		inits, regular = "", names
	}
	for _, name := range strings.Fields(inits) {
		c := corev1.Container{Name: strings.TrimSuffix(name, "+"), Image: "i"}
		if strings.HasSuffix(name, "+") {
			always := corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for _, name := range strings.Fields(regular) {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: name, Image: "i"})
	}
	return pod
}

// say prints a plan in words.
func (p podPlan) say() string {
	var words []string
	if p.stopPod {
		words = append(words, "stop-all")
	}
	for _, s := range p.stop {
		words = append(words, "stop:"+s.container.name())
	}
	if p.createSandbox {
		words = append(words, fmt.Sprint("sandbox", p.attempt))
	}
	for _, c := range p.start {
		words = append(words, c.Name)
	}
	return strings.Join(words, " ")
}

func TestPlan(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, test := range []struct {
		policy           corev1.RestartPolicy
		pod, seen, unfit string
		notStarted       string
		want             string
	}{
		{always, "a b", "", "", "", "sandbox0 a b"},
		{always, "a b", "sandbox", "", "", "a b"},
		{always, "a b", "sandbox a:running", "", "", "b"},
		{always, "a", "sandbox a:running", "", "", ""},
		{always, "a", "sandbox a:exit0", "", "", "a"},
		{onFailure, "a", "sandbox a:exit0", "", "", ""},
		{onFailure, "a", "sandbox a:exit1", "", "", "a"},
		{never, "a", "sandbox a:exit1", "", "", ""},
		{never, "a b", "sandbox a:exit1", "", "", "b"},
		{always, "a", "sandbox a:created", "", "", "a"},
		{always, "a", "sandbox a:exit1 a:running", "", "", ""},
		// Sandboxes.
		{always, "a", "dead a:exit137", "", "", "stop-all sandbox1 a"},
		{never, "a", "dead a:exit137", "", "", ""},
		{onFailure, "a b", "dead a:exit0 b:exit137", "", "", "stop-all sandbox1 b"},
		{always, "a", "sandbox sandbox a:running", "", "", "stop-all"},
		// Init containers, in order, and again in a new sandbox.
		{always, "i j | a", "", "", "", "sandbox0 i"},
		{always, "i j | a", "sandbox i:running", "", "", ""},
		{always, "i j | a", "sandbox i:exit0", "", "", "j"},
		{always, "i j | a", "sandbox i:exit1", "", "", "i"},
		{never, "i j | a", "sandbox i:exit1", "", "", ""},
		{always, "i j | a", "sandbox i:exit0 j:exit0", "", "", "a"},
		{always, "i j | a", "sandbox j:exit0", "", "", "a"},  // i is collected
		{always, "i j | a", "sandbox a:running", "", "", ""}, // both are
		{always, "i | a", "dead i:exit0 a:exit1 sandbox", "", "", "i"},
		// Sidecars.
		{always, "s+ i | a", "sandbox", "", "", "s"},
		{always, "s+ i | a", "sandbox s:running", "", "s", ""},
		{always, "s+ i | a", "sandbox s:running", "", "", "i"},
		{always, "s+ i | a", "sandbox s:running i:exit0", "", "", "a"},
		{always, "s+ i | a", "sandbox s:exit1 i:exit0 a:running", "", "", "s"},
		{never, "s+ | a", "sandbox s:exit1 a:running", "", "", "s"},
		// Probes.
		{always, "a", "sandbox a:running", "a", "", "stop:a a"},
		{never, "a", "sandbox a:running", "a", "", "stop:a"},
	} {
		name := fmt.Sprintf("%s %q with %q", test.policy, test.pod, test.seen)
		plan := planPod(podOf(test.policy, test.pod), seenOf(test.seen), func(c *observedContainer) verdict {
			v := verdict{started: c.name() != test.notStarted}
			if c.name() == test.unfit {
				v.unfit = "liveness"
			}
			return v
		})
		if plan.say() != test.want {
			t.Errorf("%s: %q, want %q", name, plan.say(), test.want)
		}
	}
}

func TestPlanReplacesAChangedContainer(t *testing.T) {
	pod, seen := podOf(corev1.RestartPolicyNever, "a"), seenOf("sandbox a:running")
	seen.containers[0].Annotations = map[string]string{annotationHash: containerHash(&pod.Spec.Containers[0])}
	fine := func(*observedContainer) verdict { return verdict{started: true} }
	if plan := planPod(pod, seen, fine); !plan.empty() {
		t.Errorf("unchanged: %q", plan.say())
	}
	pod.Spec.Containers[0].Image = "j"
	if plan := planPod(pod, seen, fine); plan.say() != "stop:a a" {
		t.Errorf("another image: %q", plan.say())
	}
}

func TestPhase(t *testing.T) {
	const always, onFailure, never = corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	for _, test := range []struct {
		policy    corev1.RestartPolicy
		pod, seen string
		want      corev1.PodPhase
	}{
		{always, "a b", "", corev1.PodPending},
		{always, "a b", "sandbox a:running", corev1.PodPending},
		{always, "a b", "sandbox a:running b:running", corev1.PodRunning},
		{always, "a b", "sandbox a:running b:exit1", corev1.PodRunning},
		{always, "a", "sandbox a:exit0", corev1.PodRunning},
		{never, "a", "sandbox a:exit0", corev1.PodSucceeded},
		{never, "a b", "sandbox a:exit0 b:exit1", corev1.PodFailed},
		{never, "a b", "sandbox a:exit1 b:running", corev1.PodRunning},
		{onFailure, "a", "sandbox a:exit1", corev1.PodRunning},
		{onFailure, "a", "sandbox a:exit0", corev1.PodSucceeded},
		{always, "i | a", "sandbox i:running", corev1.PodPending},
		{always, "i | a", "sandbox i:exit1", corev1.PodPending},
		{never, "i | a", "sandbox i:exit1", corev1.PodFailed},
		{never, "i | a", "sandbox i:exit0 a:exit0", corev1.PodSucceeded},
		{never, "s+ | a", "sandbox s:exit0 a:exit0", corev1.PodSucceeded},
		{always, "i | a", "sandbox i:running a:exit1", corev1.PodPending}, // its second sandbox
	} {
		pod := podOf(test.policy, test.pod)
		status := podStatus(statusInput{pod: pod, seen: seenOf(test.seen), waiting: map[string]*waitError{},
			verdictOf: func(*observedContainer) verdict { return verdict{started: true} }, readyOf: func(*observedContainer) bool { return true }})
		if status.Phase != test.want {
			t.Errorf("%s %q with %q: %s, want %s", test.policy, test.pod, test.seen, status.Phase, test.want)
		}
	}
}

// TestContainerHashIsUpstreams: two numbers that a real kubelet v1.36 wrote.
func TestContainerHashIsUpstreams(t *testing.T) {
	for want, c := range map[string]corev1.Container{
		"76c754e6": {Name: "pause", Image: "tinykube.local/pause:3.10"},
		"208ad1e8": {Name: "first", Image: "tinykube.local/tools:v1"},
	} {
		if got := containerHash(&c); got != want {
			t.Errorf("hash of %s: %s, want %s", c.Name, got, want)
		}
	}
}
