package deployment

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func deployment(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	limit, deadline := int32(10), int32(600)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "web", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, RevisionHistoryLimit: &limit, ProgressDeadlineSeconds: &deadline,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
			},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u},
			},
		},
	}
}

// world is a Deployment and its ReplicaSets, whose pods come and go as if a
// ReplicaSet controller and nodes were there.
type world struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	now  time.Time
}

func newWorld(d *appsv1.Deployment) *world { return &world{d: d, now: epoch} }

// step lets the controller act once and reports whether it wrote anything.
func (w *world) step() (wrote bool) {
	p := makePlan(w.d, w.sets)
	if p.create != nil {
		rs := p.create.DeepCopy()
		rs.UID, rs.CreationTimestamp, rs.Generation = types.UID(rs.Name), metav1.NewTime(w.now), 1
		w.sets = append(w.sets, rs)
		wrote = true
	}
	for _, rs := range p.update {
		i := slices.IndexFunc(w.sets, func(o *appsv1.ReplicaSet) bool { return o.UID == rs.UID })
		rs.Generation++
		w.sets[i] = rs
		wrote = true
	}
	for _, rs := range p.remove {
		w.sets = slices.DeleteFunc(w.sets, func(o *appsv1.ReplicaSet) bool { return o.UID == rs.UID })
		wrote = true
	}
	w.d.Status, _ = makeStatus(w.d, w.sets, p, w.now)
	if rs := sortSets(w.d, w.sets).new; rs != nil {
		metav1.SetMetaDataAnnotation(&w.d.ObjectMeta, revisionAnnotation, rs.Annotations[revisionAnnotation])
	}
	w.now = w.now.Add(time.Second)
	return wrote
}

// kubelets moves each ReplicaSet's pods some of the way to its spec.
func (w *world) kubelets(random *rand.Rand) {
	for _, rs := range w.sets {
		rs.Status.ObservedGeneration = rs.Generation
		rs.Status.Replicas = *rs.Spec.Replicas
		rs.Status.AvailableReplicas = min(rs.Status.AvailableReplicas, rs.Status.Replicas)
		if missing := rs.Status.Replicas - rs.Status.AvailableReplicas; missing > 0 {
			rs.Status.AvailableReplicas += random.Int31n(missing + 1)
		}
		rs.Status.ReadyReplicas = rs.Status.AvailableReplicas
	}
}

// settle runs until complete and nothing is written any more.
func (w *world) settle(t *testing.T, check func()) {
	t.Helper()
	random := rand.New(rand.NewSource(1))
	for range 300 {
		wrote := w.step()
		check()
		w.kubelets(random)
		check()
		status := count(w.d, w.sets)
		if !wrote && complete(w.d, &status) {
			w.step()
			return
		}
	}
	t.Fatalf("no end: %s; %d replicas of %s, %s, %s", w, *w.d.Spec.Replicas, w.d.Spec.Template.Spec.Containers[0].Image, w.d.Spec.Strategy.String(), w.sets[0].Annotations)
}

func (w *world) String() string {
	var parts []string
	for _, rs := range w.sets {
		parts = append(parts, fmt.Sprintf("%s#%s=%d/%d", rs.Spec.Template.Spec.Containers[0].Image, rs.Annotations[revisionAnnotation], rs.Status.AvailableReplicas, size(rs)))
	}
	return strings.Join(parts, " ")
}

func (w *world) image(image string) {
	w.d.Spec.Template.Spec.Containers[0].Image = image
	w.d.Generation++
}

