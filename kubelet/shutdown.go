package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// A machine that shuts down kills its pods like any other process. With
// shutdownGracePeriod the kubelet ends them first, the unimportant ones before
// those that others need to end well (CoreDNS, a CSI driver).
//
// Simplified: upstream learns of a shutdown from systemd-logind, over D-Bus,
// and holds it up with an inhibitor lock. We speak no D-Bus: the word is
// SIGPWR, the signal that init systems give when the power fails, and whoever
// sends it waits. Without it, for example under an unmodified systemd, a
// shutdown is as sudden as without this setting.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/nodeshutdown.
type shutdown struct {
	k      *Kubelet
	signal <-chan struct{} // nil: nobody will say
	groups []shutdownGroup // by priority, lowest first

	mu    sync.Mutex // guards begun
	begun bool
}

// shutdownGroup is pods of some priority and above, and the seconds they get.
type shutdownGroup struct {
	priority int32
	seconds  int64
	pods     []*corev1.Pod
}

const shutdownText = "Pod was terminated in response to imminent node shutdown."

// parseShutdown reads the two ways of saying it: two periods, or one for each
// range of priorities.
func parseShutdown(c *kubeletv1beta1.KubeletConfiguration) ([]shutdownGroup, error) {
	const systemCriticalPriority = 2_000_000_000
	total, critical := c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration
	switch {
	case critical > total:
		return nil, fmt.Errorf("invalid configuration: shutdownGracePeriodCriticalPods %v must be <= shutdownGracePeriod %v", critical, total)
	case total < 0, total > 0 && total < time.Second:
		return nil, fmt.Errorf("invalid configuration: shutdownGracePeriod %v must be either zero or otherwise >= 1 sec", total)
	case total > 0 && len(c.ShutdownGracePeriodByPodPriority) > 0:
		return nil, errors.New("invalid configuration: Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the same time")
	}
	var out []shutdownGroup
	for _, g := range c.ShutdownGracePeriodByPodPriority {
		out = append(out, shutdownGroup{priority: g.Priority, seconds: g.ShutdownGracePeriodSeconds})
	}
	if total > 0 {
		out = []shutdownGroup{{priority: 0, seconds: int64((total - critical) / time.Second)},
			{priority: systemCriticalPriority, seconds: int64(critical / time.Second)}}
	}
	slices.SortFunc(out, func(a, b shutdownGroup) int { return cmp.Compare(a.priority, b.priority) })
	return out, nil
}

// groupPods puts every pod into the highest group that it reaches; those below
// all of them go with the lowest.
func groupPods(groups []shutdownGroup, pods []*corev1.Pod) []shutdownGroup {
	groups = slices.Clone(groups)
	for _, pod := range pods {
		at := 0
		for i, g := range groups {
			if priority(pod) >= g.priority {
				at = i
			}
		}
		groups[at].pods = append(slices.Clip(groups[at].pods), pod)
	}
	return groups
}

// run waits for the signal and then ends the pods, group by group.
func (s *shutdown) run(ctx context.Context) error {
	if len(s.groups) == 0 || s.signal == nil {
		return nil
	}
	s.k.log.Info("graceful node shutdown begins with SIGPWR; systemd-logind is not asked")
	select {
	case <-ctx.Done():
		return nil
	case <-s.signal:
	}
	s.mu.Lock()
	s.begun = true
	s.mu.Unlock()
	s.k.eventNode(corev1.EventTypeNormal, "NodeShutdown", "Shutdown manager detected shutdown event")
	s.k.node.touchStatus()
	for _, group := range groupPods(s.groups, s.k.livingPods()) {
		s.endGroup(ctx, group)
	}
	s.k.log.Info("every pod has ended, the node may go down")
	return nil
}

// endGroup ends pods together and waits for them, but no longer than they have.
func (s *shutdown) endGroup(ctx context.Context, group shutdownGroup) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(group.seconds)*time.Second)
	defer cancel()
	var ending []*worker
	for _, pod := range group.pods {
		grace := group.seconds
		if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
			grace = min(grace, *own)
		}
		if w := s.k.worker(pod.UID); w != nil {
			w.end(&endCase{grace: &grace, reason: "Terminated", message: shutdownText, disruption: true})
			ending = append(ending, w)
		}
	}
	for _, w := range ending {
		for !isTerminal(w.publishedStatus().Phase) {
			if !wait(ctx, 100*time.Millisecond) {
				s.k.log.Warn("pods of this priority did not end in time", "priority", group.priority, "seconds", group.seconds)
				return
			}
		}
	}
}

// err is why the node is not ready while it goes down.
func (s *shutdown) err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return errors.New("node is shutting down")
	}
	return nil
}

func (s *shutdown) admit(*corev1.Pod) *rejection {
	if s.err() != nil {
		return &rejection{"NodeShutdown", "Pod was rejected as the node is shutting down."}
	}
	return nil
}
