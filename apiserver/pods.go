package apiserver

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

var statusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// podsRow is the pods' row, whichever path led here.
func (s *Server) podsRow() *resources.Row { return s.served.Load().byKey[rowKey{"", "v1", "pods"}] }

// bindPod answers POST pods/{name}/binding, and the older POST bindings. It
// is how a scheduler speaks: the pod goes to that node, once and for all.
func (s *Server) bindPod(q *request) error {
	data, err := q.readBody()
	if err != nil {
		return err
	}
	binding := &corev1.Binding{}
	if err := q.decodeAs(data, bodyMediaType(q.Request), binding, corev1.SchemeGroupVersion.WithKind("Binding")); err != nil {
		return err
	}
	if q.name == "" {
		q.name = binding.Name
	}
	if binding.Name != "" && binding.Name != q.name {
		return apierrors.NewBadRequest(fmt.Sprintf("name in URL does not match name in Binding object: %s != %s", q.name, binding.Name))
	}
	var errs field.ErrorList
	if kind := binding.Target.Kind; kind != "" && kind != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), kind, []string{"Node", "<empty>"}))
	}
	if binding.Target.Name == "" {
		errs = append(errs, field.Required(field.NewPath("target", "name"), ""))
	}
	if len(errs) > 0 {
		return errs.ToAggregate() // which upstream does not turn into an answer of its own
	}
	row := s.podsRow()
	q.row, q.table = row, s.store.Table(row)
	_, err = q.commit(q.key(), func(current *storage.Item) (*storage.Change, error) {
		pod, ok := decoded[*corev1.Pod](current)
		if !ok {
			return nil, apierrors.NewInternalError(errors.New("the pod cannot be read"))
		}
		if err := bindable(q, pod, binding); err != nil {
			return nil, err
		}
		return &storage.Change{Object: bound(pod.DeepCopy(), binding)}, nil
	})
	if err != nil {
		return err
	}
	return q.sendObject(http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, statusKind)
}

// bindable says why a pod cannot be bound.
func bindable(q *request, pod *corev1.Pod, binding *corev1.Binding) error {
	if err := q.preconditions(pod, bindingPreconditions(binding)); err != nil {
		return err
	}
	var why string
	switch {
	case pod.DeletionTimestamp != nil:
		why = fmt.Sprintf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		why = fmt.Sprintf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		why = fmt.Sprintf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	default:
		return nil
	}
	return apierrors.NewConflict(corev1.Resource("pods/binding"), pod.Name, errors.New(why))
}

// bindingPreconditions are the UID and the version that a scheduler decided
// upon.
func bindingPreconditions(binding *corev1.Binding) *metav1.Preconditions {
	p := &metav1.Preconditions{}
	if binding.UID != "" {
		p.UID = &binding.UID
	}
	if binding.ResourceVersion != "" {
		p.ResourceVersion = &binding.ResourceVersion
	}
	return p
}

// bound is the pod on its node, with the labels and annotations that the
// scheduler gives it.
func bound(pod *corev1.Pod, binding *corev1.Binding) *corev1.Pod {
	pod.Spec.NodeName = binding.Target.Name
	pod.Status.NominatedNodeName = ""
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Annotations, binding.Annotations)
	maps.Copy(pod.Labels, binding.Labels)
	setPodCondition(pod, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	return pod
}
