package validation

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// checkSource checks what a metric is read from and what it is held to.
func checkSource(r *report, at *field.Path, m *autoscalingv2.MetricSpec) {
	switch {
	case m.Object != nil:
		at := at.Child("object")
		checkScaleTarget(r, at.Child("describedObject"), &m.Object.DescribedObject)
		checkMetricName(r, at, m.Object.Metric.Name)
		checkTarget(r, at, &m.Object.Target)
		if m.Object.Target.Value == nil && m.Object.Target.AverageValue == nil {
			r.add(field.Required(at.Child("target", "averageValue"), "must set either a target value or averageValue"))
		}
	case m.External != nil:
		at := at.Child("external")
		checkMetricName(r, at, m.External.Metric.Name)
		checkTarget(r, at, &m.External.Target)
		switch value, average := m.External.Target.Value, m.External.Target.AverageValue; {
		case value == nil && average == nil:
			r.add(field.Required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
		case value != nil && average != nil:
			r.add(field.Forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
		}
	case m.Pods != nil:
		at := at.Child("pods")
		checkMetricName(r, at, m.Pods.Metric.Name)
		checkTarget(r, at, &m.Pods.Target)
		if m.Pods.Target.AverageValue == nil {
			r.add(field.Required(at.Child("target", "averageValue"), "must specify a positive target averageValue"))
		}
	case m.Resource != nil:
		if m.Resource.Name == "" {
			r.add(field.Required(at.Child("resource", "name"), "must specify a resource name"))
		}
		checkUtilization(r, at.Child("resource"), &m.Resource.Target)
	case m.ContainerResource != nil:
		at, source := at.Child("containerResource"), m.ContainerResource
		if source.Name == "" {
			r.add(field.Required(at.Child("name"), "must specify a resource name"))
		} else {
			checkContainerResourceName(r, at.Child("name"), source.Name)
		}
		if source.Container == "" {
			r.add(field.Required(at.Child("container"), "must specify a container"))
		} else {
			r.label(at.Child("container"), source.Container)
		}
		checkUtilization(r, at, &source.Target)
	}
}

// checkScaleTarget checks a reference to what is scaled or described.
func checkScaleTarget(r *report, at *field.Path, ref *autoscalingv2.CrossVersionObjectReference) {
	if r.required(at.Child("kind"), ref.Kind) {
		r.messages(at.Child("kind"), ref.Kind, PathName(ref.Kind))
	}
	if r.required(at.Child("name"), ref.Name) {
		r.messages(at.Child("name"), ref.Name, PathName(ref.Name))
	}
	if _, err := schema.ParseGroupVersion(ref.APIVersion); err != nil {
		r.invalid(at.Child("apiVersion"), ref.APIVersion, err.Error())
	}
}

func checkMetricName(r *report, at *field.Path, name string) {
	at = at.Child("metric", "name")
	if name == "" {
		r.add(field.Required(at, "must specify a metric name"))
		return
	}
	r.messages(at, name, PathName(name))
}

func checkUtilization(r *report, at *field.Path, t *autoscalingv2.MetricTarget) {
	checkTarget(r, at, t)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		r.add(field.Required(at.Child("target", "averageUtilization"), "must set either a target raw value or a target utilization"))
	case t.AverageUtilization != nil && t.AverageValue != nil:
		r.add(field.Forbidden(at.Child("target", "averageValue"), "may not set both a target raw value and a target utilization"))
	}
}

func checkTarget(r *report, at *field.Path, t *autoscalingv2.MetricTarget) {
	at = at.Child("target")
	if t.Type == "" {
		r.add(field.Required(at.Child("type"), "must specify a metric target type"))
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		r.invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		r.invalid(at.Child("value"), t.Value, "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		r.invalid(at.Child("averageValue"), t.AverageValue, "must be positive")
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		r.invalid(at.Child("averageUtilization"), t.AverageUtilization, "must be greater than 0")
	}
}
