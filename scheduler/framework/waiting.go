package framework

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// WaitingPods are the pods whose room is set aside while a Permit plugin waits,
// for the rest of a gang, say. Plugins get them by Handle.Waiting.
type WaitingPods struct {
	mu   sync.Mutex // guards pods
	pods map[types.UID]*WaitingPod
}

// NewWaitingPods makes an empty set.
func NewWaitingPods() *WaitingPods { return &WaitingPods{pods: map[types.UID]*WaitingPod{}} }

// WaitingPod is one of them.
type WaitingPod struct {
	Pod  *PodInfo
	Node string

	mu      sync.Mutex // guards what follows
	pending map[string]*time.Timer
	verdict chan *Status // gets one, at most
	decided bool
}

// Add takes in a pod that waits for these plugins, each for so long.
func (w *WaitingPods) Add(pod *PodInfo, node string, plugins map[string]time.Duration) *WaitingPod {
	p := &WaitingPod{Pod: pod, Node: node, pending: map[string]*time.Timer{}, verdict: make(chan *Status, 1)}
	p.mu.Lock()
	for plugin, patience := range plugins {
		p.pending[plugin] = time.AfterFunc(patience, func() {
			p.Reject(plugin, fmt.Sprintf("rejected due to timeout after waiting %v at plugin %v", patience, plugin))
		})
	}
	p.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[pod.UID] = p
	return p
}

// Get returns the pod if it waits.
func (w *WaitingPods) Get(uid types.UID) *WaitingPod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[uid]
}

// Await returns when the pod may be bound or not; at once if it need not wait.
func (w *WaitingPods) Await(ctx context.Context, p *WaitingPod) (status *Status) {
	if p == nil {
		return nil
	}
	select {
	case status = <-p.verdict:
	case <-ctx.Done():
		status = AsStatus(ctx.Err())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, p.Pod.UID)
	return status
}

// Allow is a plugin's yes; the pod goes on when all have said so.
func (p *WaitingPod) Allow(plugin string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if timer := p.pending[plugin]; timer != nil {
		timer.Stop()
		delete(p.pending, plugin)
	}
	if len(p.pending) == 0 && !p.decided {
		p.decided = true
		p.verdict <- nil
	}
}

// Reject is anybody's no, which is final. It says whether it came in time.
func (p *WaitingPod) Reject(plugin, reason string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decided {
		return false
	}
	p.decided = true
	for _, timer := range p.pending {
		timer.Stop()
	}
	p.verdict <- &Status{Code: Unschedulable, Reasons: []string{reason}, Plugin: plugin}
	return true
}
