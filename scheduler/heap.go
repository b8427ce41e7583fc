package scheduler

import "container/heap"

// podHeap is a heap of queue entries from which any entry can be removed,
// since each knows its position.
type podHeap struct {
	less    func(a, b *entry) bool
	entries []*entry
}

func (h *podHeap) push(e *entry)    { heap.Push(h, e) }
func (h *podHeap) popFirst() *entry { return heap.Pop(h).(*entry) }
func (h *podHeap) remove(e *entry)  { heap.Remove(h, e.index) }

// The rest is container/heap's interface.

func (h *podHeap) Len() int           { return len(h.entries) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.entries[i], h.entries[j]) }

func (h *podHeap) Swap(i, j int) {
	h.entries[i], h.entries[j] = h.entries[j], h.entries[i]
	h.entries[i].index, h.entries[j].index = i, j
}

func (h *podHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(h.entries)
	h.entries = append(h.entries, e)
}

func (h *podHeap) Pop() any {
	last := h.entries[len(h.entries)-1]
	h.entries[len(h.entries)-1] = nil
	h.entries = h.entries[:len(h.entries)-1]
	return last
}
