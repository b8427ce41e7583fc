package apiserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/api/extensions"
	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// Deleting is asking. The object goes at once only if nobody has to do
// something first:
//
//	finalizers      somebody must clean up       deletionTimestamp is set, the
//	                                             last finalizer's removal deletes
//	grace period    a kubelet must stop a pod    deletionTimestamp is set, the
//	                                             kubelet deletes with grace 0
//	propagation     dependents first, or not     the garbage collector's two
//	                at all                       finalizers say so
//
// A namespace has finalizers in its spec as well, from long before others had.

// delete answers DELETE on one object.
func (s *Server) delete(q *request) error {
	options, err := q.deleteOptions()
	if err != nil {
		return err
	}
	item, removed, err := s.deleteObject(q, q.key(), options)
	if err != nil {
		return q.named(err)
	}
	obj, err := item.Object()
	if err != nil {
		return err
	}
	if !removed || q.row.Strategy.ReturnsDeleted {
		code := http.StatusOK
		if !removed && options.OrphanDependents != nil && !*options.OrphanDependents {
			code = http.StatusAccepted
		}
		return q.sendItem(code, item)
	}
	status := &metav1.Status{
		Status:  metav1.StatusSuccess,
		Details: &metav1.StatusDetails{Name: obj.GetName(), Group: q.row.Group, Kind: q.row.Plural, UID: obj.GetUID()},
	}
	return q.sendObject(http.StatusOK, status, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
}

// deleteObject removes an object or sets its removal in motion; removed says
// which.
func (s *Server) deleteObject(q *request, key string, options *metav1.DeleteOptions) (item *storage.Item, removed bool, err error) {
	var last resources.Object
	item, err = q.commit(key, func(current *storage.Item) (*storage.Change, error) {
		obj, err := current.Object()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		if err := q.preconditions(obj, options.Preconditions); err != nil {
			return nil, err
		}
		if err := s.admitDelete(q, obj); err != nil {
			return nil, err
		}
		marked := obj.DeepCopyObject().(resources.Object)
		if removed = q.mark(marked, options); removed {
			last = marked
			return s.planRemoval(q, obj)
		}
		return &storage.Change{Object: marked}, nil
	})
	if err == nil && removed && q.row.Strategy.GracePeriod != nil {
		item, err = storage.Draft(q.table.Row(), key, last, item.Revision)
	}
	return item, removed, err
}

// planRemoval takes an object away, with all that was allocated for it.
func (s *Server) planRemoval(q *request, obj resources.Object) (*storage.Change, error) {
	_, also, err := s.allocate(q, nil, obj)
	return &storage.Change{Also: also}, err
}

// mark writes into an object that it is to be deleted, and reports whether
// nothing stands in the way of removing it now.
func (q *request) mark(obj resources.Object, options *metav1.DeleteOptions) (remove bool) {
	if q.row.Strategy.PrepareDelete != nil {
		q.row.Strategy.PrepareDelete(obj)
	}
	if !q.row.Strategy.NoDependents {
		propagate(obj, options, q.row.Strategy.OrphanByDefault)
	}
	grace := int64(0)
	if q.row.Strategy.GracePeriod != nil {
		grace = q.row.Strategy.GracePeriod(obj, options)
	}
	if obj.GetDeletionTimestamp() != nil {
		// Already asked: a shorter grace counts, a longer one does not.
		if was := obj.GetDeletionGracePeriodSeconds(); was != nil && *was <= grace {
			return finished(obj)
		}
		earlier := metav1.NewTime(obj.GetDeletionTimestamp().Add(time.Duration(grace-*orZero(obj.GetDeletionGracePeriodSeconds())) * time.Second))
		obj.SetDeletionTimestamp(&earlier)
		obj.SetDeletionGracePeriodSeconds(&grace)
		return finished(obj)
	}
	remove = grace == 0 && len(obj.GetFinalizers()) == 0 && !isHeldNamespace(obj)
	if remove && q.row.Strategy.GracePeriod == nil {
		return true // what never waits is not marked
	}
	_, isDefinition := obj.(*extensions.CustomResourceDefinition)
	if obj.GetGeneration() > 0 && !isDefinition {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	at := metav1.NewTime(time.Now().Truncate(time.Second).Add(time.Duration(grace) * time.Second))
	obj.SetDeletionTimestamp(&at)
	obj.SetDeletionGracePeriodSeconds(&grace)
	if isDefinition { // upstream marks it by hand, as it does a namespace
		obj.SetDeletionGracePeriodSeconds(nil)
	}
	if namespace, ok := obj.(*corev1.Namespace); ok {
		namespace.SetDeletionGracePeriodSeconds(nil)
		namespace.Status.Phase = corev1.NamespaceTerminating
	}
	return remove
}

func orZero(p *int64) *int64 {
	if p == nil {
		return new(int64)
	}
	return p
}

// finished reports whether an object that is being deleted has nothing left to
// wait for.
func finished(obj resources.Object) bool {
	return obj.GetDeletionTimestamp() != nil && len(obj.GetFinalizers()) == 0 &&
		*orZero(obj.GetDeletionGracePeriodSeconds()) == 0 && !isHeldNamespace(obj)
}

// isHeldNamespace reports whether a namespace still waits to be emptied.
func isHeldNamespace(obj resources.Object) bool {
	namespace, ok := obj.(*corev1.Namespace)
	return ok && len(namespace.Spec.Finalizers) > 0
}

// propagate turns a propagation policy into the finalizer that the garbage
// collector acts upon.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/registry/generic/registry/store.go deletionFinalizersForGarbageCollection
func propagate(obj resources.Object, options *metav1.DeleteOptions, orphanByDefault bool) {
	finalizers := obj.GetFinalizers()
	orphan := orphanByDefault || slices.Contains(finalizers, metav1.FinalizerOrphanDependents)
	foreground := slices.Contains(finalizers, metav1.FinalizerDeleteDependents)
	switch {
	case options.OrphanDependents != nil: // the parameter's old name
		orphan, foreground = *options.OrphanDependents, false
	case options.PropagationPolicy != nil:
		orphan = *options.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *options.PropagationPolicy == metav1.DeletePropagationForeground
	case foreground:
		orphan = false
	}
	kept := slices.DeleteFunc(slices.Clone(finalizers), isCollectorFinalizer)
	if orphan {
		kept = append(kept, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		kept = append(kept, metav1.FinalizerDeleteDependents)
	}
	obj.SetFinalizers(kept)
}

func isCollectorFinalizer(name string) bool {
	return name == metav1.FinalizerOrphanDependents || name == metav1.FinalizerDeleteDependents
}

// preconditions protect a delete from hitting the successor of what was meant.
func (q *request) preconditions(obj resources.Object, p *metav1.Preconditions) error {
	gr := schema.GroupResource{Group: q.row.Group, Resource: q.row.Kind} // as upstream has it
	switch {
	case p == nil:
	case p.UID != nil && *p.UID != obj.GetUID():
		return apierrors.NewConflict(gr, obj.GetName(), fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, obj.GetUID()))
	case p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion():
		return apierrors.NewConflict(gr, obj.GetName(), fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, obj.GetResourceVersion()))
	}
	return nil
}

// deleteOptions reads the options from the body, or else from the URL.
func (q *request) deleteOptions() (*metav1.DeleteOptions, error) {
	options := &metav1.DeleteOptions{}
	data, err := q.readBody()
	if err != nil {
		return nil, err
	}
	if len(data) > 0 {
		// Clients send the kind of any group's DeleteOptions; it is always this.
		if err := decodeOptions(data, bodyMediaType(q.Request), options); err != nil {
			return nil, apierrors.NewBadRequest("cannot read DeleteOptions: " + err.Error())
		}
		q.audit.requested(options)
	} else {
		query := q.query()
		if err := metav1.Convert_url_Values_To_v1_DeleteOptions(&query, options, nil); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	q.options.dryRun = q.options.dryRun || len(options.DryRun) > 0
	return options, invalidOptions("DeleteOptions", validation.ValidateDeleteOptions(options))
}

func decodeOptions(data []byte, media string, into *metav1.DeleteOptions) error {
	var err error
	var kind schema.GroupVersionKind
	switch media {
	case storage.ProtobufMediaType:
		kind, err = storage.DecodeProtobuf(data, into)
	case yamlMediaType:
		kind, _, err = decodeYAML(data, into)
	default:
		kind, _, err = decodeJSON(data, into)
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err == nil && kind.Kind != "" && kind.Kind != "DeleteOptions":
		return fmt.Errorf("no kind %q is known for version %q", kind.Kind, kind.GroupVersion())
	}
	return err
}

// deleteWorkers is how many objects of a collection are deleted at a time.
const deleteWorkers = 16

// deleteCollection answers DELETE on a collection: one delete after another,
// of what there was when it came. What goes meanwhile is no error.
func (s *Server) deleteCollection(q *request) error {
	options, err := q.deleteOptions()
	if err != nil {
		return err
	}
	listOptions, err := q.listOptions()
	if err != nil {
		return err
	}
	selector, err := selectorOf(q.row, listOptions)
	if err != nil {
		return err
	}
	page, err := q.table.List(q.Context(), storage.ListOptions{
		Row: q.row, Namespace: q.namespace, Selector: selector, Limit: listOptions.Limit, Continue: listOptions.Continue,
		ResourceVersion: listOptions.ResourceVersion, ResourceVersionMatch: listOptions.ResourceVersionMatch,
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex // guards page's items while they are replaced
	group, ctx := errgroup.WithContext(q.Context())
	group.SetLimit(deleteWorkers)
	for i, item := range page.Items {
		group.Go(func() error {
			one := *q
			one.Request, one.bounded = q.WithContext(ctx), nil
			last, _, err := s.deleteObject(&one, item.Key, options)
			if apierrors.IsNotFound(err) {
				return nil
			} else if err != nil {
				return err
			}
			shown, err := last.As(q.row)
			mu.Lock()
			defer mu.Unlock()
			page.Items[i] = shown
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	body, err := q.format.list(q.row, page, time.Now(), q.includeObject())
	if err != nil {
		return err
	}
	return q.send(http.StatusOK, q.format.contentType(), body)
}
