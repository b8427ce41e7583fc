package resources

import (
	"encoding/json"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/defaults"
	"tinykube/api/validation"
)

// autoscalingRows: the autoscaler is stored as v2; v1 is an older view that
// only knows a CPU target.
func autoscalingRows() []*Row {
	row := Row{ShortNames: names("hpa"), Categories: all, Namespaced: true, Status: true, Strategy: lifecycle(false)}
	v2 := kind[autoscalingv2.HorizontalPodAutoscaler, autoscalingv2.HorizontalPodAutoscalerList](row).prints(autoscalerColumns, cells(autoscalerCells)).
		validates(check(validation.HorizontalPodAutoscaler), checkUpdate(validation.HorizontalPodAutoscalerUpdate))
	row.StoredAs = &StoredAs{
		GroupVersionResource: schema.GroupVersionResource{Group: "autoscaling", Version: "v2", Resource: "horizontalpodautoscalers"},
		From: func(stored Object) Object {
			return autoscalerView(stored.(*autoscalingv2.HorizontalPodAutoscaler))
		},
		To: func(view Object) Object {
			return autoscalerStored(view.(*autoscalingv1.HorizontalPodAutoscaler))
		},
	}
	v1 := kind[autoscalingv1.HorizontalPodAutoscaler, autoscalingv1.HorizontalPodAutoscalerList](row).prints(autoscalerColumns, cells(autoscalerViewCells)).
		validates(func(view Object) field.ErrorList {
			return validation.HorizontalPodAutoscaler(autoscalerStored(view.(*autoscalingv1.HorizontalPodAutoscaler)))
		}, func(view, old Object) field.ErrorList {
			return validation.HorizontalPodAutoscalerUpdate(autoscalerStored(view.(*autoscalingv1.HorizontalPodAutoscaler)), autoscalerStored(old.(*autoscalingv1.HorizontalPodAutoscaler)))
		})
	return append(group("autoscaling", "v2", v2), group("autoscaling", "v1", v1)...)
}

// ScaleRow is the kind of the window onto how many replicas others have; it has
// no path of its own.
var ScaleRow = (&Row{
	Group: "autoscaling", Version: "v1", Kind: "Scale", New: func() Object { return &autoscalingv1.Scale{} },
}).prints("Name |Desired:integer|Available:integer|Age", cells(func(s *autoscalingv1.Scale, now time.Time) []any {
	return []any{s.Name, int64(s.Spec.Replicas), int64(s.Status.Replicas), age(s, now)}
}))

// What v1 has no field for travels in annotations, so that a read-modify-write
// by an old client loses nothing.
const (
	metricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	statusesAnnotation   = "autoscaling.alpha.kubernetes.io/current-metrics"
	behaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
	conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
)

// isCPUTarget says whether v1 can express the metric.
func isCPUTarget(m autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil &&
		m.Resource.Name == corev1.ResourceCPU && m.Resource.Target.AverageUtilization != nil
}

func autoscalerView(s *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	s = s.DeepCopy()
	v := &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: s.ObjectMeta}
	v.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	v.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(s.Spec.ScaleTargetRef),
		MinReplicas:    s.Spec.MinReplicas,
		MaxReplicas:    s.Spec.MaxReplicas,
	}
	v.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: s.Status.ObservedGeneration,
		LastScaleTime:      s.Status.LastScaleTime,
		CurrentReplicas:    s.Status.CurrentReplicas,
		DesiredReplicas:    s.Status.DesiredReplicas,
	}
	var others []autoscalingv1.MetricSpec
	for i, m := range s.Spec.Metrics {
		if !isCPUTarget(m) {
			others = append(others, metricToV1(&s.Spec.Metrics[i]))
		} else if v.Spec.TargetCPUUtilizationPercentage == nil {
			v.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	for _, m := range s.Status.CurrentMetrics {
		if m.Resource != nil && m.Resource.Name == corev1.ResourceCPU {
			v.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
	}
	packAnnotation(v, metricsAnnotation, others, len(others) > 0)
	packAnnotation(v, statusesAnnotation, each(s.Status.CurrentMetrics, metricStatusToV1), len(s.Status.CurrentMetrics) > 0)
	packAnnotation(v, behaviorAnnotation, mapped(s.Spec.Behavior, behaviorToV1), s.Spec.Behavior != nil)
	packAnnotation(v, conditionsAnnotation, s.Status.Conditions, len(s.Status.Conditions) > 0)
	return v
}

func autoscalerStored(v *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	v = v.DeepCopy()
	s := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: v.ObjectMeta}
	s.SetGroupVersionKind(autoscalingv2.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"))
	s.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference(v.Spec.ScaleTargetRef)
	s.Spec.MinReplicas, s.Spec.MaxReplicas = v.Spec.MinReplicas, v.Spec.MaxReplicas
	var others []autoscalingv1.MetricSpec
	var statuses []autoscalingv1.MetricStatus
	unpackAnnotation(s, metricsAnnotation, &others)
	unpackAnnotation(s, statusesAnnotation, &statuses)
	unpackAnnotation(s, behaviorAnnotation, &s.Spec.Behavior) // names of fields match in any case
	s.Spec.Metrics = each(others, metricFromV1)
	unpackAnnotation(s, conditionsAnnotation, &s.Status.Conditions)
	if target := v.Spec.TargetCPUUtilizationPercentage; target != nil {
		s.Spec.Metrics = append(s.Spec.Metrics, autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: target},
			},
		})
	}
	s.Status.ObservedGeneration, s.Status.LastScaleTime = v.Status.ObservedGeneration, v.Status.LastScaleTime
	s.Status.CurrentReplicas, s.Status.DesiredReplicas = v.Status.CurrentReplicas, v.Status.DesiredReplicas
	defaults.Apply(s) // v1 leaves the default metric to the conversion
	if current := v.Status.CurrentCPUUtilizationPercentage; len(statuses) > 0 {
		s.Status.CurrentMetrics = each(statuses, metricStatusFromV1) // it knows more
	} else if current != nil {
		s.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name:    corev1.ResourceCPU,
				Current: autoscalingv2.MetricValueStatus{AverageUtilization: current},
			},
		}}
	}
	return s
}

func packAnnotation(obj Object, name string, value any, set bool) {
	if !set {
		return
	}
	annotations := obj.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	if data, err := json.Marshal(value); err == nil {
		annotations[name] = string(data)
	}
	obj.SetAnnotations(annotations)
}

// unpackAnnotation moves an annotation into a field. A value that nobody could
// have packed is dropped, as upstream does.
func unpackAnnotation(obj Object, name string, into any) {
	annotations := obj.GetAnnotations()
	data, ok := annotations[name]
	if !ok {
		return
	}
	delete(annotations, name)
	_ = json.Unmarshal([]byte(data), into)
}
