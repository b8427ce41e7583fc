package swap

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// What two kubelets tell of the same pods is compared: ours on node-0, whatever
// runs on node-1. Each has the pods in a namespace of its own, so that they may
// have the same names.
var alikeNodes = map[string]string{"kubelet-a": "node-0", "kubelet-b": "node-1"}

// alikePatience bounds the wait for a pod; evictions take rounds of ten seconds.
const alikePatience = 4 * time.Minute

// comparePods runs the pods of testdata/kubelets.yaml on both nodes. What is
// told of each, its events and what its containers print must be the same.
func (c *clusterUnderTest) comparePods() {
	c.t.Helper()
	raw, err := os.ReadFile("testdata/kubelets.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	var list corev1.PodList
	if err := yaml.Unmarshal(raw, &list); err != nil {
		c.t.Fatal(err)
	}
	for namespace, node := range alikeNodes {
		c.run("", "kubectl", "create", "namespace", namespace)
		defer c.run("", "kubectl", "delete", "namespace", namespace, "--wait=false")
		pods := list.DeepCopy()
		for i := range pods.Items {
			complete(&pods.Items[i], namespace, node)
		}
		pods.Kind, pods.APIVersion = "List", "v1"
		text, err := json.Marshal(pods)
		if err != nil {
			c.t.Fatal(err)
		}
		eventually(c.t, "a service account in "+namespace, func(context.Context) (bool, error) {
			out, err := c.try("", "kubectl", "get", "serviceaccount,configmap", "-n", namespace, "-o", "name")
			return strings.Count(out, "\n") == 2, fmt.Errorf("%s: %w", out, err)
		})
		c.run(string(text), "kubectl", "create", "-f", "-")
	}
	told, asked := map[string]string{}, map[string]bool{}
	// Who restarts again and again does so at another time on each node, so what
	// was told of either is remembered: 1 for ours, 2 for theirs.
	heard := map[string]int{}
	deadline := time.Now().Add(alikePatience)
	for left := list.Items; len(left) > 0; {
		ours, theirs := c.tellings("kubelet-a"), c.tellings("kubelet-b")
		left = slices.DeleteFunc(slices.Clone(left), func(pod corev1.Pod) bool {
			a, b := ours[pod.Name], theirs[pod.Name]
			if then := pod.Annotations["then"]; then != "" && !asked[pod.Name] {
				if asked[pod.Name] = matches(pod.Annotations["after"], a) && matches(pod.Annotations["after"], b); asked[pod.Name] {
					for namespace := range alikeNodes {
						c.run("", append(append([]string{"kubectl"}, strings.Fields(then)...), "pod", pod.Name, "-n", namespace)...)
					}
				}
				return false
			}
			told[pod.Name] = difference(a, b)
			for side, telling := range [][]string{a, b} {
				if matches(pod.Annotations["until"], telling) {
					heard[pod.Name+strings.Join(telling, "\n")] |= 1 << side
				}
			}
			return heard[pod.Name+strings.Join(a, "\n")] == 3 || heard[pod.Name+strings.Join(b, "\n")] == 3
		})
		if time.Now().After(deadline) {
			for _, pod := range left {
				c.t.Errorf("%s: not alike:\n%s\n  ours   %s\n  theirs %s", pod.Name, told[pod.Name], first(ours[pod.Name]), first(theirs[pod.Name]))
			}
			break
		}
	}
	c.t.Logf("%d pods compared", len(list.Items))
	for namespace := range alikeNodes {
		for _, pod := range list.Items {
			if len(pod.Finalizers) > 0 {
				c.run("", "kubectl", "patch", "pod", pod.Name, "-n", namespace, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
			}
		}
	}
}

// complete fills in what is the same in all pods.
func complete(pod *corev1.Pod, namespace, node string) {
	pod.APIVersion, pod.Kind, pod.Namespace = "v1", "Pod", namespace
	pod.Spec.NodeName = node
	no := false
	pod.Spec.AutomountServiceAccountToken = &no
	if pod.Spec.TerminationGracePeriodSeconds == nil {
		grace := int64(2)
		pod.Spec.TerminationGracePeriodSeconds = &grace
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Image == "tools" {
				list[i].Image = "tinykube.local/tools:v1"
			}
		}
	}
}

// tellings is what is told of each pod of a namespace: a line that sums it up,
// and then everything, without what must differ.
func (c *clusterUnderTest) tellings(namespace string) map[string][]string {
	c.t.Helper()
	var pods corev1.PodList
	var events corev1.EventList
	c.get(&pods, "pods", "-n", namespace)
	c.get(&events, "events", "-n", namespace)
	out := map[string][]string{}
	for _, pod := range pods.Items {
		alike := func(text string) string { return withoutChance(text, &pod) }
		line := summary(&pod)
		if pod.Status.Reason == "Evicted" { // a real one may have lost sight of its containers
			pod.Status.ContainerStatuses, line = nil, "phase="+string(pod.Status.Phase)
		}
		pod.Status.Resources = nil // a real one reads them from the group, which may be there or not
		status, err := yaml.Marshal(pod.Status)
		if err != nil {
			c.t.Fatal(err)
		}
		lines := append([]string{line}, strings.Split(alike(string(status)), "\n")...)
		said := map[string]bool{}
		for _, e := range events.Items {
			if e.InvolvedObject.UID == pod.UID && e.Reason != "ExceededGracePeriod" { // how busy the machine was
				said[alike(fmt.Sprintf("event %s %s %s %s: %s", e.Source.Component, e.Type, e.Reason, e.InvolvedObject.FieldPath, e.Message))] = true
			}
		}
		lines = append(lines, slices.Sorted(maps.Keys(said))...)
		if pod.Status.Phase == corev1.PodSucceeded {
			logs, _ := c.try("", "kubectl", "logs", pod.Name, "-n", namespace, "--all-containers", "--prefix") // an error is a difference, too
			said := strings.Split(alike(logs), "\n")
			slices.Sort(said) // the containers' logs are read side by side
			lines = append(lines, said...)
		}
		out[pod.Name] = lines
	}
	return out
}

// summary is the line that until and after speak of.
func summary(pod *corev1.Pod) string {
	out := "phase=" + string(pod.Status.Phase)
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			out += " ready=" + string(condition.Status)
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		state := "terminated"
		switch {
		case s.State.Running != nil:
			state = "running"
		case s.State.Waiting != nil:
			state = s.State.Waiting.Reason
		}
		out += fmt.Sprintf(" %s=%s/%d", s.Name, state, s.RestartCount)
	}
	return out
}

