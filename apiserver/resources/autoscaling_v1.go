package resources

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
)

// autoscaling/v1 knows metrics only as text in annotations, in types of its
// own: where v2 has a target with a type, v1 has a field for each type. So that
// a client and a server of any age read the same text, it is written and read
// field by field.
// Upstream: kubernetes@v1.36 pkg/apis/autoscaling/v1/conversion.go

// mapped applies f to what a pointer points to; nil stays nil.
func mapped[A, B any](in *A, f func(*A) B) *B {
	if in == nil {
		return nil
	}
	out := f(in)
	return &out
}

// each applies f to the elements of a list.
func each[A, B any](in []A, f func(*A) B) []B {
	out := make([]B, 0, len(in))
	for i := range in {
		out = append(out, f(&in[i]))
	}
	return out
}

// valueOf is a quantity that v1 cannot leave out.
func valueOf(q *resource.Quantity) resource.Quantity {
	if q == nil {
		return resource.Quantity{}
	}
	return *q
}

func metricToV1(m *autoscalingv2.MetricSpec) autoscalingv1.MetricSpec {
	return autoscalingv1.MetricSpec{
		Type: autoscalingv1.MetricSourceType(m.Type),
		Object: mapped(m.Object, func(o *autoscalingv2.ObjectMetricSource) autoscalingv1.ObjectMetricSource {
			return autoscalingv1.ObjectMetricSource{Target: autoscalingv1.CrossVersionObjectReference(o.DescribedObject),
				MetricName: o.Metric.Name, TargetValue: valueOf(o.Target.Value), Selector: o.Metric.Selector, AverageValue: o.Target.AverageValue}
		}),
		Pods: mapped(m.Pods, func(p *autoscalingv2.PodsMetricSource) autoscalingv1.PodsMetricSource {
			return autoscalingv1.PodsMetricSource{MetricName: p.Metric.Name, TargetAverageValue: valueOf(p.Target.AverageValue), Selector: p.Metric.Selector}
		}),
		Resource: mapped(m.Resource, func(r *autoscalingv2.ResourceMetricSource) autoscalingv1.ResourceMetricSource {
			return autoscalingv1.ResourceMetricSource{Name: r.Name, TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue}
		}),
		ContainerResource: mapped(m.ContainerResource, func(r *autoscalingv2.ContainerResourceMetricSource) autoscalingv1.ContainerResourceMetricSource {
			return autoscalingv1.ContainerResourceMetricSource{Name: r.Name, Container: r.Container,
				TargetAverageUtilization: r.Target.AverageUtilization, TargetAverageValue: r.Target.AverageValue}
		}),
		External: mapped(m.External, func(e *autoscalingv2.ExternalMetricSource) autoscalingv1.ExternalMetricSource {
			return autoscalingv1.ExternalMetricSource{MetricName: e.Metric.Name, MetricSelector: e.Metric.Selector,
				TargetValue: e.Target.Value, TargetAverageValue: e.Target.AverageValue}
		}),
	}
}

func metricFromV1(m *autoscalingv1.MetricSpec) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.MetricSourceType(m.Type),
		Object: mapped(m.Object, func(o *autoscalingv1.ObjectMetricSource) autoscalingv2.ObjectMetricSource {
			value := &o.TargetValue
			if o.AverageValue != nil && o.TargetValue.IsZero() {
				value = nil // v1 could not leave it out
			}
			return autoscalingv2.ObjectMetricSource{DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
				Target: metricTarget(value, o.AverageValue, nil), Metric: autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector}}
		}),
		Pods: mapped(m.Pods, func(p *autoscalingv1.PodsMetricSource) autoscalingv2.PodsMetricSource {
			return autoscalingv2.PodsMetricSource{Target: metricTarget(nil, &p.TargetAverageValue, nil),
				Metric: autoscalingv2.MetricIdentifier{Name: p.MetricName, Selector: p.Selector}}
		}),
		Resource: mapped(m.Resource, func(r *autoscalingv1.ResourceMetricSource) autoscalingv2.ResourceMetricSource {
			return autoscalingv2.ResourceMetricSource{Name: r.Name, Target: metricTarget(nil, r.TargetAverageValue, r.TargetAverageUtilization)}
		}),
		ContainerResource: mapped(m.ContainerResource, func(r *autoscalingv1.ContainerResourceMetricSource) autoscalingv2.ContainerResourceMetricSource {
			return autoscalingv2.ContainerResourceMetricSource{Name: r.Name, Container: r.Container,
				Target: metricTarget(nil, r.TargetAverageValue, r.TargetAverageUtilization)}
		}),
		External: mapped(m.External, func(e *autoscalingv1.ExternalMetricSource) autoscalingv2.ExternalMetricSource {
			target := metricTarget(e.TargetValue, e.TargetAverageValue, nil)
			if e.TargetValue != nil {
				target.Type = autoscalingv2.ValueMetricType
			}
			return autoscalingv2.ExternalMetricSource{Target: target, Metric: autoscalingv2.MetricIdentifier{Name: e.MetricName, Selector: e.MetricSelector}}
		}),
	}
}

// metricTarget guesses the type that v1 does not say.
func metricTarget(value, average *resource.Quantity, utilization *int32) autoscalingv2.MetricTarget {
	target := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, Value: value, AverageValue: average, AverageUtilization: utilization}
	switch {
	case utilization != nil:
		target.Type = autoscalingv2.UtilizationMetricType
	case average == nil && value != nil:
		target.Type = autoscalingv2.ValueMetricType
	}
	return target
}

