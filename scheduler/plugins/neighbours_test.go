package plugins

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/scheduler/framework"
)

// The tests of this file share a little language. A node is "name key=value…",
// a pod on a node "node label=value…", and terms are made by functions.

// pairs reads "k=v k=v".
func pairs(s string) map[string]string {
	m := map[string]string{}
	for _, pair := range strings.Fields(s) {
		key, value, _ := strings.Cut(pair, "=")
		m[key] = value
	}
	return m
}

func sel(s string) *metav1.LabelSelector { return &metav1.LabelSelector{MatchLabels: pairs(s)} }

type change = func(*corev1.Pod)

func tagged(s string) change { return func(p *corev1.Pod) { p.Labels = pairs(s) } }

func in(namespace string) change { return func(p *corev1.Pod) { p.Namespace = namespace } }

func leaving(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }

// spreading adds a constraint.
func spreading(key string, skew int32, action corev1.UnsatisfiableConstraintAction, more ...func(*corev1.TopologySpreadConstraint)) change {
	c := corev1.TopologySpreadConstraint{TopologyKey: key, MaxSkew: skew, WhenUnsatisfiable: action, LabelSelector: sel("app=a")}
	for _, f := range more {
		f(&c)
	}
	return func(p *corev1.Pod) { p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c) }
}

type term = corev1.PodAffinityTerm

func toward(selector, key string, more ...func(*term)) term {
	t := term{LabelSelector: sel(selector), TopologyKey: key}
	for _, f := range more {
		f(&t)
	}
	return t
}

func needs(terms ...term) change {
	return affine(func(a *corev1.Affinity) { a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = terms })
}

func refuses(terms ...term) change {
	return affine(func(a *corev1.Affinity) { a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = terms })
}

func likes(weight int32, t term) change {
	return affine(func(a *corev1.Affinity) {
		a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: weight, PodAffinityTerm: t}}
	})
}

func dislikes(weight int32, t term) change {
	return affine(func(a *corev1.Affinity) {
		a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: weight, PodAffinityTerm: t}}
	})
}

func affine(set func(*corev1.Affinity)) change {
	return func(p *corev1.Pod) {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
		}
		set(p.Spec.Affinity)
	}
}

// there is a pod that runs on a node.
type there struct {
	node    string
	changes []change
}

func on(node string, changes ...change) there { return there{node, changes} }

// snapshotOf builds nodes from "name key=value…", and puts pods on them.
func snapshotOf(nodes []string, pods []there) *framework.Snapshot {
	s := &framework.Snapshot{ByName: map[string]*framework.NodeInfo{}}
	for _, line := range nodes {
		name, labels, _ := strings.Cut(line, " ")
		n := node("", func(n *corev1.Node) {
			n.Name, n.Labels = name, pairs(labels)
			n.Labels[corev1.LabelHostname] = name
			if n.Labels["tainted"] != "" {
				taint("t", corev1.TaintEffectNoSchedule)(n)
			}
		})
		s.Nodes, s.ByName[name] = append(s.Nodes, n), n
	}
	for i, p := range pods {
		s.ByName[p.node].AddPod(pod("", append(p.changes, func(p *corev1.Pod) { p.UID = types.UID(fmt.Sprint("there-", i)) })...))
	}
	s.ListAffinity()
	return s
}

// known is what framework.Objects would find in a cluster.
type known struct{ framework.NoObjects }

func (known) NamespaceLabels(name string) map[string]string {
	return map[string]map[string]string{"prod": {"env": "prod"}}[name]
}

func (known) Services(namespace string) []*corev1.Service {
	service := func(selector map[string]string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: corev1.ServiceSpec{Selector: selector}}
	}
	return map[string][]*corev1.Service{"default": {service(nil), service(pairs("app=a")), service(pairs("app=b"))}}[namespace]
}

func (known) Selector(_ string, owner *metav1.OwnerReference) *metav1.LabelSelector {
	return map[string]*metav1.LabelSelector{"rs": sel("hash=1")}[owner.Name]
}

