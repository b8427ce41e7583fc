package apiserver

import (
	"fmt"
	"os"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// The types of audit.k8s.io/v1, which no module that we may use carries.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/apis/audit/v1/types.go

// auditLevel is how much is written about a request; each level has all that
// the one before has.
type auditLevel string

const (
	auditNone            auditLevel = "None"
	auditMetadata        auditLevel = "Metadata" // who, what, when, and how it ended
	auditRequest         auditLevel = "Request"  // and what was sent
	auditRequestResponse auditLevel = "RequestResponse"
)

var auditLevels = []auditLevel{auditNone, auditMetadata, auditRequest, auditRequestResponse}

func (l auditLevel) atLeast(other auditLevel) bool {
	return slices.Index(auditLevels, l) >= slices.Index(auditLevels, other)
}

// auditStage is a moment in a request's life at which an event may be written.
type auditStage string

const (
	stageReceived auditStage = "RequestReceived"
	stageStarted  auditStage = "ResponseStarted" // of what lasts: watches, streams
	stageComplete auditStage = "ResponseComplete"
	stagePanic    auditStage = "Panic"
)

var auditStages = []auditStage{stageReceived, stageStarted, stageComplete, stagePanic}

// auditPolicy is a Policy: the first rule that matches a request decides.
type auditPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	Metadata          metav1.ObjectMeta `json:"metadata,omitempty"`
	Rules             []auditRule       `json:"rules"`
	OmitStages        []auditStage      `json:"omitStages,omitempty"`
	OmitManagedFields bool              `json:"omitManagedFields,omitempty"`
}

// auditRule matches what is in every list that is not empty.
type auditRule struct {
	Level             auditLevel       `json:"level"`
	Users             []string         `json:"users,omitempty"`
	UserGroups        []string         `json:"userGroups,omitempty"`
	Verbs             []string         `json:"verbs,omitempty"`
	Resources         []auditResources `json:"resources,omitempty"`
	Namespaces        []string         `json:"namespaces,omitempty"`
	NonResourceURLs   []string         `json:"nonResourceURLs,omitempty"`
	OmitStages        []auditStage     `json:"omitStages,omitempty"`
	OmitManagedFields *bool            `json:"omitManagedFields,omitempty"`
}

// auditResources are resources of one group; "*" is any group.
type auditResources struct {
	Group         string   `json:"group,omitempty"`
	Resources     []string `json:"resources,omitempty"` // pods, pods/log, pods/*, */scale, *
	ResourceNames []string `json:"resourceNames,omitempty"`
}

// readAuditPolicy reads a policy file. Like upstream it reads on over fields
// that it does not know, and returns them as a warning.
func readAuditPolicy(file string) (policy *auditPolicy, warning, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	text, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, nil, err
	}
	policy = &auditPolicy{}
	strict, err := kjson.UnmarshalStrict(text, policy)
	if err != nil {
		return nil, nil, err
	}
	if len(strict) > 0 {
		warning = strict[0]
	}
	if policy.APIVersion != "audit.k8s.io/v1" || policy.Kind != "Policy" {
		return nil, nil, fmt.Errorf("apiVersion and kind are %q and %q, not audit.k8s.io/v1 and Policy", policy.APIVersion, policy.Kind)
	}
	if len(policy.Rules) == 0 {
		return nil, nil, fmt.Errorf("loaded illegal policy with 0 rules")
	}
	return policy, warning, policy.validate().ToAggregate()
}

