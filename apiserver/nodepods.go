package apiserver

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/watch"

	"tinykube/apiserver/storage"
)

// nodePods knows which pods each node has. It has no goroutine: it is a watcher
// of the pods' table that reads what is new when somebody asks, and so is never
// behind the cache that the kubelet itself watches.
type nodePods struct {
	server *Server

	mu      sync.Mutex // guards the rest
	watcher *storage.Watcher
	byNode  map[string]map[string]*corev1.Pod // node → key → pod
	nodeOf  map[string]string                 // key → node
}

// of returns the pods that are bound to a node.
func (p *nodePods) of(ctx context.Context, node string) []*corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.watcher == nil || !p.read() {
		if !p.restart(ctx) {
			return nil
		}
	}
	pods := make([]*corev1.Pod, 0, len(p.byNode[node]))
	for _, pod := range p.byNode[node] {
		pods = append(pods, pod)
	}
	return pods
}

// restart begins anew with the cache's present state.
func (p *nodePods) restart(ctx context.Context) bool {
	if p.watcher != nil {
		p.watcher.Stop()
	}
	row := p.server.podsRow()
	var err error
	p.watcher, err = p.server.store.Table(row).Watch(ctx, storage.WatchOptions{Row: row, ResourceVersion: "0", Initial: true})
	if err != nil {
		p.watcher = nil
		return false
	}
	p.byNode, p.nodeOf = map[string]map[string]*corev1.Pod{}, map[string]string{}
	for _, item := range p.watcher.Initial {
		p.put(item)
	}
	p.watcher.Initial = nil
	return true
}

// read takes in everything that the cache has and we have not; false says that
// it is too much, or that the cache was loaded anew.
func (p *nodePods) read() bool {
	for {
		events, _, err := p.watcher.Take()
		if err != nil {
			return false
		}
		for _, event := range events {
			p.put(event.Item)
			if event.Type == watch.Deleted {
				p.forget(event.Item.Key)
			}
		}
		select {
		case <-p.watcher.Bell():
		default:
			return true
		}
	}
}

func (p *nodePods) put(item *storage.Item) {
	p.forget(item.Key)
	pod, ok := decoded[*corev1.Pod](item)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	if p.byNode[pod.Spec.NodeName] == nil {
		p.byNode[pod.Spec.NodeName] = map[string]*corev1.Pod{}
	}
	p.byNode[pod.Spec.NodeName][item.Key] = pod
	p.nodeOf[item.Key] = pod.Spec.NodeName
}

func (p *nodePods) forget(key string) {
	node, ok := p.nodeOf[key]
	if !ok {
		return
	}
	delete(p.nodeOf, key)
	delete(p.byNode[node], key)
	if len(p.byNode[node]) == 0 {
		delete(p.byNode, node)
	}
}