// chance is what differs between two pods that are alike.
var chance = []struct{ pattern, instead string }{
	{`\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "TIME"},
	{`\b[0-9a-f]{64}\b`, "ID"},
	{`\b10\.244\.\d+\.\d+(:\d+->)?`, "IP"},
	{`\b172\.30\.9\.\d+\b`, "NODE"},
	{`\b(\d+h)?(\d+m)?[\d.]+(µs|ms|s)\b`, "DURATION"},
	{`kubelet-[ab]`, "NAMESPACE"},
	{`used: \d+`, "used: SOME"},
	{`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d`, "TIME"},
	{`\bsize=\d+k`, "size=SOME"}, // each node has another share of the machine
	{`\bnode-[01]\b`, "NAME-OF-NODE"},
	{`read tcp \S+`, "read tcp"},
	{`(Back-off pulling|back-off) \S+ restarting`, "back-off restarting"},
	{`\b(lookup \S+ on|dial tcp:? lookup).*`, "lookup"},
}

func withoutChance(text string, pod *corev1.Pod) string {
	text = strings.ReplaceAll(text, string(pod.UID), "UID")
	for _, c := range chance {
		text = regexp.MustCompile(c.pattern).ReplaceAllString(text, c.instead)
	}
	return text
}

func matches(pattern string, telling []string) bool {
	return regexp.MustCompile(pattern).MatchString(first(telling))
}

func first(telling []string) string {
	if len(telling) == 0 {
		return "nothing"
	}
	return telling[0]
}

// difference shows the lines that only one of two has.
func difference(ours, theirs []string) string {
	if slices.Equal(ours, theirs) {
		return ""
	}
	var b strings.Builder
	only := func(mark string, these, those []string) {
		for _, line := range these {
			if !slices.Contains(those, line) {
				fmt.Fprintf(&b, "%s %s\n", mark, line)
			}
		}
	}
	only("  only ours   |", ours, theirs)
	only("  only theirs |", theirs, ours)
	if b.Len() == 0 {
		fmt.Fprintf(&b, "  only the order differs:\n  ours   %s\n  theirs %s\n", strings.Join(ours, "\n         "), strings.Join(theirs, "\n         "))
	}
	return b.String()
}
