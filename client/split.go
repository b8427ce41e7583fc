package client

import "context"

// Split is one watch for many readers who each look at a part of a collection,
// such as the pods of a node: the parts are Informers like any other, fed by
// one that holds everything. A thousand kubelets in one process then cost the
// API server one watch, and the process one copy of each object.
//
// Parts are made before Run. They share objects, so again: never change one.
type Split[T Object] struct {
	whole *Informer[T]
	of    func(T) string
	parts map[string]*Informer[T] // set before Run
}

// NewSplit makes a Split; of says to which part an object belongs. Objects of
// parts that nobody asked for are held and shown to no one.
func NewSplit[T Object](r *Resource[T], options InformerOptions[T], of func(T) string) *Split[T] {
	s := &Split[T]{whole: NewInformer(r, options), of: of, parts: map[string]*Informer[T]{}}
	s.whole.OnChange(s.route)
	return s
}

// Part is the informer of one part. Its Run only waits: the Split feeds it.
func (s *Split[T]) Part(name string) *Informer[T] {
	if s.parts[name] == nil {
		s.parts[name] = NewInformer(s.whole.resource, s.whole.options)
		s.parts[name].fed = true
	}
	return s.parts[name]
}

// Run keeps all parts current until ctx ends.
func (s *Split[T]) Run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if WaitSynced(ctx, s.whole.Synced()) {
			for _, part := range s.parts {
				close(part.synced)
			}
		}
	}()
	defer func() { <-done }()
	return s.whole.Run(ctx)
}

// route passes a change on. An object that moves leaves one part and appears
// in another.
func (s *Split[T]) route(old, new T) {
	var none T
	if any(new) != any(none) {
		if part := s.parts[s.of(new)]; part != nil {
			part.upsert(new)
		}
	}
	if any(old) == any(none) || any(new) != any(none) && s.of(old) == s.of(new) {
		return
	}
	if part := s.parts[s.of(old)]; part != nil {
		part.remove(old)
	}
}
