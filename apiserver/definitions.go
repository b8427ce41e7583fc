package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/extensions"
	"tinykube/apiserver/custom"
	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// A definition's life, and what the server does at each step:
//
//	created      names are accepted, or not          status.acceptedNames
//	accepted     rows and a table are made, and      Established
//	             discovery and OpenAPI list them
//	changed      rows and table are made anew
//	deleted      no new objects; the present ones    Terminating, finalizer
//	             are deleted
//	gone         rows and table go
//
// All of it follows from the definitions that the cache shows, looked at from
// the start each time one changes. Unlike upstream, which establishes a kind
// some seconds before every server serves it, Established is said by a server
// that serves.

const (
	// extendRetry is the pause after something failed, and between looks at
	// objects that are being deleted.
	extendRetry = 500 * time.Millisecond
	// extendEvery is how often everything is looked at without a reason.
	extendEvery = 10 * time.Second
)

// errNotExtended is the answer about an unknown group while definitions have
// not been read: whoever took 404 for an answer might delete what he looks for.
var errNotExtended = apierrors.NewServiceUnavailable("the API server is still reading its CustomResourceDefinitions")

// extended reports whether what definitions declare is served.
func (s *Server) extended() bool {
	select {
	case <-s.extensions:
		return true
	default:
		return false
	}
}

// extensionState belongs to the goroutine of extend.
type extensionState struct {
	extra
	// made says from what the rows of a definition were made.
	made map[string]string
	// registered is set when the built-in groups have APIServices.
	registered bool
}

