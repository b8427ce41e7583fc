package proxy

import (
	"maps"
	"slices"
	"strings"
)

// A ledger is how a change of state becomes the smallest change of the kernel,
// for backends whose rules are elements of sets: nftables' maps, IPVS' virtual
// servers, ipsets. Each Service port says which elements it wants; the ledger
// knows what was wanted before.
//
//	ports ──render──▶ elements ──▶ ledger ──▶ changes: elements to remove, to add
//	                                 │
//	                                 └ a port whose pointer is the old one is not even looked at
//
// Two ports may want the same element (the hairpin of one pod behind two
// Services): it goes when the last of them does. Two ports may want the same
// address for different ends (one external IP claimed twice): the first keeps it,
// by name, whatever the order in which they came.

// element is one entry of a set: a key, and a value if the set is a map.
type element struct{ set, key, value string }

// id is what cannot be twice.
type elementID struct{ set, key string }

func (e element) id() elementID { return elementID{e.set, e.key} }

// claim is the set that no kernel has: who has a key of it may use the address.
const claim = "claim"

// holding is an element's value and how many ports want it.
type holding struct {
	value  string
	wanted int
}

// filed is what one port got of what it wants.
type filed struct {
	elements []element
	update   int // the last that it was there for
}

type ledger struct {
	ports   map[*ServicePort]*filed
	frame   []element
	held    map[elementID]holding
	updates int
	// contested: some port did not get what it wants. Then all are asked again,
	// in order, at once and at each change: the winner may have gone.
	contested bool
}

// changes are what to do, by set. A new value is a removal and an addition.
type changes struct{ remove, add map[string][]element }

func (c changes) empty() bool { return len(c.remove)+len(c.add) == 0 }

// update brings the ledger to a state and answers what that changes. render says
// what a port wants: the first element of a group may be a claim, and who does
// not get it does not get the rest. frame is wanted whatever the ports are; all
// asks every port again.
func (l *ledger) update(state State, frame []element, all bool, render func(*ServicePort) [][]element) changes {
	if l.ports == nil {
		l.ports, l.held = map[*ServicePort]*filed{}, map[elementID]holding{}
	}
	before := map[elementID]holding{}
	l.updates++
	l.withdraw(l.frame, before)
	l.frame = l.file([][]element{frame}, before)
	if !all && !l.contested {
		l.replace(state, before, render)
	}
	if all || l.contested {
		// Whose a contested address is depends on all that want it.
		for p, f := range l.ports {
			l.withdraw(f.elements, before)
			delete(l.ports, p)
		}
		l.contested = false
		l.replace(state, before, render)
	}
	return l.diff(before)
}

// replace files the ports that are new, and withdraws those that are gone.
func (l *ledger) replace(state State, before map[elementID]holding, render func(*ServicePort) [][]element) {
	var fresh []*ServicePort
	kept := 0
	for _, p := range state.Ports {
		if f := l.ports[p]; f != nil {
			f.update = l.updates
			kept++
		} else {
			fresh = append(fresh, p)
		}
	}
	if kept < len(l.ports) {
		for p, f := range l.ports {
			if f.update != l.updates {
				l.withdraw(f.elements, before)
				delete(l.ports, p)
			}
		}
	}
	for _, p := range (State{Ports: fresh}).sorted() {
		l.ports[p] = &filed{l.file(render(p), before), l.updates}
	}
}

// touch remembers what an element was before this update.
func (l *ledger) touch(id elementID, before map[elementID]holding) holding {
	now := l.held[id]
	if _, seen := before[id]; !seen {
		before[id] = now
	}
	return now
}

func (l *ledger) withdraw(elements []element, before map[elementID]holding) {
	for _, e := range elements {
		h := l.touch(e.id(), before)
		if h.wanted--; h.wanted > 0 {
			l.held[e.id()] = h
		} else {
			delete(l.held, e.id())
		}
	}
}

func (l *ledger) file(groups [][]element, before map[elementID]holding) (got []element) {
	for _, group := range groups {
		for _, e := range group {
			h := l.touch(e.id(), before)
			if h.wanted > 0 && h.value != e.value {
				l.contested = true
				break
			}
			l.held[e.id()] = holding{e.value, h.wanted + 1}
			got = append(got, e)
		}
	}
	return got
}

func (l *ledger) diff(before map[elementID]holding) changes {
	c := changes{map[string][]element{}, map[string][]element{}}
	for id, old := range before {
		now := l.held[id]
		if id.set == claim || old.wanted > 0 && now.wanted > 0 && old.value == now.value {
			continue
		}
		if old.wanted > 0 {
			c.remove[id.set] = append(c.remove[id.set], element{id.set, id.key, old.value})
		}
		if now.wanted > 0 {
			c.add[id.set] = append(c.add[id.set], element{id.set, id.key, now.value})
		}
	}
	return c
}

// sortElements puts them in the order of their keys, for people and goldens.
func sortElements(list []element) []element {
	slices.SortFunc(list, func(a, b element) int { return strings.Compare(a.key, b.key) })
	return list
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