// TestRollingUpdateKeepsItsPromise rolls many Deployments, and at no moment may
// there be too few available pods or too many in all.
func TestRollingUpdateKeepsItsPromise(t *testing.T) {
	for _, replicas := range []int32{1, 2, 3, 7, 20} {
		for _, knobs := range [][2]string{{"25%", "25%"}, {"1", "0"}, {"0", "1"}, {"0", "0"}, {"100%", "0"}, {"3", "2"}, {"0", "100%"}, {"1%", "99%"}} {
			w := newWorld(deployment(replicas, knobs[0], knobs[1]))
			w.settle(t, func() {})
			for _, image := range []string{"v2", "v3", "v1"} {
				w.image(image)
				w.settle(t, func() {
					all := sum(w.sets, size)
					if most := replicas + maxSurge(w.d); all > most {
						t.Fatalf("%d replicas, knobs %v: %d pods, at most %d: %s", replicas, knobs, all, most, w)
					}
					// What a ReplicaSet is told to keep of what is available.
					kept := sum(w.sets, func(rs *appsv1.ReplicaSet) int32 { return min(size(rs), available(rs)) })
					if least := replicas - maxUnavailable(w.d); kept < least {
						t.Fatalf("%d replicas, knobs %v: %d available, at least %d: %s", replicas, knobs, kept, least, w)
					}
				})
			}
			if got := w.d.Annotations[revisionAnnotation]; got != "4" {
				t.Errorf("revision %s after v1 v2 v3 v1, want 4", got)
			}
			back := sortSets(w.d, w.sets).new
			if history := back.Annotations[revisionHistoryAnnotation]; history != "1" {
				t.Errorf("history of v1 is %q, want 1", history)
			}
			if w.step() {
				t.Errorf("%d replicas, knobs %v: writes after the end: %s", replicas, knobs, w)
			}
			if c := conditionOf(w.d.Status.Conditions, appsv1.DeploymentProgressing); c.Reason != reasonAvailable {
				t.Errorf("Progressing is %+v", c)
			}
		}
	}
}

func TestRollingStepsAsDocumented(t *testing.T) {
	w := newWorld(deployment(10, "25%", "25%")) // surge 3, unavailable 2
	w.settle(t, func() {})
	w.image("v2")
	var steps []string
	for range 3 {
		w.step()
		steps = append(steps, w.String())
		for _, rs := range w.sets { // everything becomes available at once
			rs.Status = appsv1.ReplicaSetStatus{ObservedGeneration: rs.Generation, Replicas: size(rs), ReadyReplicas: size(rs), AvailableReplicas: size(rs)}
		}
	}
	// 13 pods at most, 8 available at least.
	want := []string{"v1#1=10/8 v2#2=0/3", "v1#1=8/5 v2#2=3/5", "v1#1=5/3 v2#2=5/8"}
	if !slices.Equal(steps, want) {
		t.Errorf("steps %q, want %q", steps, want)
	}
}

func TestStuckRolloutKeepsOldPods(t *testing.T) {
	w := newWorld(deployment(4, "1", "1"))
	w.settle(t, func() {})
	w.image("broken")
	for range 20 {
		w.step()
		for _, rs := range w.sets {
			rs.Status.ObservedGeneration, rs.Status.Replicas = rs.Generation, size(rs)
			rs.Status.AvailableReplicas = min(rs.Status.AvailableReplicas, size(rs)) // nothing new becomes available
			rs.Status.ReadyReplicas = rs.Status.AvailableReplicas
		}
	}
	if got, want := w.String(), "v1#1=3/3 broken#2=0/2"; got != want {
		t.Errorf("stuck at %s, want %s", got, want)
	}
	w.image("fixed") // the broken pods are the first to go
	w.settle(t, func() {})
	if size(w.sets[1]) != 0 || size(w.sets[2]) != 4 {
		t.Errorf("after the fix: %s", w)
	}
}

func TestProgressDeadline(t *testing.T) {
	w := newWorld(deployment(2, "1", "0"))
	w.settle(t, func() {})
	w.image("broken")
	w.step()
	progressing := func() string {
		c := conditionOf(w.d.Status.Conditions, appsv1.DeploymentProgressing)
		return string(c.Status) + " " + c.Reason
	}
	if got := progressing(); got != "True NewReplicaSetCreated" {
		t.Fatalf("Progressing %s", got)
	}
	// A new pod that does not become ready is movement, once.
	w.sets[1].Status.Replicas = 1
	w.step()
	if got := progressing(); got != "True ReplicaSetUpdated" {
		t.Fatalf("Progressing %s", got)
	}
	_, again := makeStatus(w.d, w.sets, makePlan(w.d, w.sets), w.now)
	if again <= 9*time.Minute || again > 10*time.Minute {
		t.Errorf("look again in %s, want just under the deadline of 10 m", again)
	}
	w.now = w.now.Add(again)
	w.step()
	if got := progressing(); got != "False ProgressDeadlineExceeded" {
		t.Fatalf("Progressing %s", got)
	}
	if w.step(); progressing() != "False ProgressDeadlineExceeded" {
		t.Errorf("Progressing %s", progressing())
	}
	// It comes back to life by itself when it moves after all.
	w.sets[1].Status.AvailableReplicas, w.sets[1].Status.ReadyReplicas = 1, 1
	if w.step(); progressing() != "True ReplicaSetUpdated" {
		t.Errorf("Progressing %s", progressing())
	}
}

