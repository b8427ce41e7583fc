package grade

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// taints judges the decision of lab 09: which taints a node has, by what its
// conditions say. Checks play the kubelets. Each has a zone of its own, since
// how fast nodes are given up is counted by zone; and a node that is well makes
// sure that the last check is the only one in which nobody is.
var taints = suite{
	programs: []string{"kube-controller-manager"},
	open: func(ctx context.Context, b *bench) error {
		err := withManager("--controllers=nodelifecycle", "--node-monitor-period=500ms", "--node-monitor-grace-period=1h",
			"--node-startup-grace-period=1h", "--node-eviction-rate=0.001")(ctx, b)
		if err != nil {
			return err
		}
		_, err = b.patient(ctx, "home", "home")
		return err
	},
	checks: []Check{
		{
			Name: tainted, Points: 2, run: nursed("not-ready", notReady),
			Hint: "Ready is False: the key not-ready, with the effects NoSchedule and NoExecute",
		},
		{
			Name: "a node that is well again is rid of them", Points: 1, Needs: []string{tainted}, run: nursed("well", well),
			Hint: "of ours (managed) stays only what is deserved",
		},
		{
			Name: "whose kubelet has fallen silent is unreachable, and never both at once", Points: 2, Needs: []string{tainted}, run: nursed("silent", silent),
			Hint: "Ready is Unknown: another key. What is deserved no more goes in the same write",
		},
		{
			Name: "what presses on a node keeps pods away, and drives none off", Points: 2, Needs: []string{tainted}, run: nursed("pressed", pressed),
			Hint: "only Ready asks for NoExecute; a condition that is False or Unknown asks for nothing here",
		},
		{
			Name: "a cordoned node keeps pods away", Points: 1, run: nursed("cordoned", cordoned),
			Hint: "spec.unschedulable",
		},
		{
			Name: "what others have put there stays", Points: 2, Needs: []string{tainted}, run: nursed("foreign", foreign, foreigners...),
			Hint: "managed says what is ours: a key and an effect together",
		},
		{
			Name: "a taint that stays keeps its time", Points: 2, Needs: []string{tainted}, run: nursed("keeps", keepsTime),
			Hint: "evictions are counted from timeAdded: keep the taint that is there",
		},
		{
			Name: "a zone that loses nodes too fast keeps the pods of the second one", Points: 2, Needs: []string{tainted}, run: tooFast,
			Hint: "choice is wait: what is to be added is not NoExecute",
		},
		{
			Name: "when nobody is ready, nobody is driven off", Points: 2, Needs: []string{tainted}, run: nobodyReady,
			Hint: "choice is spare: NoExecute goes, also where it was deserved",
		},
	},
}

const tainted = "a node that says that it is not ready is tainted, with both effects"

// patient is a node that a check plays.
type patient struct {
	*bench
	name  string
	nodes *client.Resource[*corev1.Node]
}

// patient makes a node in a zone. It says that it is well.
func (b *bench) patient(ctx context.Context, zone, name string, taints ...corev1.Taint) (*patient, error) {
	p := &patient{b, name, client.For(b.straight, client.Nodes)}
	_, err := p.nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		Spec: corev1.NodeSpec{Taints: taints}})
	if err != nil {
		return nil, err
	}
	return p, p.says(ctx, "Ready=True")
}

// nursed is a check that has a patient, and a zone, for itself.
func nursed(name string, check func(context.Context, *patient) error, taints ...corev1.Taint) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		p, err := b.patient(ctx, name, name, taints...)
		if err != nil {
			return err
		}
		defer p.leave(ctx)
		return check(ctx, p)
	}
}

// says has the node's kubelet post conditions: "Ready=False".
func (p *patient) says(ctx context.Context, conditions ...string) error {
	var list []string
	for _, c := range conditions {
		kind, status, _ := strings.Cut(c, "=")
		list = append(list, fmt.Sprintf(`{"type":%q,"status":%q,"reason":"Check"}`, kind, status))
	}
	_, err := p.nodes.Patch(ctx, "", p.name, types.StrategicMergePatchType, []byte(`{"status":{"conditions":[`+strings.Join(list, ",")+`]}}`), "status")
	return err
}

