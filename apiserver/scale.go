package apiserver

import (
	"net/http"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// Scale is a window onto one number of many kinds: whoever scales need not
// know what it is that has replicas.

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// scaleOf shows an object through the window.
func scaleOf(row *resources.Row, obj resources.Object) *autoscalingv1.Scale {
	spec, status, selector := row.Scale.Get(obj)
	return &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: scaleKind.Kind, APIVersion: scaleKind.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: spec},
		Status: autoscalingv1.ScaleStatus{Replicas: status, Selector: selector},
	}
}

func (s *Server) getScale(q *request) error {
	item, err := q.table.Get(q.Context(), q.key(), q.query().Get("resourceVersion"))
	if err != nil {
		return q.named(err)
	}
	return q.sendScale(item)
}

func (q *request) sendScale(item *storage.Item) error {
	shown, err := item.As(q.row)
	if err != nil {
		return err
	}
	obj, err := shown.Object()
	if err != nil {
		return err
	}
	scale := scaleOf(q.row, obj)
	if q.format.as != "Table" {
		return q.sendObject(http.StatusOK, scale, scaleKind)
	}
	options := tableOptions{version: q.format.version, includeObject: q.includeObject()}
	body, err := q.format.text(tableFor(resources.ScaleRow, []resources.Object{scale}, metav1.ListMeta{ResourceVersion: scale.ResourceVersion}, options, time.Now()))
	if err != nil {
		return err
	}
	return q.send(http.StatusOK, q.format.contentType(), body)
}

func (s *Server) updateScale(q *request) error {
	data, err := q.readBody()
	if err != nil {
		return err
	}
	scale := &autoscalingv1.Scale{}
	if err := q.decodeAs(data, bodyMediaType(q.Request), scale, scaleKind); err != nil {
		return err
	}
	if err := q.sameName(scale); err != nil {
		return err
	}
	return s.setScale(q, func(resources.Object) (*autoscalingv1.Scale, error) { return scale, nil })
}

func (s *Server) patchScale(q *request, apply patchFunc) error {
	return s.setScale(q, func(old resources.Object) (*autoscalingv1.Scale, error) {
		scale := &autoscalingv1.Scale{}
		return scale, q.patchInto(scaleOf(q.row, old), scale, apply, scaleKind)
	})
}

// applyScale answers an apply to the window: whoever owns the replicas out
// there owns spec.replicas in here, and the other way round.
func (s *Server) applyScale(q *request, data []byte) error {
	patch, err := q.appliedObject(data, resources.ScaleRow)
	if err != nil {
		return err
	}
	m, err := s.fields.managerOf(resources.ScaleRow, q.subresource, nil)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	paths := managedfields.ResourcePathMappings{q.row.GVK().GroupVersion().String(): fieldpath.MakePathOrDie("spec", "replicas")}
	q.applying = true
	var owners []metav1.ManagedFieldsEntry
	return s.setScale(q, func(old resources.Object) (*autoscalingv1.Scale, error) {
		outside := managedfields.NewScaleHandler(old.GetManagedFields(), q.row.GVK().GroupVersion(), paths)
		live := scaleOf(q.row, old)
		if live.ManagedFields, err = outside.ToSubresource(); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		merged, err := m.Apply(live, patch.DeepCopy(), q.options.fieldManager, q.options.force)
		if err != nil {
			return nil, err
		}
		scale := merged.(*autoscalingv1.Scale)
		if owners, err = outside.ToParent(scale.ManagedFields); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		return scale, nil
	}, func(obj resources.Object) { obj.SetManagedFields(owners) })
}

// setScale is an update of the object behind the window.
func (s *Server) setScale(q *request, next func(old resources.Object) (*autoscalingv1.Scale, error), also ...func(resources.Object)) error {
	item, err := s.updateObject(q, func(old resources.Object) (resources.Object, error) {
		scale, err := next(old)
		if err != nil {
			return nil, err
		}
		if scale.Spec.Replicas < 0 && q.row.Custom == nil { // a schema says it in its own words
			return nil, apierrors.NewInvalid(scaleKind.GroupKind(), q.name, field.ErrorList{field.Invalid(
				field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0")})
		}
		obj := old.DeepCopyObject().(resources.Object)
		if scale.ResourceVersion != "" || !q.row.Strategy.RequireResourceVersion { // the window never requires one
			obj.SetResourceVersion(scale.ResourceVersion)
		}
		obj.SetUID(scale.UID)
		q.row.Scale.Set(obj, scale.Spec.Replicas)
		for _, f := range also {
			f(obj)
		}
		return obj, nil
	})
	if err != nil {
		return q.named(err)
	}
	return q.sendScale(item)
}