func TestPauseStopsTheRolloutAndTheClock(t *testing.T) {
	w := newWorld(deployment(4, "1", "1"))
	w.settle(t, func() {})
	w.d.Spec.Paused = true
	w.image("v2")
	w.step()
	if len(w.sets) != 1 {
		t.Fatalf("a paused Deployment rolled: %s", w)
	}
	*w.d.Spec.Replicas = 6
	w.step()
	if got, want := w.String(), "v1#1=4/6"; got != want {
		t.Errorf("paused and scaled: %s, want %s", got, want)
	}
	w.image("v3") // paused with several old ReplicaSets and no new one
	if w.step(); w.String() != "v1#1=4/6" {
		t.Errorf("paused: %s", w)
	}
	w.now = w.now.Add(time.Hour)
	w.step()
	if c := conditionOf(w.d.Status.Conditions, appsv1.DeploymentProgressing); c.Reason != reasonPaused {
		t.Errorf("Progressing %+v", c)
	}
	w.d.Spec.Paused = false
	w.step()
	if c := conditionOf(w.d.Status.Conditions, appsv1.DeploymentProgressing); c.Status == corev1.ConditionFalse {
		t.Errorf("the pause counted against the deadline: %+v", c)
	}
	w.settle(t, func() {})
	if size(w.sets[1]) != 6 {
		t.Errorf("after resuming: %s", w)
	}
}