// has waits for a node to have just these taints: "not-ready:NoSchedule".
func (p *patient) has(ctx context.Context, want ...string) (*corev1.Node, error) {
	var node *corev1.Node
	err := p.until(ctx, func() (err error) {
		if node, err = p.nodes.Get(ctx, "", p.name); err != nil {
			return err
		}
		var got []string
		for _, t := range node.Spec.Taints {
			got = append(got, strings.TrimPrefix(t.Key, "node.kubernetes.io/")+":"+string(t.Effect))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			err = fmt.Errorf("the taints are %v, and should be %v", got, want)
		}
		return err
	})
	return node, err
}

// in is one step of a check: the kubelet says something, the taints follow.
func (p *patient) in(ctx context.Context, says string, want ...string) error {
	if err := p.says(ctx, strings.Fields(says)...); err != nil {
		return err
	}
	if _, err := p.has(ctx, want...); err != nil {
		return fmt.Errorf("%s: %w", says, err)
	}
	return nil
}

// leave takes the node away; nobody counts it then.
func (p *patient) leave(ctx context.Context) {
	p.nodes.Delete(ctx, "", p.name, metav1.DeleteOptions{})
}

func notReady(ctx context.Context, p *patient) error {
	return p.in(ctx, "Ready=False", "not-ready:NoSchedule", "not-ready:NoExecute")
}

func well(ctx context.Context, p *patient) error {
	if err := p.in(ctx, "Ready=False DiskPressure=True", "not-ready:NoSchedule", "not-ready:NoExecute", "disk-pressure:NoSchedule"); err != nil {
		return err
	}
	return p.in(ctx, "Ready=True DiskPressure=False")
}

// silent follows every version of the node.
func silent(ctx context.Context, p *patient) error {
	node, err := p.nodes.Get(ctx, "", p.name)
	if err != nil {
		return err
	}
	w, err := p.nodes.Watch(ctx, "", metav1.ListOptions{ResourceVersion: node.ResourceVersion, FieldSelector: "metadata.name=" + p.name})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := p.in(ctx, "Ready=False", "not-ready:NoSchedule", "not-ready:NoExecute"); err != nil {
		return err
	}
	if err := p.in(ctx, "Ready=Unknown", "unreachable:NoSchedule", "unreachable:NoExecute"); err != nil {
		return err
	}
	if err := p.in(ctx, "Ready=False", "not-ready:NoSchedule", "not-ready:NoExecute"); err != nil {
		return err
	}
	if node, err = p.nodes.Get(ctx, "", p.name); err != nil {
		return err
	}
	for event := range w.Events {
		if event.Status != nil {
			return fmt.Errorf("the watch ended: %s", event.Status.Message)
		}
		var executes []string
		for _, t := range event.Object.Spec.Taints {
			if t.Effect == corev1.TaintEffectNoExecute {
				executes = append(executes, t.Key)
			}
		}
		if len(executes) > 1 {
			return fmt.Errorf("for a moment it had NoExecute twice: %v", executes)
		}
		if event.Object.ResourceVersion == node.ResourceVersion {
			return nil
		}
	}
	return fmt.Errorf("the watch ended: %v", w.Err())
}

func pressed(ctx context.Context, p *patient) error {
	// Not ready as well, so that NoExecute may be put there.
	if err := p.in(ctx, "Ready=False MemoryPressure=True", "not-ready:NoSchedule", "not-ready:NoExecute", "memory-pressure:NoSchedule"); err != nil {
		return err
	}
	if err := p.in(ctx, "Ready=True PIDPressure=True", "memory-pressure:NoSchedule", "pid-pressure:NoSchedule"); err != nil {
		return err
	}
	if err := p.in(ctx, "MemoryPressure=False NetworkUnavailable=True", "pid-pressure:NoSchedule", "network-unavailable:NoSchedule"); err != nil {
		return err
	}
	return p.in(ctx, "PIDPressure=Unknown NetworkUnavailable=False DiskPressure=True", "disk-pressure:NoSchedule")
}

