package defaults

import (
	"maps"
	"math"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// workloadRules are what runs pods and what scales it.
//
// Upstream: kubernetes@v1.36 pkg/apis/{apps,batch}/v1, autoscaling/v2
func workloadRules(into rules) {
	rule(into, func(d *appsv1.Deployment) {
		point(&d.Spec.Replicas, 1)
		set(&d.Spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
		if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
			point(&d.Spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
			point(&d.Spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
			point(&d.Spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
		}
		point(&d.Spec.RevisionHistoryLimit, 10)
		point(&d.Spec.ProgressDeadlineSeconds, 600)
	})
	rule(into, func(rs *appsv1.ReplicaSet) { point(&rs.Spec.Replicas, 1) })
	rule(into, func(ds *appsv1.DaemonSet) {
		strategy := &ds.Spec.UpdateStrategy
		set(&strategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
		if strategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
			point(&strategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
			point(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
			point(&strategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
		}
		point(&ds.Spec.RevisionHistoryLimit, 10)
	})
	rule(into, statefulSet)
	rule(into, job)
	rule(into, func(c *batchv1.CronJob) {
		set(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
		point(&c.Spec.Suspend, false)
		point(&c.Spec.SuccessfulJobsHistoryLimit, 3)
		point(&c.Spec.FailedJobsHistoryLimit, 1)
	})
	rule(into, func(p *batchv1.PodFailurePolicyOnPodConditionsPattern) { set(&p.Status, corev1.ConditionTrue) })
	rule(into, func(hpa *autoscalingv1.HorizontalPodAutoscaler) { point(&hpa.Spec.MinReplicas, 1) })
	rule(into, autoscaler)
}

func statefulSet(s *appsv1.StatefulSet) {
	set(&s.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	strategy := &s.Spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		point(&strategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && strategy.RollingUpdate != nil {
		point(&strategy.RollingUpdate.Partition, 0)
	}
	point(&s.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	retain := s.Spec.PersistentVolumeClaimRetentionPolicy
	set(&retain.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	set(&retain.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	point(&s.Spec.Replicas, 1)
	point(&s.Spec.RevisionHistoryLimit, 10)
	for i := range s.Spec.VolumeClaimTemplates {
		claim := &s.Spec.VolumeClaimTemplates[i]
		claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
	}
}

func job(j *batchv1.Job) {
	spec := &j.Spec
	if spec.Completions == nil && spec.Parallelism == nil {
		point(&spec.Completions, 1)
	}
	point(&spec.Parallelism, 1)
	if spec.BackoffLimitPerIndex != nil {
		point(&spec.BackoffLimit, math.MaxInt32)
	}
	point(&spec.BackoffLimit, 6)
	if len(j.Labels) == 0 && spec.Template.Labels != nil {
		j.Labels = maps.Clone(spec.Template.Labels)
	}
	point(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	point(&spec.Suspend, false)
	if spec.PodFailurePolicy != nil {
		point(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	point(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	point(&spec.ManualSelector, false)
}

func autoscaler(hpa *autoscalingv2.HorizontalPodAutoscaler) {
	point(&hpa.Spec.MinReplicas, 1)
	if len(hpa.Spec.Metrics) == 0 {
		eighty := int32(80)
		hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &eighty},
			},
		}}
	}
	if hpa.Spec.Behavior == nil {
		return
	}
	// Up at once, by four pods or to the double, whichever is more; down as
	// far as it goes, after a window that the controller chooses.
	up := scalingRules(&hpa.Spec.Behavior.ScaleUp,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	point(&up.StabilizationWindowSeconds, 0)
	scalingRules(&hpa.Spec.Behavior.ScaleDown,
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

func scalingRules(at **autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	point(at, autoscalingv2.HPAScalingRules{})
	point(&(*at).SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if (*at).Policies == nil {
		(*at).Policies = policies
	}
	return *at
}