func TestPausedAmongSeveralOldOnes(t *testing.T) {
	w := newWorld(deployment(4, "1", "1"))
	for _, image := range []string{"v1", "v2", "v3"} {
		w.image(image)
		w.settle(t, func() {})
	}
	w.d.Spec.Paused = true
	w.image("v4")
	*w.d.Spec.Replicas = 2
	w.step()
	if got, want := w.String(), "v1#1=0/0 v2#2=0/0 v3#3=4/2"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestRecreateNeverMixes(t *testing.T) {
	d := deployment(3, "0", "0")
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	w := newWorld(d)
	w.settle(t, func() {})
	w.image("v2")
	one := int32(1)
	w.step() // scales v1 down; its pods are still there
	if got := w.String(); got != "v1#1=3/0" {
		t.Fatalf("first step %s", got)
	}
	w.sets[0].Status = appsv1.ReplicaSetStatus{ObservedGeneration: w.sets[0].Generation, TerminatingReplicas: &one}
	if w.step(); len(w.sets) != 1 {
		t.Fatal("a new pod beside one that is terminating")
	}
	w.sets[0].Status.TerminatingReplicas = nil
	if w.step(); len(w.sets) != 2 || size(w.sets[1]) != 3 {
		t.Fatalf("after the old pods went: %s", w)
	}
	w.settle(t, func() {})
}

func TestProportionalScaling(t *testing.T) {
	for _, test := range []struct {
		name     string
		replicas int32
		sizes    []int32 // oldest first, of 10 replicas with surge 3
		want     []int32
	}{
		{"grow", 15, []int32{8, 5}, []int32{11, 7}}, // the documentation's example: +3 and +2
		{"shrink", 5, []int32{8, 5}, []int32{5, 3}},
		{"to zero", 0, []int32{8, 5}, []int32{0, 0}},
		{"equal ones grow: the newest takes the rest", 11, []int32{6, 7}, []int32{6, 8}},
	} {
		d := deployment(10, "3", "2")
		w := newWorld(d)
		for i, n := range test.sizes {
			w.image(fmt.Sprintf("v%d", i+1))
			rs := newReplicaSet(d, w.sets, n)
			rs.UID, rs.CreationTimestamp = types.UID(rs.Name), metav1.NewTime(epoch.Add(time.Duration(i)*time.Second))
			rs.Status.AvailableReplicas = n / 2
			w.sets = append(w.sets, rs)
		}
		*d.Spec.Replicas = test.replicas
		w.step()
		var got []int32
		for _, rs := range w.sets {
			got = append(got, size(rs))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// TestRandomLife changes a Deployment in every way in the middle of everything,
// and expects it to arrive all the same.
func TestRandomLife(t *testing.T) {
	for seed := range int64(80) {
		random := rand.New(rand.NewSource(seed))
		w := newWorld(deployment(random.Int31n(8), fmt.Sprint(random.Intn(3)), fmt.Sprintf("%d%%", random.Intn(60))))
		for range 40 {
			switch random.Intn(8) {
			case 0:
				w.image(fmt.Sprint("v", random.Intn(4)))
			case 1:
				*w.d.Spec.Replicas = random.Int31n(12)
				w.d.Generation++
			case 2:
				w.d.Spec.Paused = !w.d.Spec.Paused
			case 3:
				w.d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
			case 4:
				w.d.Spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
			default:
				w.kubelets(random)
			}
			w.step()
		}
		w.d.Spec.Paused = false
		w.settle(t, func() {})
		if current := sortSets(w.d, w.sets).new; size(current) != *w.d.Spec.Replicas || sum(w.sets, size) != size(current) {
			t.Fatalf("seed %d: want %d, got %s", seed, *w.d.Spec.Replicas, w)
		}
		if len(w.sets) > 11 {
			t.Errorf("seed %d: %d ReplicaSets", seed, len(w.sets))
		}
	}
}

func TestHistoryLimit(t *testing.T) {
	w := newWorld(deployment(2, "1", "0"))
	*w.d.Spec.RevisionHistoryLimit = 2
	for i := range 6 {
		w.image(fmt.Sprintf("v%d", i+1))
		w.settle(t, func() {})
	}
	w.settle(t, func() {})
	var left []string
	for _, rs := range w.sets {
		left = append(left, rs.Annotations[revisionAnnotation])
	}
	if !slices.Equal(left, []string{"4", "5", "6"}) {
		t.Errorf("revisions left %v, want the newest two and the current", left)
	}
}

func TestNewReplicaSetInherits(t *testing.T) {
	d := deployment(3, "25%", "25%")
	d.Annotations = map[string]string{"kubernetes.io/change-cause": "apply", corev1.LastAppliedConfigAnnotation: "{}", revisionAnnotation: "7"}
	rs := newReplicaSet(d, nil, 3)
	want := map[string]string{
		"kubernetes.io/change-cause": "apply", revisionAnnotation: "1",
		desiredReplicasAnnotation: "3", maxReplicasAnnotation: "4",
	}
	if !maps.Equal(rs.Annotations, want) {
		t.Errorf("annotations %v, want %v", rs.Annotations, want)
	}
	hash := rs.Labels[hashLabel]
	if rs.Name != "web-"+hash || rs.Spec.Selector.MatchLabels[hashLabel] != hash || rs.Spec.Template.Labels[hashLabel] != hash || hash == "" {
		t.Errorf("name %s, labels %v, selector %v", rs.Name, rs.Labels, rs.Spec.Selector.MatchLabels)
	}
	if _, added := d.Spec.Template.Labels[hashLabel]; added {
		t.Error("the Deployment itself was changed")
	}
	// The hash names the template: a golden value, so that it stays the same
	// from one version of us to the next.
	if hash != "6696589ddb" {
		t.Errorf("hash %s", hash)
	}
	one := int32(1)
	d.Status.CollisionCount = &one
	if other := newReplicaSet(d, nil, 3); other.Name == rs.Name {
		t.Error("a counted collision must change the name")
	}
}

// A ReplicaSet that the server does not let in is what stands in the way.
func TestNotCreated(t *testing.T) {
	w := newWorld(deployment(3, "1", "0"))
	p := makePlan(w.d, nil)
	p.failure = "Failed to create new replica set"
	for range 2 { // and it stays, however long it takes
		w.d.Status, _ = makeStatus(w.d, nil, p, w.now)
		c := conditionOf(w.d.Status.Conditions, appsv1.DeploymentProgressing)
		if c == nil || c.Status != corev1.ConditionFalse || c.Reason != "ReplicaSetCreateError" || c.Message != p.failure || !c.LastUpdateTime.Time.Equal(epoch) {
			t.Fatalf("%+v", c)
		}
		w.now = w.now.Add(time.Hour)
	}
	w.d.Spec.ProgressDeadlineSeconds = nil
	if status, _ := makeStatus(w.d, nil, makePlan(w.d, nil), w.now); conditionOf(status.Conditions, appsv1.DeploymentProgressing) != nil {
		t.Error("who wants no deadline is told of progress")
	}
	if name := setName(strings.Repeat("d", 253), "hash"); len(name) != 253 || !strings.HasSuffix(name, "d-hash") {
		t.Errorf("the name has %d letters: %s", len(name), name)
	}
}
