//go:build mutants

package grade

const workerFile = "kubelet/plan.go"

// kubeletMutants are those of the labs about the kubelet.
var kubeletMutants = []mutant{
	{"13", "remembers what it has made", workerFile,
		"func planPod(pod *corev1.Pod, seen *observedPod, verdictOf func(*observedContainer) verdict) podPlan {",
		"var made = map[string]bool{}\n\nfunc planPod(pod *corev1.Pod, seen *observedPod, verdictOf func(*observedContainer) verdict) podPlan {\n\tif known := made[string(pod.UID)]; !known && seen.sandbox() != nil {\n\t\tmade[string(pod.UID)] = true\n\t\treturn podPlan{createSandbox: true, attempt: seen.sandbox().Metadata.GetAttempt() + 1}\n\t}",
		"starts nothing twice"},
	{"13", "starts all at once in a new sandbox", workerFile,
		"if len(pod.Spec.InitContainers) > 0 {", "if false {", "init containers run one after the other"},
	{"13", "goes on when the init containers are not done", workerFile,
		"!initialized {\n\t\treturn plan", "!initialized && len(plan.start) == 0 {\n\t\treturn plan", "nothing goes past it"},
	{"13", "starts only the first init container", workerFile,
		"!initialized {\n\t\treturn plan", "!initialized {\n\t\treturn podPlan{}", "init containers run one after the other"},
	{"13", "takes a sidecar for any init container", workerFile,
		"if isSidecar(c) {", "if false {", "a sidecar runs on"},
	{"13", "never starts anything a second time", workerFile,
		"planContainer(&plan, pod, &pod.Spec.Containers[i], seen, verdictOf)", "if seen.latest(pod.Spec.Containers[i].Name) == nil {\n\t\t\tplanContainer(&plan, pod, &pod.Spec.Containers[i], seen, verdictOf)\n\t\t}",
		"what ends is started again"},
	{"13", "starts the others with it", workerFile,
		"if !initialized {\n\t\treturn plan", "if !initialized {\n\t\treturn plan\n\t}\n\tif len(seen.running()) < len(pod.Spec.Containers) {\n\t\treturn podPlan{createSandbox: true, stopPod: true, attempt: sandbox.Metadata.GetAttempt() + 1}",
		"what ends is started again"},
	{"13", "starts whatever does not run", workerFile,
		"planContainer(&plan, pod, &pod.Spec.Containers[i], seen, verdictOf)", "if latest := seen.latest(pod.Spec.Containers[i].Name); latest != nil && !latest.running() {\n\t\t\tplan.start = append(plan.start, &pod.Spec.Containers[i])\n\t\t} else {\n\t\t\tplanContainer(&plan, pod, &pod.Spec.Containers[i], seen, verdictOf)\n\t\t}",
		"shall not be restarted"},
	{"13", "looks only at what does not run", workerFile,
		"planContainer(&plan, pod, &pod.Spec.Containers[i], seen, verdictOf)", "if latest := seen.latest(pod.Spec.Containers[i].Name); latest == nil || !latest.running() {\n\t\t\tplanContainer(&plan, pod, &pod.Spec.Containers[i], seen, verdictOf)\n\t\t}",
		"a probe has given up"},
	{"13", "never looks at the sandbox again", workerFile,
		"if needNewSandbox(pod, seen) {", "if sandbox == nil {", "when a sandbox dies"},
	{"13", "counts every sandbox as the first", workerFile,
		"plan.attempt = sandbox.Metadata.GetAttempt() + 1", "plan.attempt = 0", "when a sandbox dies"},
	{"13", "leaves the dead one lying there", workerFile,
		"createSandbox: true, stopPod: sandbox != nil}", "createSandbox: true}", "the dead sandbox is stopped"},
	{"13", "skips the init containers in a second sandbox", workerFile,
		"if len(pod.Spec.InitContainers) > 0 {", "if len(pod.Spec.InitContainers) > 0 && sandbox == nil {", "the init containers run again"},
	{"13", "starts all again in a second sandbox", workerFile,
		"if shouldStart(pod, c, seen.latest(c.Name)) {\n\t\t\t\tplan.start", "if true {\n\t\t\t\tplan.start", "shall not run again"},
}
