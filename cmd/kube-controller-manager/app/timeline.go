package app

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/controllers/nodelifecycle"
	"tinykube/controllers/tainteviction"
)

// timeline shows in no time what takes minutes: the decisions about a node that
// falls silent, and about its pods, made by the controllers' own functions
// while the clock is turned by hand.
type timeline struct {
	cfg     nodelifecycle.Config
	seconds int64         // tolerated, as admission writes it into every pod
	back    time.Duration // when the kubelet is heard of again; 0 means never
}

func newTimeline() *cobra.Command {
	t := &timeline{}
	cmd := &cobra.Command{
		Use: "timeline", Short: "What becomes of a node that falls silent, and when, in virtual time", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { t.run(os.Stdout); return nil },
	}
	nodeFlags(cmd.Flags(), &t.cfg)
	cmd.Flags().Int64Var(&t.seconds, "default-unreachable-toleration-seconds", 300, "how long pods tolerate that their node is unreachable")
	cmd.Flags().DurationVar(&t.back, "back-after", 0, "when the node is heard of again; 0 for never")
	return cmd
}

const (
	leaseRenewal = 10 * time.Second // a quarter of the Lease's 40 s
	afterwards   = time.Minute      // how long it goes on when nothing is to come any more
)

// tolerant is a pod that tolerates an unreachable node: for some seconds, or,
// with nil, for ever.
func tolerant(name string, seconds *int64) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{{
		Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}}}
}

// run turns the clock, a second at a time, and prints a line whenever something
// has changed.
func (t *timeline) run(out io.Writer) {
	start := time.Unix(0, 0)
	now, renewed := start, start
	say := func(format string, args ...any) {
		at := now.Sub(start)
		fmt.Fprintf(out, "%3d:%02d  %s\n", int(at.Minutes()), int(at.Seconds())%60, fmt.Sprintf(format, args...))
	}
	node := &nodelifecycle.Watched{Config: t.cfg, Node: &corev1.Node{Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}}
	quick := min(t.seconds, 30)
	pods := []*corev1.Pod{tolerant("quick", &quick), tolerant("web", &t.seconds), tolerant("agent", nil)}

	say("the kubelet renews its Lease, and that is the last thing it says")
	last := start.Add(max(t.cfg.GracePeriod+time.Duration(t.seconds)*time.Second, t.back) + afterwards)
	was := node.Node.DeepCopy()
	for looked := start.Add(-t.cfg.MonitorPeriod); now.Before(last); now = now.Add(time.Second) {
		if t.back > 0 && !now.Before(start.Add(t.back)) && now.Sub(renewed) >= leaseRenewal {
			if renewed.Equal(start) {
				say("the kubelet is back: it renews its Lease and posts its status")
				node.Node.Status.Conditions[0].Status, looked = corev1.ConditionTrue, time.Time{} // a change is looked at, at once
			}
			renewed = now
		}
		if now.Sub(looked) >= t.cfg.MonitorPeriod {
			looked = now
			node.Look(renewed, now)
		}
		t.tell(say, was, node.Node)
		was = node.Node.DeepCopy()
		pods = evictions(say, pods, node.Node.Spec.Taints, now)
	}
	for _, pod := range pods {
		say("%s is still there%s", pod.Name, map[bool]string{true: ": it tolerates the taint for ever, as what a DaemonSet makes does"}[len(node.Node.Spec.Taints) > 0])
	}
}

// tell says what has changed about a node.
func (t *timeline) tell(say func(string, ...any), was, is *corev1.Node) {
	if a, b := was.Status.Conditions[0].Status, is.Status.Conditions[0].Status; a != b && b == corev1.ConditionUnknown {
		say("Ready is Unknown now, and no pod there counts as ready: Services leave them out")
	}
	switch {
	case len(was.Spec.Taints) == len(is.Spec.Taints):
	case len(is.Spec.Taints) == 0:
		say("no taint any more: who has not been deleted stays")
	default:
		var taints []string
		for _, taint := range is.Spec.Taints {
			taints = append(taints, strings.TrimPrefix(taint.ToString(), "node.kubernetes.io/"))
		}
		say("the taints are %s", strings.Join(taints, " "))
	}
}

// evictions says who has to leave now, and returns who stays.
func evictions(say func(string, ...any), pods []*corev1.Pod, taints []corev1.Taint, now time.Time) (stay []*corev1.Pod) {
	for _, pod := range pods {
		if leave, ok := tainteviction.Leave(pod, taints); ok && !leave.After(now) {
			say("%s is deleted: it tolerated the taint for %d s; nobody there carries it out, so it is Terminating", pod.Name, *pod.Spec.Tolerations[0].TolerationSeconds)
			continue
		}
		stay = append(stay, pod)
	}
	return stay
}
