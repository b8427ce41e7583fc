package resources

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
)

const (
	wideTemplate       = "|+Containers|+Images|+Selector"
	deploymentColumns  = "Name|Ready|Up-to-date|Available|Age" + wideTemplate
	replicaSetColumns  = "Name|Desired:integer|Current:integer|Ready:integer|Age" + wideTemplate
	daemonSetColumns   = "Name|Desired:integer|Current:integer|Ready:integer|Up-to-date:integer|Available:integer|Node Selector|Age" + wideTemplate
	statefulSetColumns = "Name|Ready|Age|+Containers|+Images"
	revisionColumns    = "Name|Controller|Revision|Age"
	jobColumns         = "Name|Status|Completions|Duration|Age" + wideTemplate
	cronJobColumns     = "Name|Schedule|Timezone|Suspend:boolean|Active:integer|Last Schedule|Age" + wideTemplate
	autoscalerColumns  = "Name|Reference|Targets|MinPods|MaxPods|Replicas|Age"
	templateColumns    = "Name|Containers|Images|Pod Labels"
)

func deploymentCells(d *appsv1.Deployment, now time.Time) []any {
	selector := "<invalid>"
	if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
		selector = s.String()
	}
	return templateCells([]any{
		d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, deref(d.Spec.Replicas, 0)),
		d.Status.UpdatedReplicas, d.Status.AvailableReplicas, age(d, now),
	}, d.Spec.Template.Spec.Containers, selector)
}

func replicaSetCells(rs *appsv1.ReplicaSet, now time.Time) []any {
	return templateCells([]any{
		rs.Name, deref(rs.Spec.Replicas, 0), rs.Status.Replicas, rs.Status.ReadyReplicas, age(rs, now),
	}, rs.Spec.Template.Spec.Containers, metav1.FormatLabelSelector(rs.Spec.Selector))
}

func replicationControllerCells(rc *corev1.ReplicationController, now time.Time) []any {
	var containers []corev1.Container
	if rc.Spec.Template != nil {
		containers = rc.Spec.Template.Spec.Containers
	}
	return templateCells([]any{
		rc.Name, deref(rc.Spec.Replicas, 0), rc.Status.Replicas, rc.Status.ReadyReplicas, age(rc, now),
	}, containers, formatLabels(rc.Spec.Selector))
}

func daemonSetCells(ds *appsv1.DaemonSet, now time.Time) []any {
	s, template := ds.Status, ds.Spec.Template.Spec
	return templateCells([]any{
		ds.Name, s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberReady, s.UpdatedNumberScheduled,
		s.NumberAvailable, formatLabels(template.NodeSelector), age(ds, now),
	}, template.Containers, metav1.FormatLabelSelector(ds.Spec.Selector))
}

func statefulSetCells(s *appsv1.StatefulSet, now time.Time) []any {
	names, images := containerCells(s.Spec.Template.Spec.Containers)
	return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, deref(s.Spec.Replicas, 0)), age(s, now), names, images}
}

func revisionCells(r *appsv1.ControllerRevision, now time.Time) []any {
	controller := none
	if ref := metav1.GetControllerOf(r); ref != nil {
		kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
		controller = strings.ToLower(kind.String()) + "/" + ref.Name
	}
	return []any{r.Name, controller, r.Revision, age(r, now)}
}

func podTemplateCells(t *corev1.PodTemplate, _ time.Time) []any {
	names, images := containerCells(t.Template.Spec.Containers)
	return []any{t.Name, names, images, formatLabels(t.Template.Labels)}
}

func jobCells(j *batchv1.Job, now time.Time) []any {
	took := ""
	switch start, end := j.Status.StartTime, j.Status.CompletionTime; {
	case start == nil:
	case end == nil:
		took = duration.HumanDuration(now.Sub(start.Time))
	default:
		took = duration.HumanDuration(end.Sub(start.Time))
	}
	return templateCells([]any{
		j.Name, jobStatus(j), jobCompletions(j), took, age(j, now),
	}, j.Spec.Template.Spec.Containers, metav1.FormatLabelSelector(j.Spec.Selector))
}