func cordoned(ctx context.Context, p *patient) error {
	for _, cordon := range []bool{true, false} {
		if _, err := p.nodes.Patch(ctx, "", p.name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"unschedulable":%v}}`, cordon)); err != nil {
			return err
		}
		var want []string
		if cordon {
			want = []string{"unschedulable:NoSchedule"}
		}
		if _, err := p.has(ctx, want...); err != nil {
			return fmt.Errorf("unschedulable is %v: %w", cordon, err)
		}
	}
	return nil
}

// foreigners are a taint of somebody's own, and one that looks like ours.
var foreigners = []corev1.Taint{
	{Key: "team", Value: "a", Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectPreferNoSchedule},
}

func foreign(ctx context.Context, p *patient) error {
	if err := p.in(ctx, "Ready=False", "team:NoExecute", "disk-pressure:PreferNoSchedule", "not-ready:NoSchedule", "not-ready:NoExecute"); err != nil {
		return err
	}
	return p.in(ctx, "Ready=True", "team:NoExecute", "disk-pressure:PreferNoSchedule")
}

func keepsTime(ctx context.Context, p *patient) error {
	if err := p.in(ctx, "Ready=False", "not-ready:NoSchedule", "not-ready:NoExecute"); err != nil {
		return err
	}
	// The taints are an hour old.
	node, err := p.nodes.Get(ctx, "", p.name)
	if err != nil {
		return err
	}
	var since []string
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.TimeAdded == nil {
			return fmt.Errorf("%s has no timeAdded", t.ToString())
		}
		*t.TimeAdded = metav1.NewTime(t.TimeAdded.Add(-3600e9))
		since = append(since, t.Key+" "+t.TimeAdded.UTC().String())
	}
	if _, err := p.nodes.Update(ctx, node); err != nil {
		return err
	}
	if err := p.says(ctx, "MemoryPressure=True"); err != nil {
		return err
	}
	node, err = p.has(ctx, "not-ready:NoSchedule", "not-ready:NoExecute", "memory-pressure:NoSchedule")
	if err != nil {
		return err
	}
	for _, t := range node.Spec.Taints {
		if is := t.Key + " " + t.TimeAdded.UTC().String(); t.Key == corev1.TaintNodeNotReady && !slices.Contains(since, is) {
			return fmt.Errorf("another taint was added, and this one has a new time: %s; it was %v", is, since)
		}
	}
	return nil
}

func tooFast(ctx context.Context, b *bench) error {
	var zone []*patient
	for _, name := range []string{"fast-1", "fast-2", "fast-3"} {
		p, err := b.patient(ctx, "fast", name)
		if err != nil {
			return err
		}
		defer p.leave(ctx)
		zone = append(zone, p)
	}
	if err := zone[0].in(ctx, "Ready=False", "not-ready:NoSchedule", "not-ready:NoExecute"); err != nil {
		return err
	}
	if err := zone[1].in(ctx, "Ready=False", "not-ready:NoSchedule"); err != nil {
		return fmt.Errorf("the second one within seconds: %w", err)
	}
	// When the second one recovers the first one has its taints still.
	if err := zone[1].in(ctx, "Ready=True"); err != nil {
		return err
	}
	_, err := zone[0].has(ctx, "not-ready:NoSchedule", "not-ready:NoExecute")
	return err
}

// nobodyReady has everybody be gone: the one who is cut off is the manager.
func nobodyReady(ctx context.Context, b *bench) error {
	p, err := b.patient(ctx, "last", "last")
	if err != nil {
		return err
	}
	if err := p.in(ctx, "Ready=False", "not-ready:NoSchedule", "not-ready:NoExecute"); err != nil {
		return err
	}
	home := &patient{b, "home", p.nodes}
	if err := home.in(ctx, "Ready=Unknown", "unreachable:NoSchedule"); err != nil {
		return fmt.Errorf("the last one that was well: %w", err)
	}
	_, err = p.has(ctx, "not-ready:NoSchedule")
	return err
}