func metricStatusToV1(m *autoscalingv2.MetricStatus) autoscalingv1.MetricStatus {
	return autoscalingv1.MetricStatus{
		Type: autoscalingv1.MetricSourceType(m.Type),
		Object: mapped(m.Object, func(o *autoscalingv2.ObjectMetricStatus) autoscalingv1.ObjectMetricStatus {
			return autoscalingv1.ObjectMetricStatus{Target: autoscalingv1.CrossVersionObjectReference(o.DescribedObject),
				MetricName: o.Metric.Name, CurrentValue: valueOf(o.Current.Value), Selector: o.Metric.Selector, AverageValue: o.Current.AverageValue}
		}),
		Pods: mapped(m.Pods, func(p *autoscalingv2.PodsMetricStatus) autoscalingv1.PodsMetricStatus {
			return autoscalingv1.PodsMetricStatus{MetricName: p.Metric.Name, CurrentAverageValue: valueOf(p.Current.AverageValue), Selector: p.Metric.Selector}
		}),
		Resource: mapped(m.Resource, func(r *autoscalingv2.ResourceMetricStatus) autoscalingv1.ResourceMetricStatus {
			return autoscalingv1.ResourceMetricStatus{Name: r.Name, CurrentAverageUtilization: r.Current.AverageUtilization,
				CurrentAverageValue: valueOf(r.Current.AverageValue)}
		}),
		ContainerResource: mapped(m.ContainerResource, func(r *autoscalingv2.ContainerResourceMetricStatus) autoscalingv1.ContainerResourceMetricStatus {
			return autoscalingv1.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container,
				CurrentAverageUtilization: r.Current.AverageUtilization, CurrentAverageValue: valueOf(r.Current.AverageValue)}
		}),
		External: mapped(m.External, func(e *autoscalingv2.ExternalMetricStatus) autoscalingv1.ExternalMetricStatus {
			return autoscalingv1.ExternalMetricStatus{MetricName: e.Metric.Name, MetricSelector: e.Metric.Selector,
				CurrentValue: valueOf(e.Current.Value), CurrentAverageValue: e.Current.AverageValue}
		}),
	}
}

func metricStatusFromV1(m *autoscalingv1.MetricStatus) autoscalingv2.MetricStatus {
	return autoscalingv2.MetricStatus{
		Type: autoscalingv2.MetricSourceType(m.Type),
		Object: mapped(m.Object, func(o *autoscalingv1.ObjectMetricStatus) autoscalingv2.ObjectMetricStatus {
			return autoscalingv2.ObjectMetricStatus{DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
				Metric:  autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
				Current: autoscalingv2.MetricValueStatus{Value: &o.CurrentValue, AverageValue: o.AverageValue}}
		}),
		Pods: mapped(m.Pods, func(p *autoscalingv1.PodsMetricStatus) autoscalingv2.PodsMetricStatus {
			return autoscalingv2.PodsMetricStatus{Metric: autoscalingv2.MetricIdentifier{Name: p.MetricName, Selector: p.Selector},
				Current: autoscalingv2.MetricValueStatus{AverageValue: &p.CurrentAverageValue}}
		}),
		Resource: mapped(m.Resource, func(r *autoscalingv1.ResourceMetricStatus) autoscalingv2.ResourceMetricStatus {
			return autoscalingv2.ResourceMetricStatus{Name: r.Name,
				Current: autoscalingv2.MetricValueStatus{AverageValue: &r.CurrentAverageValue, AverageUtilization: r.CurrentAverageUtilization}}
		}),
		ContainerResource: mapped(m.ContainerResource, func(r *autoscalingv1.ContainerResourceMetricStatus) autoscalingv2.ContainerResourceMetricStatus {
			return autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container,
				Current: autoscalingv2.MetricValueStatus{AverageValue: &r.CurrentAverageValue, AverageUtilization: r.CurrentAverageUtilization}}
		}),
		External: mapped(m.External, func(e *autoscalingv1.ExternalMetricStatus) autoscalingv2.ExternalMetricStatus {
			return autoscalingv2.ExternalMetricStatus{Metric: autoscalingv2.MetricIdentifier{Name: e.MetricName, Selector: e.MetricSelector},
				Current: autoscalingv2.MetricValueStatus{Value: &e.CurrentValue, AverageValue: e.CurrentAverageValue}}
		}),
	}
}

// behaviorText is how v1 writes v2's behavior: upstream's type inside the
// server has no JSON names, and its text has become the format.
type behaviorText struct{ ScaleUp, ScaleDown *rulesText }

type rulesText struct {
	StabilizationWindowSeconds *int32
	SelectPolicy               *autoscalingv2.ScalingPolicySelect
	Policies                   []policyText
	Tolerance                  *resource.Quantity
}

type policyText struct {
	Type                 autoscalingv2.HPAScalingPolicyType
	Value, PeriodSeconds int32
}

func behaviorToV1(b *autoscalingv2.HorizontalPodAutoscalerBehavior) behaviorText {
	rules := func(r *autoscalingv2.HPAScalingRules) rulesText {
		out := rulesText{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
		for _, p := range r.Policies {
			out.Policies = append(out.Policies, policyText(p))
		}
		return out
	}
	return behaviorText{mapped(b.ScaleUp, rules), mapped(b.ScaleDown, rules)}
}