func jobCompletions(j *batchv1.Job) string {
	parallelism := deref(j.Spec.Parallelism, 0)
	switch {
	case j.Spec.Completions != nil:
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	case parallelism > 1:
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, parallelism)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

// jobStatus is the first condition in this order that holds.
func jobStatus(j *batchv1.Job) string {
	has := func(name batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == name {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case has(batchv1.JobComplete):
		return "Complete"
	case has(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has(batchv1.JobSuspended):
		return "Suspended"
	case has(batchv1.JobFailureTarget):
		return "FailureTarget"
	case has(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func cronJobCells(c *batchv1.CronJob, now time.Time) []any {
	last := none
	if c.Status.LastScheduleTime != nil {
		last = since(c.Status.LastScheduleTime, now)
	}
	suspend := unset
	if c.Spec.Suspend != nil {
		suspend = map[bool]string{true: "True", false: "False"}[*c.Spec.Suspend]
	}
	job := c.Spec.JobTemplate.Spec
	return templateCells([]any{
		c.Name, c.Spec.Schedule, deref(c.Spec.TimeZone, none), suspend, len(c.Status.Active), last, age(c, now),
	}, job.Template.Spec.Containers, metav1.FormatLabelSelector(job.Selector))
}

func autoscalerCells(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
	lowest := unset
	if h.Spec.MinReplicas != nil {
		lowest = fmt.Sprint(*h.Spec.MinReplicas)
	}
	target := h.Spec.ScaleTargetRef
	return []any{
		h.Name, target.Kind + "/" + target.Name, autoscalerTargets(h), lowest,
		h.Spec.MaxReplicas, h.Status.CurrentReplicas, age(h, now),
	}
}

func autoscalerViewCells(h *autoscalingv1.HorizontalPodAutoscaler, now time.Time) []any {
	return autoscalerCells(autoscalerStored(h), now)
}

// autoscalerTargets prints current/target for each metric, two at most.
func autoscalerTargets(h *autoscalingv2.HorizontalPodAutoscaler) string {
	if len(h.Spec.Metrics) == 0 {
		return none
	}
	var list []string
	for i, m := range h.Spec.Metrics {
		var status autoscalingv2.MetricStatus
		if i < len(h.Status.CurrentMetrics) {
			status = h.Status.CurrentMetrics[i]
		}
		list = append(list, metricCell(m, status))
	}
	return atMost(2, list, ", ")
}

func metricCell(m autoscalingv2.MetricSpec, s autoscalingv2.MetricStatus) string {
	switch {
	case m.External != nil:
		var current *autoscalingv2.MetricValueStatus
		if s.External != nil {
			current = &s.External.Current
		}
		return valueCell(m.External.Target, current)
	case m.Object != nil:
		var current *autoscalingv2.MetricValueStatus
		if s.Object != nil {
			current = &s.Object.Current
		}
		return valueCell(m.Object.Target, current)
	case m.Pods != nil:
		current := unknown
		if s.Pods != nil {
			current = quantity(s.Pods.Current.AverageValue)
		}
		return current + "/" + quantity(m.Pods.Target.AverageValue)
	case m.Resource != nil:
		var current *autoscalingv2.MetricValueStatus
		if s.Resource != nil {
			current = &s.Resource.Current
		}
		return resourceCell(m.Resource.Name, m.Resource.Target, current)
	case m.ContainerResource != nil:
		var current *autoscalingv2.MetricValueStatus
		if s.ContainerResource != nil {
			current = &s.ContainerResource.Current
		}
		return resourceCell(m.ContainerResource.Name, m.ContainerResource.Target, current)
	}
	return "<unknown type>"
}

// valueCell prints an external or object metric, averaged over pods or not.
func valueCell(target autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	value := unknown
	if target.AverageValue != nil {
		if current != nil && current.AverageValue != nil {
			value = current.AverageValue.String()
		}
		return fmt.Sprintf("%s/%s (avg)", value, target.AverageValue)
	}
	if current != nil {
		value = quantity(current.Value)
	}
	return value + "/" + quantity(target.Value)
}

func resourceCell(name corev1.ResourceName, target autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	value := unknown
	if target.AverageValue != nil {
		if current != nil {
			value = quantity(current.AverageValue)
		}
		return fmt.Sprintf("%s: %s/%s", name, value, target.AverageValue)
	}
	if current != nil && current.AverageUtilization != nil {
		value = fmt.Sprintf("%d%%", *current.AverageUtilization)
	}
	goal := "<auto>"
	if target.AverageUtilization != nil {
		goal = fmt.Sprintf("%d%%", *target.AverageUtilization)
	}
	return fmt.Sprintf("%s: %s/%s", name, value, goal)
}

// quantity prints a quantity that may be missing as upstream's printer does.
func quantity(q *resource.Quantity) string {
	if q == nil {
		return "<nil>"
	}
	return q.String()
}
