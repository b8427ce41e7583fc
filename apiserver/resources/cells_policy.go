package resources

import (
	"strings"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

const (
	budgetColumns        = "Name|Min Available|Max Unavailable|Allowed Disruptions:integer|Age"
	bindingColumns       = "Name|Role|Age|+Users|+Groups|+ServiceAccounts"
	priorityClassColumns = "Name|Value:integer|Global-Default:boolean|Age|PreemptionPolicy"
	certificateColumns   = "Name|Age|SignerName|Requestor|RequestedDuration|Condition"
	webhookColumns       = "Name|Webhooks:integer|Age"
	validationColumns    = "Name|Validations:integer|ParamKind|Age"
	mutationColumns      = "Name|Mutations:integer|ParamKind|Age"
	policyBindingColumns = "Name|PolicyName|ParamRef|Age"
	flowSchemaColumns    = "Name|PriorityLevel|MatchingPrecedence|DistinguisherMethod|Age|MissingPL"
	priorityLevelColumns = "Name|Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age"
)

func budgetCells(b *policyv1.PodDisruptionBudget, now time.Time) []any {
	available, unavailable := "N/A", "N/A"
	if v := b.Spec.MinAvailable; v != nil {
		available = v.String()
	}
	if v := b.Spec.MaxUnavailable; v != nil {
		unavailable = v.String()
	}
	return []any{b.Name, available, unavailable, b.Status.DisruptionsAllowed, age(b, now)}
}

func roleBindingCells(b *rbacv1.RoleBinding, now time.Time) []any {
	return bindingCells(b, b.RoleRef, b.Subjects, now)
}

func clusterRoleBindingCells(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
	return bindingCells(b, b.RoleRef, b.Subjects, now)
}

func bindingCells(obj Object, role rbacv1.RoleRef, subjects []rbacv1.Subject, now time.Time) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{
		obj.GetName(), role.Kind + "/" + role.Name, age(obj, now),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", "),
	}
}

func priorityClassCells(c *schedulingv1.PriorityClass, now time.Time) []any {
	return []any{c.Name, c.Value, c.GlobalDefault, age(c, now), string(deref(c.PreemptionPolicy, ""))}
}

func certificateCells(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
	lifetime := none
	if s := c.Spec.ExpirationSeconds; s != nil {
		lifetime = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return []any{c.Name, age(c, now), or(c.Spec.SignerName, none), c.Spec.Username, lifetime, certificateCondition(c)}
}

// certificateCondition: a denial outweighs an approval.
func certificateCondition(c *certificatesv1.CertificateSigningRequest) string {
	has := map[certificatesv1.RequestConditionType]bool{}
	for _, condition := range c.Status.Conditions {
		has[condition.Type] = true
	}
	status := "Pending"
	switch {
	case has[certificatesv1.CertificateDenied]:
		status = "Denied"
	case has[certificatesv1.CertificateApproved]:
		status = "Approved"
	}
	if has[certificatesv1.CertificateFailed] {
		status += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		status += ",Issued"
	}
	return status
}

func mutatingWebhookCells(c *admissionv1.MutatingWebhookConfiguration, now time.Time) []any {
	return []any{c.Name, len(c.Webhooks), age(c, now)}
}

func validatingWebhookCells(c *admissionv1.ValidatingWebhookConfiguration, now time.Time) []any {
	return []any{c.Name, len(c.Webhooks), age(c, now)}
}

func validatingPolicyCells(p *admissionv1.ValidatingAdmissionPolicy, now time.Time) []any {
	return []any{p.Name, len(p.Spec.Validations), paramKind(p.Spec.ParamKind), age(p, now)}
}

func mutatingPolicyCells(p *admissionv1.MutatingAdmissionPolicy, now time.Time) []any {
	return []any{p.Name, len(p.Spec.Mutations), paramKind(p.Spec.ParamKind), age(p, now)}
}

func validatingBindingCells(b *admissionv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
	return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b, now)}
}

func mutatingBindingCells(b *admissionv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
	return []any{b.Name, b.Spec.PolicyName, paramRef(b.Spec.ParamRef), age(b, now)}
}

func paramKind(k *admissionv1.ParamKind) string {
	if k == nil {
		return unset
	}
	return k.APIVersion + "/" + k.Kind
}

func paramRef(r *admissionv1.ParamRef) string {
	switch {
	case r == nil:
		return unset
	case r.Name != "":
		return or(r.Namespace, "*") + "/" + r.Name
	case r.Selector != nil:
		return metav1.FormatLabelSelector(r.Selector)
	}
	return unset
}

func flowSchemaCells(f *flowcontrolv1.FlowSchema, now time.Time) []any {
	method, dangling := none, "?"
	if m := f.Spec.DistinguisherMethod; m != nil {
		method = string(m.Type)
	}
	for _, c := range f.Status.Conditions {
		if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
			dangling = string(c.Status)
		}
	}
	return []any{f.Name, f.Spec.PriorityLevelConfiguration.Name, f.Spec.MatchingPrecedence, method, age(f, now), dangling}
}

func priorityLevelCells(p *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
	var shares, queues, hand, length any = none, none, none, none
	if limited := p.Spec.Limited; limited != nil {
		shares = deref(limited.NominalConcurrencyShares, 0)
		if q := limited.LimitResponse.Queuing; q != nil {
			queues, hand, length = q.Queues, q.HandSize, q.QueueLengthLimit
		}
	}
	return []any{p.Name, string(p.Spec.Type), shares, queues, hand, length, age(p, now)}
}
