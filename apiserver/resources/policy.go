package resources

// Kinds that say what may happen: who may do what, how many pods may be gone,
// what scales, what is more important. Most are plain stored documents.

import (
	"cmp"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"

	"tinykube/api/validation"
)

func policyRows() []*Row {
	return group("policy", "v1",
		kind[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](Row{
			ShortNames: names("pdb"), Namespaced: true, Status: true,
			Strategy: lifecycle(true).with(func(s *Strategy) { s.RequireResourceVersion = true }),
		}).prints(budgetColumns, cells(budgetCells)).
			validates(check(validation.PodDisruptionBudget), nil),
	)
}

func rbacRows() []*Row {
	strategy := Strategy{CreateOnUpdate: true}
	return group("rbac.authorization.k8s.io", "v1",
		kind[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList](Row{Strategy: strategy}).prints(bindingColumns, cells(clusterRoleBindingCells)).
			named(validation.PathName).
			validates(check(validation.ClusterRoleBinding), checkUpdate(validation.ClusterRoleBindingUpdate)),
		kind[rbacv1.ClusterRole, rbacv1.ClusterRoleList](Row{Strategy: strategy}).
			named(validation.PathName).
			validates(check(validation.ClusterRole), nil),
		kind[rbacv1.RoleBinding, rbacv1.RoleBindingList](Row{Namespaced: true, Strategy: strategy}).prints(bindingColumns, cells(roleBindingCells)).
			named(validation.PathName).
			validates(check(validation.RoleBinding), checkUpdate(validation.RoleBindingUpdate)),
		kind[rbacv1.Role, rbacv1.RoleList](Row{Namespaced: true, Strategy: strategy}).
			named(validation.PathName).
			validates(check(validation.Role), nil),
	)
}

func schedulingRows() []*Row {
	return group("scheduling.k8s.io", "v1",
		kind[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](Row{
			Plural: "priorityclasses", ShortNames: names("pc"),
			Strategy: Strategy{PrepareCreate: func(obj Object) { obj.SetGeneration(1) }},
		}).prints(priorityClassColumns, cells(priorityClassCells)).
			validates(check(validation.PriorityClass), checkUpdate(validation.PriorityClassUpdate)),
	)
}

func coordinationRows() []*Row {
	return group("coordination.k8s.io", "v1",
		kind[coordinationv1.Lease, coordinationv1.LeaseList](Row{
			Namespaced: true,
			Strategy:   Strategy{CreateOnUpdate: true, RequireResourceVersion: true},
		}).prints(leaseColumns, cells(leaseCells)).
			validates(check(validation.Lease), nil),
	)
}

// admissionRows are stored so that clients which list them find a list; the
// API server does not call webhooks or evaluate policies.
//
// Simplified: without the calls a stored webhook configuration has no effect.
func admissionRows() []*Row {
	strategy := lifecycle(true).with(func(s *Strategy) { s.RequireResourceVersion = true })
	extension := func(r Row) Row {
		r.Categories, r.Strategy = []string{"api-extensions"}, strategy
		return r
	}
	return group("admissionregistration.k8s.io", "v1",
		kind[admissionv1.MutatingAdmissionPolicy, admissionv1.MutatingAdmissionPolicyList](
			extension(Row{Plural: "mutatingadmissionpolicies"})).prints(mutationColumns, cells(mutatingPolicyCells)),
		kind[admissionv1.MutatingAdmissionPolicyBinding, admissionv1.MutatingAdmissionPolicyBindingList](extension(Row{})).prints(policyBindingColumns, cells(mutatingBindingCells)),
		kind[admissionv1.MutatingWebhookConfiguration, admissionv1.MutatingWebhookConfigurationList](extension(Row{})).prints(webhookColumns, cells(mutatingWebhookCells)).
			validates(check(validation.MutatingWebhookConfiguration), nil),
		kind[admissionv1.ValidatingAdmissionPolicy, admissionv1.ValidatingAdmissionPolicyList](
			extension(Row{Plural: "validatingadmissionpolicies", Status: true})).prints(validationColumns, cells(validatingPolicyCells)),
		kind[admissionv1.ValidatingAdmissionPolicyBinding, admissionv1.ValidatingAdmissionPolicyBindingList](extension(Row{})).prints(policyBindingColumns, cells(validatingBindingCells)),
		kind[admissionv1.ValidatingWebhookConfiguration, admissionv1.ValidatingWebhookConfigurationList](extension(Row{})).prints(webhookColumns, cells(validatingWebhookCells)).
			validates(check(validation.ValidatingWebhookConfiguration), nil),
	)
}

// schemaOrder is the order in which flow schemas are tried.
func schemaOrder(a, b Object) int {
	return cmp.Or(
		cmp.Compare(a.(*flowcontrolv1.FlowSchema).Spec.MatchingPrecedence, b.(*flowcontrolv1.FlowSchema).Spec.MatchingPrecedence),
		strings.Compare(a.GetName(), b.GetName()),
	)
}

// flowcontrolRows say who waits behind whom; flows.go of the API server obeys.
func flowcontrolRows() []*Row {
	return group("flowcontrol.apiserver.k8s.io", "v1",
		kind[flowcontrolv1.FlowSchema, flowcontrolv1.FlowSchemaList](Row{Status: true, Strategy: lifecycle(true), TableOrder: schemaOrder}).prints(flowSchemaColumns, cells(flowSchemaCells)).
			validates(check(validation.FlowSchema), nil),
		kind[flowcontrolv1.PriorityLevelConfiguration, flowcontrolv1.PriorityLevelConfigurationList](
			Row{Status: true, Strategy: lifecycle(true)}).prints(priorityLevelColumns, cells(priorityLevelCells)).
			validates(check(validation.PriorityLevelConfiguration), nil),
	)
}
