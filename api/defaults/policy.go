package defaults

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// policyRules are the kinds that neither run nor hold anything: rights,
// networks, classes, webhooks.
func policyRules(into rules) {
	rule(into, func(p *discoveryv1.EndpointPort) {
		point(&p.Name, "")
		point(&p.Protocol, corev1.ProtocolTCP)
	})
	rule(into, func(p *networkingv1.NetworkPolicyPort) { point(&p.Protocol, corev1.ProtocolTCP) })
	rule(into, func(p *networkingv1.NetworkPolicy) {
		if len(p.Spec.PolicyTypes) > 0 {
			return
		}
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	})
	rule(into, func(r *networkingv1.IngressClassParametersReference) {
		point(&r.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	})
	rule(into, func(r *rbacv1.RoleRef) { set(&r.APIGroup, rbacv1.GroupName) })
	rule(into, func(s *rbacv1.Subject) {
		if s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind {
			set(&s.APIGroup, rbacv1.GroupName)
		}
	})
	rule(into, func(c *schedulingv1.PriorityClass) { point(&c.PreemptionPolicy, corev1.PreemptLowerPriority) })
	rule(into, func(r *resourcev1.ExactDeviceRequest) {
		set(&r.AllocationMode, resourcev1.DeviceAllocationModeExactCount)
		if r.AllocationMode == resourcev1.DeviceAllocationModeExactCount {
			set(&r.Count, 1)
		}
	})
	rule(into, func(s *authenticationv1.TokenRequestSpec) { point(&s.ExpirationSeconds, 60*60) })
	rule(into, func(c *storagev1.StorageClass) {
		point(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
		point(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
	})
	rule(into, func(d *storagev1.CSIDriverSpec) {
		point(&d.AttachRequired, true)
		point(&d.PodInfoOnMount, false)
		point(&d.StorageCapacity, false)
		point(&d.RequiresRepublish, false)
		point(&d.SELinuxMount, false)
		point(&d.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
		if len(d.VolumeLifecycleModes) == 0 {
			d.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
		}
	})
	webhookRules(into)
	flowcontrolRules(into)
}

func webhookRules(into rules) {
	rule(into, func(w *admissionv1.ValidatingWebhook) {
		point(&w.FailurePolicy, admissionv1.Fail)
		point(&w.MatchPolicy, admissionv1.Equivalent)
		point(&w.NamespaceSelector, metav1.LabelSelector{})
		point(&w.ObjectSelector, metav1.LabelSelector{})
		point(&w.TimeoutSeconds, 10)
	})
	rule(into, func(w *admissionv1.MutatingWebhook) {
		point(&w.FailurePolicy, admissionv1.Fail)
		point(&w.MatchPolicy, admissionv1.Equivalent)
		point(&w.NamespaceSelector, metav1.LabelSelector{})
		point(&w.ObjectSelector, metav1.LabelSelector{})
		point(&w.TimeoutSeconds, 10)
		point(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
	})
	rule(into, func(r *admissionv1.Rule) { point(&r.Scope, admissionv1.AllScopes) })
	rule(into, func(r *admissionv1.ServiceReference) { point(&r.Port, 443) })
	rule(into, func(s *admissionv1.ValidatingAdmissionPolicySpec) { point(&s.FailurePolicy, admissionv1.Fail) })
	rule(into, func(s *admissionv1.MutatingAdmissionPolicySpec) { point(&s.FailurePolicy, admissionv1.Fail) })
	rule(into, func(m *admissionv1.MatchResources) {
		point(&m.MatchPolicy, admissionv1.Equivalent)
		point(&m.NamespaceSelector, metav1.LabelSelector{})
		point(&m.ObjectSelector, metav1.LabelSelector{})
	})
}

func flowcontrolRules(into rules) {
	rule(into, func(s *flowcontrolv1.FlowSchemaSpec) { set(&s.MatchingPrecedence, 1000) })
	rule(into, func(c *flowcontrolv1.ExemptPriorityLevelConfiguration) {
		point(&c.NominalConcurrencyShares, 0)
		point(&c.LendablePercent, 0)
	})
	rule(into, func(c *flowcontrolv1.LimitedPriorityLevelConfiguration) {
		point(&c.NominalConcurrencyShares, 30)
		point(&c.LendablePercent, 0)
	})
	rule(into, func(c *flowcontrolv1.QueuingConfiguration) {
		set(&c.Queues, 64)
		set(&c.HandSize, 8)
		set(&c.QueueLengthLimit, 50)
	})
}