func (p *auditPolicy) validate() field.ErrorList {
	errs := validateStages(field.NewPath("omitStages"), p.OmitStages)
	for i := range p.Rules {
		rule, at := &p.Rules[i], field.NewPath("rules").Index(i)
		switch {
		case rule.Level == "":
			errs = append(errs, field.Required(at.Child("level"), ""))
		case !slices.Contains(auditLevels, rule.Level):
			errs = append(errs, field.NotSupported(at.Child("level"), rule.Level, auditLevels))
		}
		for j, url := range rule.NonResourceURLs {
			if url != "*" && !strings.HasPrefix(url, "/") {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(j), url, "non-resource URL rules must begin with a '/' character"))
			}
			if star := strings.IndexByte(url, '*'); star >= 0 && star != len(url)-1 {
				errs = append(errs, field.Invalid(at.Child("nonResourceURLs").Index(j), url, "non-resource URL wildcards '*' must be the final character of the rule"))
			}
		}
		if len(rule.NonResourceURLs) > 0 && (len(rule.Resources) > 0 || len(rule.Namespaces) > 0) {
			errs = append(errs, field.Invalid(at.Child("nonResourceURLs"), rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		for _, r := range rule.Resources {
			if problems := validation.IsDNS1123Subdomain(r.Group); r.Group != "" && r.Group != "*" && len(problems) > 0 {
				errs = append(errs, field.Invalid(at.Child("resources", "group"), r.Group, strings.Join(problems, ",")))
			}
			if len(r.ResourceNames) > 0 && len(r.Resources) == 0 {
				errs = append(errs, field.Invalid(at.Child("resources", "resourceNames"), r.ResourceNames, "using resourceNames requires at least one resource"))
			}
		}
		errs = append(errs, validateStages(at.Child("omitStages"), rule.OmitStages)...)
	}
	return errs
}

func validateStages(at *field.Path, stages []auditStage) field.ErrorList {
	var errs field.ErrorList
	for i, stage := range stages {
		if !slices.Contains(auditStages, stage) {
			errs = append(errs, field.Invalid(at.Index(i), stage, "allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic"))
		}
	}
	return errs
}

// auditVerdict is what the policy says about one request.
type auditVerdict struct {
	level             auditLevel
	omitStages        []auditStage
	omitManagedFields bool
}

// judge finds the first rule that matches; u is nil for who is not known.
func (p *auditPolicy) judge(u *user, t *target) auditVerdict {
	for i := range p.Rules {
		rule := &p.Rules[i]
		if !rule.matches(u, t) {
			continue
		}
		omit := p.OmitManagedFields
		if rule.OmitManagedFields != nil {
			omit = *rule.OmitManagedFields
		}
		return auditVerdict{rule.Level, slices.Concat(p.OmitStages, rule.OmitStages), omit}
	}
	return auditVerdict{level: auditNone}
}

func (r *auditRule) matches(u *user, t *target) bool {
	among := func(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }
	switch {
	case len(r.Users) > 0 && (u == nil || !slices.Contains(r.Users, u.name)):
		return false
	case len(r.UserGroups) > 0 && (u == nil || !slices.ContainsFunc(r.UserGroups, u.in)):
		return false
	case !among(r.Verbs, t.verb):
		return false
	case len(r.Namespaces) > 0 || len(r.Resources) > 0:
		return t.isResource && among(r.Namespaces, t.namespace) &&
			(len(r.Resources) == 0 || slices.ContainsFunc(r.Resources, func(g auditResources) bool { return g.matches(t) }))
	case len(r.NonResourceURLs) > 0:
		return !t.isResource && slices.ContainsFunc(r.NonResourceURLs, func(url string) bool { return pathMatches(url, t.path) })
	}
	return true
}

func (g *auditResources) matches(t *target) bool {
	if g.Group != "*" && g.Group != t.group {
		return false
	}
	if len(g.Resources) == 0 {
		return true
	}
	if len(g.ResourceNames) > 0 && !slices.Contains(g.ResourceNames, t.name) {
		return false
	}
	whole := t.resource
	if t.subresource != "" {
		whole += "/" + t.subresource
	}
	return slices.ContainsFunc(g.Resources, func(one string) bool {
		resource, of := strings.CutSuffix(one, "/*")
		sub, any := strings.CutPrefix(one, "*/")
		return one == "*" || one == whole || of && resource == t.resource || any && t.subresource != "" && sub == t.subresource
	})
}

// pathMatches reports whether a pattern, which may end in "*", is a path's.
func pathMatches(pattern, path string) bool {
	prefix, wild := strings.CutSuffix(pattern, "*")
	return pattern == path || wild && strings.HasPrefix(path, prefix)
}
