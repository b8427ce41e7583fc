package apiserver

import (
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// The priority levels and flow schemas of every cluster: who is let in by whom
// when there is not enough room for all. The numbers are upstream's.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap/default.go

// defaultLevels are the levels that have seats.
var defaultLevels = []struct {
	name             string
	shares, lendable int32
	queues, hand     int32 // 0 for the level at which nobody waits
}{
	{"system", 30, 33, 64, 6},          // what nodes do
	{"node-high", 40, 25, 64, 6},       // and what keeps them from being given up
	{"leader-election", 10, 0, 16, 4},  // who loses it stops working
	{"workload-high", 40, 50, 128, 6},  // the control plane's own controllers
	{"workload-low", 100, 90, 128, 6},  // everybody's controllers
	{"global-default", 20, 50, 128, 6}, // people
	{catchAll, 5, 0, 0, 0},             // whom nobody thought of
}

const (
	exempt, catchAll = flowcontrolv1.FlowSchemaNameExempt, flowcontrolv1.FlowSchemaNameCatchAll
	queueLength      = 50

	byUser, byNamespace = flowcontrolv1.FlowDistinguisherMethodByUserType, flowcontrolv1.FlowDistinguisherMethodByNamespaceType
)

// defaultFlows makes the objects.
func defaultFlows() []resources.Object {
	zero := int32(0)
	free := &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: flowMeta(exempt)}
	free.Spec = flowcontrolv1.PriorityLevelConfigurationSpec{
		Type:   flowcontrolv1.PriorityLevelEnablementExempt,
		Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{NominalConcurrencyShares: &zero, LendablePercent: &zero},
	}
	out := []resources.Object{free}
	for _, level := range defaultLevels {
		limited := &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &level.shares, LendablePercent: &level.lendable}
		limited.LimitResponse.Type = flowcontrolv1.LimitResponseTypeReject
		if level.queues > 0 {
			limited.LimitResponse = flowcontrolv1.LimitResponse{
				Type:    flowcontrolv1.LimitResponseTypeQueue,
				Queuing: &flowcontrolv1.QueuingConfiguration{Queues: level.queues, HandSize: level.hand, QueueLengthLimit: queueLength},
			}
		}
		out = append(out, &flowcontrolv1.PriorityLevelConfiguration{
			ObjectMeta: flowMeta(level.name),
			Spec:       flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: limited},
		})
	}
	for _, schema := range defaultSchemas {
		out = append(out, schema.object())
	}
	return out
}

// schemaDefault is a FlowSchema on one line. Subjects are group:NAME, user:NAME
// or account:NAME of kube-system; rules are VERBS GROUPS RESOURCES or VERBS
// PATHS, and "anything".
type schemaDefault struct {
	name, level string
	precedence  int32
	flows       flowcontrolv1.FlowDistinguisherMethodType
	subjects    string
	rules       []string
}

var defaultSchemas = []schemaDefault{
	{exempt, exempt, 1, "", "group:system:masters", anything},
	{"probes", exempt, 2, "", everybody, []string{"get /healthz,/readyz,/livez"}},
	{"system-leader-election", "leader-election", 100, byUser, "user:system:kube-controller-manager user:system:kube-scheduler account:*",
		[]string{"get,create,update coordination.k8s.io leases"}},
	{"system-node-high", "node-high", 400, byUser, "group:system:nodes", []string{"* core nodes,nodes/status cluster", "* coordination.k8s.io leases"}},
	{"system-nodes", "system", 500, byUser, "group:system:nodes", anything},
	{"kube-controller-manager", "workload-high", 800, byNamespace, "user:system:kube-controller-manager", anything},
	{"kube-scheduler", "workload-high", 800, byNamespace, "user:system:kube-scheduler", anything},
	{"kube-system-service-accounts", "workload-high", 900, byNamespace, "account:*", anything},
	{"service-accounts", "workload-low", 9000, byUser, "group:system:serviceaccounts", anything},
	{"global-default", "global-default", 9900, byUser, everybody, anything},
	{catchAll, catchAll, 10000, byUser, everybody, anything},
}

const everybody = "group:system:unauthenticated group:system:authenticated"

var anything = []string{"* * * cluster", "* *"}

func (d *schemaDefault) object() resources.Object {
	rules := flowcontrolv1.PolicyRulesWithSubjects{}
	for subject := range strings.FieldsSeq(d.subjects) {
		switch kind, name, _ := strings.Cut(subject, ":"); kind {
		case "group":
			rules.Subjects = append(rules.Subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindGroup, Group: &flowcontrolv1.GroupSubject{Name: name}})
		case "user":
			rules.Subjects = append(rules.Subjects, flowcontrolv1.Subject{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: name}})
		case "account":
			rules.Subjects = append(rules.Subjects, flowcontrolv1.Subject{
				Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: metav1.NamespaceSystem, Name: name},
			})
		}
	}
	for _, rule := range d.rules {
		parsed := parseRule(strings.Fields(strings.TrimSuffix(rule, " cluster")))
		if len(parsed.NonResourceURLs) > 0 {
			rules.NonResourceRules = append(rules.NonResourceRules, flowcontrolv1.NonResourcePolicyRule{Verbs: parsed.Verbs, NonResourceURLs: parsed.NonResourceURLs})
			continue
		}
		rules.ResourceRules = append(rules.ResourceRules, flowcontrolv1.ResourcePolicyRule{
			Verbs: parsed.Verbs, APIGroups: parsed.APIGroups, Resources: parsed.Resources,
			Namespaces: []string{flowcontrolv1.NamespaceEvery}, ClusterScope: strings.HasSuffix(rule, " cluster"),
		})
	}
	schema := &flowcontrolv1.FlowSchema{ObjectMeta: flowMeta(d.name), Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: d.level},
		MatchingPrecedence:         d.precedence, Rules: []flowcontrolv1.PolicyRulesWithSubjects{rules},
	}}
	if d.flows != "" {
		schema.Spec.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: d.flows}
	}
	return schema
}

func flowMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"}}
}
