package kubelet

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/internal/fakecri"
)

// One container's end, by its rule, is the end of all; the pod starts over in
// its sandbox, init containers first.
func TestRestartAllContainers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Programs["once"] = programOnce
		n.runtime.Programs["crash"] = fakecri.Program{Runs: 20 * time.Second, ExitCode: 42}
		n.start()
		n.apiPod("web", `  restartPolicy: Never
  initContainers: [{name: i, image: once}]
  containers:
  - {name: a, image: app:1}
  - name: b
    image: crash
    restartPolicy: Never
    restartPolicyRules:
    - {action: Restart, exitCodes: {operator: In, values: [7]}}
    - {action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}
`)
		settle(10 * time.Second)
		n.expectRunning("a", "b")
		sandbox := n.runtime.Sandboxes()[0].Id
		restarting := func() corev1.PodCondition {
			_, status := n.pod("web")
			i := slices.IndexFunc(status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.AllContainersRestarting })
			return status.Conditions[i]
		}
		if c := restarting(); c.Status != corev1.ConditionFalse {
			t.Errorf("before: %+v", c)
		}
		settle(20 * time.Second)
		n.expectRunning("a", "b")
		for _, name := range []string{"i", "a", "b"} {
			s := n.container("web", name)
			if last := s.LastTerminationState.Terminated; s.RestartCount != 1 || last == nil || last.Reason != "RestartingAllContainers" || last.ExitCode != 137 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if _, status := n.pod("web"); status.Phase != corev1.PodRunning {
			t.Errorf("phase %s", status.Phase)
		}
		if c := restarting(); c.Status != corev1.ConditionFalse {
			t.Errorf("after: %+v", c)
		}
		if now := n.runtime.Sandboxes(); len(now) != 1 || now[0].Id != sandbox {
			t.Errorf("the sandbox is another: %v", now)
		}
		n.stop()
	})
}

// The first rule that names the exit code counts, above the policy.
func TestRestartRules(t *testing.T) {
	rule := func(action corev1.ContainerRestartRuleAction, operator corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) corev1.ContainerRestartRule {
		return corev1.ContainerRestartRule{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: operator, Values: codes}}
	}
	c := &corev1.Container{RestartPolicy: to(corev1.ContainerRestartPolicyNever), RestartPolicyRules: []corev1.ContainerRestartRule{
		rule("Restart", "In", 1, 2), rule("RestartAllContainers", "NotIn", 0, 3)}}
	for code, want := range map[int32]corev1.ContainerRestartRuleAction{0: "", 1: "Restart", 2: "Restart", 3: "", 4: "RestartAllContainers"} {
		if got := matchingRule(c, code); got != want || restarts(&corev1.Pod{}, c, code) != (want != "") {
			t.Errorf("exit code %d: %q, want %q", code, got, want)
		}
	}
}
