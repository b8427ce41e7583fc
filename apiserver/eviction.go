package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"

	"tinykube/apiserver/storage"
)

// An eviction is a delete that asks first. A PodDisruptionBudget's status says
// how many disruptions it allows, and its controller counts anew after each; in
// between, one eviction takes one away, in the budget's own status, and writes
// down for which pod, so that ten evictions at once do not all pass and the
// controller does not count twice.
//
//	Pending, over, or being deleted    goes at once: nothing is disrupted
//	not ready, and the budget says so  goes, if it is still so when it is deleted
//	otherwise                          one of the budget's disruptions, or 429
//
// Upstream: kubernetes@v1.36 pkg/registry/core/pod/storage/eviction.go

// maxDisruptedPods is how many evictions the budget's controller may lag behind.
const maxDisruptedPods = 2000

// evictPod answers POST pods/{name}/eviction.
func (s *Server) evictPod(q *request) error {
	options, err := q.evictionOptions()
	if err != nil {
		return err
	}
	pod, err := s.podOf(q)
	if err != nil {
		return err
	}
	budget, err := s.budgetOf(pod)
	if err != nil {
		return err
	}
	asked := options.DeepCopy()
	switch {
	case over(pod):
	case pod.Status.Phase == corev1.PodPending:
		insistOn(options, pod)
	case budget == nil:
	case sparesUnready(budget, pod):
		insistOn(options, pod)
	default:
		if err := s.takeFrom(q, budget, pod); err != nil {
			return err
		}
	}
	err = s.evict(q, options)
	if apierrors.IsConflict(err) && budget != nil && !hasVersion(asked) && hasVersion(options) {
		return stillProcessing(budget) // it changed under us: ask again
	}
	if err != nil {
		return err
	}
	return q.sendObject(http.StatusCreated, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, statusKind)
}

