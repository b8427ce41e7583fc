package replicaset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// pod makes a running pod on a node, ready for an hour, and changes it.
func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour)), Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{NodeName: "n1"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))},
		}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func onNode(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }
func phase(phase corev1.PodPhase) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Phase = phase }
}
func notReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func readyFor(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-d)) }
}
func aged(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
}
func cost(s string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: s} }
}
func restarted(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}}
	}
}
func deleting(p *corev1.Pod) { t := metav1.NewTime(now); p.DeletionTimestamp = &t }

func replicaSet(replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "rs", UID: "rs", Generation: 2},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
		}},
	}
}

func names(pods []*corev1.Pod) []string {
	var s []string
	for _, p := range pods {
		s = append(s, p.Name)
	}
	return s
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name       string
		replicas   int32
		owned      []*corev1.Pod
		wantCreate int
		wantDelete []string
	}{
		{"none yet", 3, nil, 3, nil},
		{"right", 2, []*corev1.Pod{pod("a"), pod("b")}, 0, nil},
		{"finished ones do not count", 2, []*corev1.Pod{pod("a"), pod("b", phase(corev1.PodFailed)), pod("c", phase(corev1.PodSucceeded))}, 1, nil},
		{"those on their way out do not count", 2, []*corev1.Pod{pod("a"), pod("b", deleting)}, 1, nil},
		{"one too many: the one not ready", 1, []*corev1.Pod{pod("a"), pod("b", notReady)}, 0, []string{"b"}},
		{"to zero", 0, []*corev1.Pod{pod("a")}, 0, []string{"a"}},
		{"bounded", 600, nil, burst, nil},
	} {
		p := makePlan(replicaSet(test.replicas), test.owned, sameWork(test.owned), now)
		if p.create != test.wantCreate || !slices.Equal(names(p.delete), test.wantDelete) {
			t.Errorf("%s: create %d delete %v, want %d %v", test.name, p.create, names(p.delete), test.wantCreate, test.wantDelete)
		}
	}
	deleted := replicaSet(3)
	t0 := metav1.NewTime(now)
	deleted.DeletionTimestamp = &t0
	if p := makePlan(deleted, nil, nil, now); p.create != 0 {
		t.Errorf("a deleted ReplicaSet creates %d pods", p.create)
	}
}

// TestRank has a pair per rule: first must die before second, and all rules
// above it tie.
func TestRank(t *testing.T) {
	for i, test := range []struct{ first, second *corev1.Pod }{
		{pod("z", onNode("")), pod("a", phase(corev1.PodPending))},
		{pod("z", phase(corev1.PodPending)), pod("a", phase(corev1.PodUnknown))},
		{pod("z", phase(corev1.PodUnknown)), pod("a", notReady)},
		{pod("z", notReady), pod("a", cost("-5"))},
		{pod("z", cost("-5")), pod("a", onNode("crowded"))},
		{pod("z", onNode("crowded")), pod("a", readyFor(time.Second))},
		{pod("z", readyFor(5*time.Second)), pod("a", readyFor(time.Minute), restarted(7))},
		{pod("z", restarted(3)), pod("a", restarted(1))},
		{pod("z", aged(time.Minute)), pod("a")},
		{pod("a"), pod("z")},
	} {
		perNode := map[string]int{"n1": 1, "crowded": 2}
		for _, order := range [][]*corev1.Pod{{test.first, test.second}, {test.second, test.first}} {
			rank(order, perNode, now)
			if order[0] != test.first {
				t.Errorf("rule %d: %s does not go first", i+1, test.first.Name)
			}
		}
	}
}

// Of two that are ready for about as long chance decides, whoever restarted
// more often; of two that became ready at once, that counts.
func TestRankTreatsAgesOfOneMagnitudeAsEqual(t *testing.T) {
	for _, test := range []struct {
		a, b  *corev1.Pod
		first string
	}{
		{pod("a", readyFor(18*time.Second)), pod("b", readyFor(33*time.Second), restarted(2)), "a"},
		{pod("a", readyFor(33*time.Second)), pod("b", readyFor(18*time.Second)), "a"},
		{pod("a", readyFor(40*time.Second)), pod("b", readyFor(18*time.Second)), "b"},
		{pod("a", readyFor(20*time.Second)), pod("b", readyFor(20*time.Second), restarted(2)), "b"},
	} {
		pods := []*corev1.Pod{test.a, test.b}
		if rank(pods, nil, now); pods[0].Name != test.first {
			t.Errorf("%s goes first, want %s", pods[0].Name, test.first)
		}
	}
}

func TestStatus(t *testing.T) {
	rs := replicaSet(3)
	rs.Spec.MinReadySeconds = 30
	other := func(p *corev1.Pod) { p.Labels = map[string]string{"app": "y"} }
	owned := []*corev1.Pod{
		pod("a"), pod("b", readyFor(10*time.Second)), pod("c", notReady, other), pod("d", deleting), pod("e", phase(corev1.PodFailed)),
	}
	status, again := makeStatus(rs, owned, nil, now)
	got := fmt.Sprint(status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas, *status.TerminatingReplicas, status.ObservedGeneration, again)
	if want := "3 2 2 1 1 2 20s"; got != want {
		t.Errorf("replicas, labelled, ready, available, terminating, generation, again = %s, want %s", got, want)
	}
}

func TestFailureCondition(t *testing.T) {
	rs := replicaSet(3)
	failed := &failedPlan{"FailedCreate", fmt.Errorf("quota")}
	status, _ := makeStatus(rs, nil, condition(failed), now)
	if len(status.Conditions) != 1 || status.Conditions[0].Reason != "FailedCreate" || status.Conditions[0].Message != "quota" {
		t.Fatalf("conditions %+v", status.Conditions)
	}
	rs.Status = status
	again, _ := makeStatus(rs, nil, condition(failed), now)
	if len(again.Conditions) != 1 || again.Conditions[0].LastTransitionTime != status.Conditions[0].LastTransitionTime {
		t.Errorf("the same failure again must change nothing: %+v", again.Conditions)
	}
	rs.Status = again
	if cured, _ := makeStatus(rs, nil, nil, now); len(cured.Conditions) != 0 {
		t.Errorf("conditions after success: %+v", cured.Conditions)
	}
}