// verdicts runs the filter on every node: "a ✗b: why; …", empty if skipped.
func verdicts(t *testing.T, name string, p *framework.PodInfo, s *framework.Snapshot) string {
	t.Helper()
	plugin := madeWith(t, name, "", known{})
	c := framework.NewCycle(p, s)
	if _, status := plugin.(framework.PreFilterPlugin).PreFilter(c); status.IsSkip() {
		return ""
	} else if !status.IsSuccess() {
		return status.Message()
	}
	var said []string
	for _, n := range s.Nodes {
		mark := map[*framework.Status]string{nil: "", skewed: "✗skew", noTopology: "✗label", friendsMissing: "✗friends", foesThere: "✗foes", unwelcome: "✗unwelcome"}
		said = append(said, n.Node.Name+mark[plugin.(framework.FilterPlugin).Filter(c, n)])
	}
	return strings.Join(said, " ")
}

func madeWith(t *testing.T, name, args string, objects framework.Objects) framework.Plugin {
	t.Helper()
	i := slices.IndexFunc(Rows, func(r Row) bool { return r.Name == name })
	plugin, err := Rows[i].New([]byte(args), framework.Handle{Objects: objects})
	if err != nil {
		t.Fatal(err)
	}
	return plugin
}

func TestNeighbourFilters(t *testing.T) {
	const hard, host = corev1.DoNotSchedule, corev1.LabelHostname
	a, b := tagged("app=a"), tagged("app=b")
	zones := []string{"x z=1", "y z=1", "w z=2"}
	domains := func(n int32) func(*corev1.TopologySpreadConstraint) {
		return func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &n }
	}
	honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	namespaces := func(names ...string) func(*term) { return func(t *term) { t.Namespaces = names } }
	selected := func(s *metav1.LabelSelector) func(*term) { return func(t *term) { t.NamespaceSelector = s } }
	tests := []struct {
		name   string
		plugin string
		pod    []change
		nodes  []string
		pods   []there
		want   string
	}{
		{"no constraint", "PodTopologySpread", []change{a}, zones, nil, ""},
		{"soft constraints do not filter", "PodTopologySpread", []change{a, spreading("z", 1, corev1.ScheduleAnyway)}, zones, nil, ""},
		{"even", "PodTopologySpread", []change{a, spreading("z", 1, hard)}, zones, []there{on("x", a), on("w", a)}, "x y w"},
		{"skewed zone", "PodTopologySpread", []change{a, spreading("z", 1, hard)}, zones, []there{on("x", a)}, "x✗skew y✗skew w"},
		{"more skew allowed", "PodTopologySpread", []change{a, spreading("z", 2, hard)}, zones, []there{on("x", a)}, "x y w"},
		{"pods of other kinds, namespaces, or leaving", "PodTopologySpread", []change{a, spreading("z", 1, hard)}, zones,
			[]there{on("x", b), on("x", a, in("other")), on("x", a, leaving)}, "x y w"},
		{"not alike itself", "PodTopologySpread", []change{b, spreading("z", 1, hard)}, zones, []there{on("x", a)}, "x y w"},
		{"label missing", "PodTopologySpread", []change{a, spreading("z", 1, hard)}, []string{"x z=1", "y"}, nil, "x y✗label"},
		{"two constraints", "PodTopologySpread", []change{a, spreading("z", 1, hard), spreading(host, 1, hard)}, zones,
			[]there{on("x", a), on("w", a)}, "x✗skew y w✗skew"},
		{"too few domains", "PodTopologySpread", []change{a, spreading("z", 1, hard, domains(3))}, zones, []there{on("x", a), on("w", a)}, "x✗skew y✗skew w✗skew"},
		{"enough domains", "PodTopologySpread", []change{a, spreading("z", 1, hard, domains(2))}, zones, []there{on("x", a), on("w", a)}, "x y w"},
		{"nodes out of bounds do not count", "PodTopologySpread", []change{a, func(p *corev1.Pod) { p.Spec.NodeSelector = pairs("z=1") }, spreading("z", 1, hard)},
			zones, []there{on("x", a)}, "x y w"}, // w is refused by NodeAffinity
		{"unless ignored", "PodTopologySpread", []change{a, func(p *corev1.Pod) { p.Spec.NodeSelector = pairs("z=1") },
			spreading("z", 1, hard, func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &ignore })}, zones, []there{on("x", a)}, "x✗skew y✗skew w"},
		{"tainted nodes count", "PodTopologySpread", []change{a, spreading("z", 1, hard)}, []string{"x z=1", "w z=2 tainted=y"}, []there{on("x", a)}, "x✗skew w"},
		{"unless honored", "PodTopologySpread", []change{a, spreading("z", 1, hard, func(c *corev1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor })},
			[]string{"x z=1", "w z=2 tainted=y"}, []there{on("x", a)}, "x w"},
		{"same values of matchLabelKeys", "PodTopologySpread", []change{tagged("app=a v=2"), spreading("z", 1, hard, func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"v", "none"} })},
			zones, []there{on("x", tagged("app=a v=1")), on("w", tagged("app=a v=2"))}, "x y w✗skew"},

		{"no terms", "InterPodAffinity", []change{a}, zones, []there{on("x", b)}, ""},
		{"needs a friend", "InterPodAffinity", []change{needs(toward("app=a", "z"))}, zones, []there{on("x", a)}, "x y w✗friends"},
		{"no friend at all", "InterPodAffinity", []change{needs(toward("app=a", "z"))}, zones, nil, "x✗friends y✗friends w✗friends"},
		{"first of its group", "InterPodAffinity", []change{a, needs(toward("app=a", "z"))}, []string{"x z=1", "y"}, nil, "x y✗friends"},
		{"one friend for all terms", "InterPodAffinity", []change{needs(toward("app=a", "z"), toward("tier=1", host))}, zones,
			[]there{on("x", a), on("w", tagged("tier=1"))}, "x✗friends y✗friends w✗friends"},
		{"both terms by one", "InterPodAffinity", []change{needs(toward("app=a", "z"), toward("tier=1", host))}, zones,
			[]there{on("x", tagged("app=a tier=1"))}, "x y✗friends w✗friends"},
		{"refuses", "InterPodAffinity", []change{a, refuses(toward("app=a", "z"))}, zones, []there{on("x", a)}, "x✗foes y✗foes w"},
		{"refuses where labels are", "InterPodAffinity", []change{refuses(toward("app=a", "z"))}, []string{"x"}, []there{on("x", a)}, "x"},
		{"is refused", "InterPodAffinity", []change{a}, zones, []there{on("x", b, refuses(toward("app=a", "z")))}, "x✗unwelcome y✗unwelcome w"},
		{"refused are others", "InterPodAffinity", []change{a}, zones, []there{on("x", b, refuses(toward("app=c", "z")))}, ""},
		{"own namespace only", "InterPodAffinity", []change{refuses(toward("app=a", host))}, zones, []there{on("x", a, in("prod"))}, "x y w"},
		{"listed namespace", "InterPodAffinity", []change{refuses(toward("app=a", host, namespaces("prod")))}, zones, []there{on("x", a, in("prod")), on("y", a)}, "x✗foes y w"},
		{"selected namespace", "InterPodAffinity", []change{refuses(toward("app=a", host, selected(sel("env=prod"))))}, zones, []there{on("x", a, in("prod")), on("y", a)}, "x✗foes y w"},
		{"all namespaces", "InterPodAffinity", []change{refuses(toward("app=a", host, selected(sel(""))))}, zones, []there{on("x", a, in("prod")), on("y", a)}, "x✗foes y✗foes w"},
		{"refused by namespace", "InterPodAffinity", []change{a, in("prod")}, zones, []there{on("x", refuses(toward("app=a", host, selected(sel("env=prod")))))}, "x✗unwelcome y w"},
	}
	for _, tt := range tests {
		t.Run(tt.plugin+"/"+tt.name, func(t *testing.T) {
			if got := verdicts(t, tt.plugin, pod("", tt.pod...), snapshotOf(tt.nodes, tt.pods)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestNeighbourScores(t *testing.T) {
	const soft, host = corev1.ScheduleAnyway, corev1.LabelHostname
	a, b := tagged("app=a"), tagged("app=b")
	owned := func(p *corev1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", Controller: &yes}}
	}
	two := []string{"x", "y"}
	zones := []string{"x z=1", "y z=1", "w z=2"}
	tests := []struct {
		name, plugin, args string
		pod                []change
		nodes              []string
		pods               []there
		want               []int64
	}{
		{"nothing selects it", "PodTopologySpread", "", []change{tagged("app=c")}, two, []there{on("x", tagged("app=c"))}, nil},
		// ln 4 = 1.39 and 2 for maxSkew 3: 3 against 2.
		{"by its Service", "PodTopologySpread", "", []change{a}, two, []there{on("x", a)}, []int64{66, 100}},
		{"by its owner", "PodTopologySpread", "", []change{tagged("hash=1"), owned}, two, []there{on("x", tagged("hash=1"))}, []int64{66, 100}},
		{"by both at once", "PodTopologySpread", "", []change{tagged("app=a hash=1"), owned}, two, []there{on("x", a)}, []int64{100, 100}},
		{"defaults off", "PodTopologySpread", `{"defaultingType":"List"}`, []change{a}, two, []there{on("x", a)}, nil},
		{"own defaults", "PodTopologySpread", `{"defaultingType":"List","defaultConstraints":[{"maxSkew":1,"topologyKey":"z","whenUnsatisfiable":"ScheduleAnyway"}]}`,
			[]change{a}, append(zones, "v"), []there{on("x", a)}, []int64{0, 0, 100, 0}},
		{"declared", "PodTopologySpread", "", []change{a, spreading("z", 1, soft)}, zones, []there{on("x", a), on("y", a), on("w", a)}, []int64{33, 33, 100}},
		{"hard constraints do not score", "PodTopologySpread", "", []change{a, spreading("z", 1, corev1.DoNotSchedule)}, zones, []there{on("x", a)}, nil},

		{"no terms anywhere", "InterPodAffinity", "", []change{a}, two, []there{on("x", a)}, nil},
		{"likes", "InterPodAffinity", "", []change{likes(10, toward("app=a", "z"))}, zones, []there{on("x", a)}, []int64{100, 100, 0}},
		{"dislikes", "InterPodAffinity", "", []change{a, dislikes(100, toward("app=a", host))}, zones, []there{on("x", a), on("x", a), on("y", a)}, []int64{0, 50, 100}},
		{"is liked", "InterPodAffinity", "", []change{a}, two, []there{on("y", b, likes(3, toward("app=a", host)))}, []int64{0, 100}},
		{"is disliked", "InterPodAffinity", "", []change{a}, two, []there{on("y", b, dislikes(3, toward("app=a", host)))}, []int64{100, 0}},
		{"is needed", "InterPodAffinity", "", []change{a}, two, []there{on("y", b, needs(toward("app=a", host)))}, []int64{0, 100}},
		{"is needed, in vain", "InterPodAffinity", `{"hardPodAffinityWeight":0}`, []change{a}, two, []there{on("y", b, needs(toward("app=a", host)))}, nil},
		{"wishes of others ignored", "InterPodAffinity", `{"ignorePreferredTermsOfExistingPods":true}`, []change{a}, two, []there{on("y", b, likes(3, toward("app=a", host)))}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.plugin+"/"+tt.name, func(t *testing.T) {
			s := snapshotOf(tt.nodes, tt.pods)
			profile := &framework.Profile{}
			plugin := madeWith(t, tt.plugin, tt.args, known{})
			if profile.Add("PreScore", plugin, 1) != nil || profile.Add("Score", plugin, 1) != nil {
				t.Fatal("not a score plugin")
			}
			totals, details, status := profile.RunScore(framework.NewCycle(pod("", tt.pod...), s), s.Nodes, true)
			if details == nil {
				totals = nil
			}
			if !status.IsSuccess() || !slices.Equal(totals, tt.want) {
				t.Errorf("scores %v, want %v (%s)", totals, tt.want, status.Message())
			}
		})
	}
}

func TestNeighbourHints(t *testing.T) {
	host := corev1.LabelHostname
	a, b := tagged("app=a"), tagged("app=b")
	podWith := func(changes ...change) *corev1.Pod { return pod("", changes...).Pod }
	nodeWith := func(labels string) *corev1.Node {
		return node("", func(n *corev1.Node) { n.Labels = pairs(labels) }).Node
	}
	spreads, needy, shy := pod("", a, spreading("z", 1, corev1.DoNotSchedule)), pod("", b, needs(toward("app=a", "z"))), pod("", b, refuses(toward("app=a", host)))
	add, gone := framework.AssignedAdd, framework.AssignedDelete
	tests := []struct {
		name, plugin string
		pod          *framework.PodInfo
		event        framework.Event
		want         bool
	}{
		{"like pod comes", "PodTopologySpread", spreads, framework.Event{Action: add, NewPod: podWith(a)}, true},
		{"like pod goes", "PodTopologySpread", spreads, framework.Event{Action: gone, OldPod: podWith(a)}, true},
		{"other pod goes", "PodTopologySpread", spreads, framework.Event{Action: gone, OldPod: podWith(b)}, false},
		{"elsewhere", "PodTopologySpread", spreads, framework.Event{Action: gone, OldPod: podWith(a, in("x"))}, false},
		{"becomes alike", "PodTopologySpread", spreads, framework.Event{Action: framework.AssignedLabels, OldPod: podWith(b), NewPod: podWith(a)}, true},
		{"stays alike", "PodTopologySpread", spreads, framework.Event{Action: framework.AssignedLabels, OldPod: podWith(a), NewPod: podWith(tagged("app=a x=y"))}, false},
		{"node of a zone", "PodTopologySpread", spreads, framework.Event{Action: framework.NodeAdd, NewNode: nodeWith("z=1")}, true},
		{"node of no zone", "PodTopologySpread", spreads, framework.Event{Action: framework.NodeAdd, NewNode: nodeWith("")}, false},
		{"node gets a zone", "PodTopologySpread", spreads, framework.Event{Action: framework.NodeLabels, OldNode: nodeWith(""), NewNode: nodeWith("z=1")}, true},
		{"node goes", "PodTopologySpread", spreads, framework.Event{Action: framework.NodeDelete, OldNode: nodeWith("z=1")}, true},
		{"friend comes", "InterPodAffinity", needy, framework.Event{Action: add, NewPod: podWith(a)}, true},
		{"stranger comes", "InterPodAffinity", needy, framework.Event{Action: add, NewPod: podWith(b)}, false},
		{"becomes a friend", "InterPodAffinity", needy, framework.Event{Action: framework.AssignedLabels, OldPod: podWith(b), NewPod: podWith(a)}, true},
		{"node without the label", "InterPodAffinity", needy, framework.Event{Action: framework.NodeAdd, NewNode: nodeWith("")}, false},
		{"foe goes", "InterPodAffinity", shy, framework.Event{Action: gone, OldPod: podWith(a)}, true},
		{"stranger goes", "InterPodAffinity", shy, framework.Event{Action: gone, OldPod: podWith(b)}, false},
		{"who refused it goes", "InterPodAffinity", shy, framework.Event{Action: gone, OldPod: podWith(refuses(toward("app=b", host)))}, true},
		{"foe reforms", "InterPodAffinity", shy, framework.Event{Action: framework.AssignedLabels, OldPod: podWith(a), NewPod: podWith(b)}, true},
		{"any node", "InterPodAffinity", shy, framework.Event{Action: framework.NodeAdd, NewNode: nodeWith("")}, true},
	}
	for _, tt := range tests {
		t.Run(tt.plugin+"/"+tt.name, func(t *testing.T) {
			got := slices.ContainsFunc(madeWith(t, tt.plugin, "", known{}).(framework.EnqueuePlugin).Hints(), func(h framework.Hint) bool {
				return h.On&tt.event.Action != 0 && (h.Helps == nil || h.Helps(tt.pod, tt.event))
			})
			if got != tt.want {
				t.Errorf("helps: %v", got)
			}
		})
	}
}

// The lists of pods with affinity follow what comes and goes.
func TestNodesRememberPodsWithAffinity(t *testing.T) {
	s := snapshotOf([]string{"x", "y"}, []there{on("x", refuses(toward("app=a", "z"))), on("x"), on("y", likes(1, toward("app=a", "z")))})
	count := func() map[string]int {
		s.ListAffinity()
		return map[string]int{"with": len(s.WithAffinity), "anti": len(s.WithAntiAffinity)}
	}
	if got := count(); !maps.Equal(got, map[string]int{"with": 2, "anti": 1}) {
		t.Error(got)
	}
	s.ByName["x"].RemovePod(s.ByName["x"].Pods[0].Pod)
	if got := count(); !maps.Equal(got, map[string]int{"with": 1, "anti": 0}) {
		t.Error(got)
	}
}