// evictionOptions reads the Eviction, whose dry run may be asked for in two
// places.
func (q *request) evictionOptions() (*metav1.DeleteOptions, error) {
	data, err := q.readBody()
	if err != nil {
		return nil, err
	}
	eviction := &policyv1.Eviction{}
	if err := q.decodeAs(data, bodyMediaType(q.Request), eviction, policyv1.SchemeGroupVersion.WithKind("Eviction")); err != nil {
		return nil, err
	}
	if eviction.Name != "" && eviction.Name != q.name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	options := eviction.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	inURL := q.query()["dryRun"]
	if len(inURL) > 0 && len(options.DryRun) > 0 && !reflect.DeepEqual(inURL, options.DryRun) {
		return nil, apierrors.NewInternalError(fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", inURL, options.DryRun))
	}
	q.options.dryRun = q.options.dryRun || len(options.DryRun) > 0
	return options, invalidOptions("DeleteOptions", validation.ValidateDeleteOptions(options))
}

func over(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
}

// insistOn makes the delete fail if the pod is not any more what was judged.
func insistOn(options *metav1.DeleteOptions, pod *corev1.Pod) {
	if hasVersion(options) {
		return
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	options.Preconditions.ResourceVersion = &pod.ResourceVersion
}

func hasVersion(options *metav1.DeleteOptions) bool {
	return options.Preconditions != nil && options.Preconditions.ResourceVersion != nil
}

// budgetOf finds the budget that protects a pod.
func (s *Server) budgetOf(pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	if over(pod) || pod.Status.Phase == corev1.PodPending {
		return nil, nil
	}
	var found *policyv1.PodDisruptionBudget
	for _, budget := range allCached[*policyv1.PodDisruptionBudget](s, policyv1.GroupName, "poddisruptionbudgets", pod.Namespace) {
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err != nil || !selector.Matches(labelSet(pod.Labels)) {
			continue
		}
		if found != nil {
			return nil, &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
				Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."}}
		}
		found = budget
	}
	return found, nil
}

// sparesUnready reports whether a pod that is not ready may go because it does
// not count: always, or while the others suffice.
func sparesUnready(budget *policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	if policy := budget.Spec.UnhealthyPodEvictionPolicy; policy != nil && *policy == policyv1.AlwaysAllow {
		return true
	}
	return budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
}

// takeFrom takes one of a budget's disruptions, or says why there is none.
func (s *Server) takeFrom(q *request, budget *policyv1.PodDisruptionBudget, pod *corev1.Pod) error {
	table := s.tableOf(policyv1.GroupName, "poddisruptionbudgets")
	try := func(current *storage.Item) (*storage.Change, error) {
		budget, ok := decoded[*policyv1.PodDisruptionBudget](current)
		if !ok {
			return nil, apierrors.NewInternalError(errors.New("the disruption budget cannot be read"))
		}
		if err := refuses(budget); err != nil {
			return nil, err
		}
		taken := budget.DeepCopy()
		taken.Status.DisruptionsAllowed--
		if taken.Status.DisruptionsAllowed == 0 {
			apimeta.SetStatusCondition(&taken.Status.Conditions, metav1.Condition{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason, ObservedGeneration: taken.Status.ObservedGeneration,
			})
		}
		if taken.Status.DisruptedPods == nil {
			taken.Status.DisruptedPods = map[string]metav1.Time{}
		}
		taken.Status.DisruptedPods[pod.Name] = metav1.Now()
		return &storage.Change{Object: taken}, nil
	}
	key := storage.Key(budget.Namespace, budget.Name)
	if q.options.dryRun {
		item, err := table.Get(q.Context(), key, "")
		if err == nil {
			_, err = try(item)
		}
		return err
	}
	_, err := table.Update(q.Context(), key, try)
	return err
}

// refuses says why a budget allows nothing, in upstream's words, which kubectl
// drain and autoscalers print.
func refuses(budget *policyv1.PodDisruptionBudget) error {
	status, name := &budget.Status, budget.Name
	forbidden := func(text string) error {
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), name, errors.New(text))
	}
	switch {
	case status.ObservedGeneration < budget.Generation:
		return stillProcessing(budget)
	case status.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative")
	case len(status.DisruptedPods) > maxDisruptedPods:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case status.DisruptionsAllowed > 0:
		return nil
	}
	condition := apimeta.FindStatusCondition(status.Conditions, policyv1.DisruptionAllowedCondition)
	said := condition != nil && condition.Status == metav1.ConditionFalse && condition.Message != ""
	switch {
	case said && condition.Reason == policyv1.SyncFailedReason:
		return tooMany(fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %s", name, condition.Message), 0)
	case status.CurrentHealthy <= status.DesiredHealthy:
		return tooMany(fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", name, status.DesiredHealthy, status.CurrentHealthy), 0)
	case said:
		return tooMany(fmt.Sprintf("The disruption budget %s does not allow evicting pods currently (%s): %s", name, condition.Reason, condition.Message), 0)
	}
	return tooMany(fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", name), 0)
}

func stillProcessing(budget *policyv1.PodDisruptionBudget) error {
	return tooMany(fmt.Sprintf("The disruption budget %s is still being processed by the server.", budget.Name), 10)
}

// tooMany is a 429 that says which budget is exhausted.
func tooMany(text string, retryAfter int) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: text})
	return err
}

// evict deletes the pod. Its last status says why, for controllers that would
// otherwise take it for a failure.
func (s *Server) evict(q *request, options *metav1.DeleteOptions) error {
	_, err := q.commit(q.key(), func(current *storage.Item) (*storage.Change, error) {
		pod, ok := decoded[*corev1.Pod](current)
		if !ok {
			return nil, apierrors.NewInternalError(errors.New("the pod cannot be read"))
		}
		if err := q.preconditions(pod, options.Preconditions); err != nil {
			return nil, err
		}
		if err := s.admitDelete(q, pod); err != nil {
			return nil, err
		}
		marked := pod.DeepCopy()
		setPodCondition(marked, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			ObservedGeneration: pod.Generation,
		})
		if q.mark(marked, options) {
			return s.planRemoval(q, pod)
		}
		return &storage.Change{Object: marked}, nil
	})
	return err
}

// setPodCondition sets a condition, whose time changes with its status only.
func setPodCondition(pod *corev1.Pod, condition corev1.PodCondition) {
	condition.LastTransitionTime = metav1.Now()
	for i, was := range pod.Status.Conditions {
		if was.Type != condition.Type {
			continue
		}
		if was.Status == condition.Status {
			condition.LastTransitionTime = was.LastTransitionTime
		}
		pod.Status.Conditions[i] = condition
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, condition)
}
