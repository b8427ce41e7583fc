package apiserver

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
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
	if kind := binding.Target.Kind; kind != "" && kind != "Node" || binding.Target.Name == "" {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), q.name, field.ErrorList{field.Invalid(field.NewPath("target"), binding.Target.Name, "must name a Node")})
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
	switch {
	case binding.UID != "" && binding.UID != pod.UID:
		return q.conflict(fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", binding.UID, pod.UID))
	case pod.DeletionTimestamp != nil:
		return q.conflict(fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name))
	case pod.Spec.NodeName != "":
		return q.conflict(fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName))
	case len(pod.Spec.SchedulingGates) > 0:
		return q.conflict(fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name))
	}
	return nil
}

// bound is the pod on its node.
func bound(pod *corev1.Pod, binding *corev1.Binding) *corev1.Pod {
	pod.Spec.NodeName = binding.Target.Name
	if len(binding.Annotations) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		maps.Copy(pod.Annotations, binding.Annotations)
	}
	scheduled := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation,
	}
	for i, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled {
			pod.Status.Conditions[i] = scheduled
			return pod
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, scheduled)
	return pod
}

// evictPod answers POST pods/{name}/eviction: a delete that disruption budgets
// may refuse.
//
// A budget's status says how many disruptions it allows, and its controller
// counts anew after each; in between, one eviction takes one away, in the
// budget's own status, so that ten evictions at once do not all pass.
func (s *Server) evictPod(q *request) error {
	data, err := q.readBody()
	if err != nil {
		return err
	}
	eviction := &policyv1.Eviction{}
	if err := q.decodeAs(data, bodyMediaType(q.Request), eviction, policyv1.SchemeGroupVersion.WithKind("Eviction")); err != nil {
		return err
	}
	pod, err := s.podOf(q)
	if err != nil {
		return err
	}
	options := eviction.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := invalidOptions("DeleteOptions", validation.ValidateDeleteOptions(options)); err != nil {
		return err
	}
	q.options.dryRun = q.options.dryRun || len(options.DryRun) > 0
	if err := s.takeDisruption(q, pod); err != nil {
		return err
	}
	if _, _, err := s.deleteObject(q, q.key(), options); err != nil {
		return err
	}
	return q.sendObject(http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, statusKind)
}

// takeDisruption asks the budgets of a pod that is worth protecting.
func (s *Server) takeDisruption(q *request, pod *corev1.Pod) error {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return nil
	}
	var mine []*policyv1.PodDisruptionBudget
	for _, budget := range allCached[*policyv1.PodDisruptionBudget](s, policyv1.GroupName, "poddisruptionbudgets", pod.Namespace) {
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err == nil && selector.Matches(labelSet(pod.Labels)) {
			mine = append(mine, budget)
		}
	}
	if len(mine) > 1 {
		return apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
	}
	for _, budget := range mine {
		if err := s.takeFrom(q, budget, pod); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) takeFrom(q *request, budget *policyv1.PodDisruptionBudget, pod *corev1.Pod) error {
	table := s.tableOf(policyv1.GroupName, "poddisruptionbudgets")
	try := func(current *storage.Item) (*storage.Change, error) {
		budget, ok := decoded[*policyv1.PodDisruptionBudget](current)
		if !ok || budget.Status.ObservedGeneration < budget.Generation {
			return nil, tooMany(budget, fmt.Sprintf("The disruption budget %s is still being processed by the server.", pod.Name), 10)
		}
		if budget.Status.DisruptionsAllowed <= 0 {
			return nil, tooMany(budget, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently",
				budget.Name, budget.Status.DesiredHealthy, budget.Status.CurrentHealthy), 0)
		}
		taken := budget.DeepCopy()
		taken.Status.DisruptionsAllowed--
		if taken.Status.DisruptedPods == nil {
			taken.Status.DisruptedPods = map[string]metav1.Time{}
		}
		taken.Status.DisruptedPods[pod.Name] = metav1.Now()
		return &storage.Change{Object: taken}, nil
	}
	key := storage.Key(budget.Namespace, budget.Name)
	if q.options.dryRun {
		_, err := try(table.Cached(key))
		return err
	}
	_, err := table.Update(q.Context(), key, try)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// tooMany is a 429 that says which budget is exhausted.
func tooMany(budget *policyv1.PodDisruptionBudget, text string, retryAfter int) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: text})
	return err
}