// extend keeps custom rows and aggregated services as they are declared, until
// ctx ends.
func (s *Server) extend(ctx context.Context) error {
	select {
	case <-s.store.Ready():
	case <-ctx.Done():
		return nil
	}
	state := &extensionState{extra: extra{custom: map[string][]*resources.Row{}}, made: map[string]string{}}
	definitions, err := s.changesOf(ctx, extensions.DefinitionGroup, "customresourcedefinitions")
	if err != nil {
		return err
	}
	defer definitions.Stop()
	services, err := s.changesOf(ctx, extensions.ServiceGroup, "apiservices")
	if err != nil {
		return err
	}
	defer services.Stop()
	for ctx.Err() == nil {
		wait := extendEvery
		if again, err := s.extendOnce(ctx, state); err != nil {
			s.log.Warn("Cannot serve everything that is declared, will retry", "err", err)
			wait = extendRetry
		} else if again {
			wait = extendRetry
		}
		if !s.extended() {
			close(s.extensions)
		}
		timer := time.NewTimer(wait)
		select {
		case <-definitions.Bell():
		case <-services.Bell():
		case <-s.learned:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		definitions.Take() // only the bell counts: everything is read anew
		services.Take()
	}
	return nil
}

// changesOf watches a kind for those who want to know that something changed.
func (s *Server) changesOf(ctx context.Context, group, plural string) (*storage.Watcher, error) {
	table := s.tableOf(group, plural)
	return table.Watch(ctx, storage.WatchOptions{Row: table.Row(), ResourceVersion: "0"})
}

// extendOnce compares what is declared with what is served. It returns whether
// it should be called again soon.
func (s *Server) extendOnce(ctx context.Context, state *extensionState) (again bool, err error) {
	definitions := s.definitions()
	present := map[string]bool{}
	var errs []error
	for _, d := range definitions {
		present[d.Name] = true
		pending, err := s.define(ctx, state, d, definitions)
		again = again || pending
		errs = append(errs, err)
	}
	for _, name := range slices.Sorted(maps.Keys(state.custom)) {
		if !present[name] {
			s.undefine(state, name)
		}
	}
	errs = append(errs, s.aggregate(state), s.register(ctx, state))
	return again, errors.Join(errs...)
}

// definitions returns copies of all, the oldest first: it asked first.
func (s *Server) definitions() []*extensions.CustomResourceDefinition {
	var out []*extensions.CustomResourceDefinition
	for _, d := range allCached[*extensions.CustomResourceDefinition](s, extensions.DefinitionGroup, "customresourcedefinitions", "") {
		out = append(out, d.DeepCopyObject().(*extensions.CustomResourceDefinition))
	}
	slices.SortStableFunc(out, func(a, b *extensions.CustomResourceDefinition) int {
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return out
}

// define brings one definition a step further; again says that more will have
// to be done without anything else changing.
func (s *Server) define(ctx context.Context, state *extensionState, d *extensions.CustomResourceDefinition, all []*extensions.CustomResourceDefinition) (again bool, err error) {
	before, _ := json.Marshal(d.Status)
	now := metav1.Now().Rfc3339Copy()
	if d.DeletionTimestamp == nil {
		if !custom.NamesSettled(d) {
			custom.Accept(d, all, now)
		}
		custom.SayWhatIsLeftOut(d, now)
	}
	if d.Is(extensions.NamesAccepted) || d.Is(extensions.Established) {
		if err := s.makeRows(ctx, state, d); err != nil {
			return true, err
		}
		if !d.Is(extensions.Established) && d.DeletionTimestamp == nil {
			custom.Establish(d, now)
		}
	}
	if d.DeletionTimestamp != nil && slices.Contains(d.Finalizers, extensions.CleanupFinalizer) {
		if again, err = s.cleanUp(ctx, state, d, now); err != nil {
			return true, err
		}
	}
	if after, _ := json.Marshal(d.Status); string(before) == string(after) && (d.DeletionTimestamp == nil || slices.Contains(d.Finalizers, extensions.CleanupFinalizer)) {
		return again, nil
	}
	return again, s.writeDefinition(ctx, d)
}

// writeDefinition stores status, and the finalizer's removal with it.
func (s *Server) writeDefinition(ctx context.Context, d *extensions.CustomResourceDefinition) error {
	q := s.internal(ctx, s.rowFor(d), "", d.Name)
	q.subresource = "status"
	_, err := s.updateObject(q, func(resources.Object) (resources.Object, error) {
		return d.DeepCopyObject().(resources.Object), nil
	})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // it changed, and the bell has rung or will
	}
	return err
}

// makeRows serves a definition if what is served is not from it.
func (s *Server) makeRows(ctx context.Context, state *extensionState, d *extensions.CustomResourceDefinition) error {
	from, err := json.Marshal([]any{d.UID, d.Spec, d.Status.AcceptedNames, d.Is(extensions.Terminating)})
	if err != nil || state.made[d.Name] == string(from) {
		return err
	}
	if s.builtIn(d) {
		return nil // stays as it is: what is built in wins
	}
	rows, err := resources.FromDefinition(d)
	if err != nil || len(rows) == 0 {
		return err
	}
	detached, err := s.store.Attach(ctx, rows[0])
	if err != nil {
		return err
	}
	replaced := state.custom[d.Name]
	state.custom[d.Name], state.made[d.Name] = rows, string(from)
	s.install(state.extra)
	s.fields.forget(replaced)
	detached.End()
	s.log.Info("Serving a custom resource", "key", d.Name)
	return nil
}

// builtIn reports whether a definition names a resource that we have.
func (s *Server) builtIn(d *extensions.CustomResourceDefinition) bool {
	return slices.ContainsFunc(s.allRows, func(row *resources.Row) bool {
		return row.Group == d.Spec.Group && row.Plural == d.Spec.Names.Plural
	})
}

// undefine ends what a definition that is gone declared.
func (s *Server) undefine(state *extensionState, name string) {
	rows := state.custom[name]
	delete(state.custom, name)
	delete(state.made, name)
	s.install(state.extra)
	s.fields.forget(rows)
	s.store.Detach(rows[0]).End()
	s.log.Info("No longer serving a custom resource", "key", name)
}

// cleanUp deletes the objects of a definition that is being deleted; when they
// are gone, it takes our finalizer from the definition.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/controller/finalizer/crd_finalizer.go sync
func (s *Server) cleanUp(ctx context.Context, state *extensionState, d *extensions.CustomResourceDefinition, now metav1.Time) (again bool, err error) {
	release := func(reason, message string) {
		custom.Terminate(d, true, reason, message, now)
		d.Finalizers = slices.DeleteFunc(d.Finalizers, func(f string) bool { return f == extensions.CleanupFinalizer })
	}
	rows := state.custom[d.Name]
	if len(rows) == 0 {
		release("NeverEstablished", "resource was never established")
		return false, nil
	}
	custom.Terminate(d, false, "InstanceDeletionInProgress", "CustomResource deletion is in progress", now)
	table := s.store.Table(rows[0])
	if err := table.CatchUp(ctx); err != nil {
		return true, err
	}
	items := table.All("")
	for _, item := range items {
		namespace, name := storage.SplitKey(item.Key)
		q := s.internal(ctx, rows[0], namespace, name)
		if _, _, err := s.deleteObject(q, item.Key, &metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return true, err
		}
	}
	if len(items) > 0 {
		return true, nil
	}
	release("InstanceDeletionCompleted", "removed all instances")
	return false, nil
}
