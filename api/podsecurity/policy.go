package podsecurity

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Level is how strict a policy is.
type Level string

// The three levels.
const (
	Privileged Level = "privileged"
	Baseline   Level = "baseline"
	Restricted Level = "restricted"
)

// strictness orders the levels.
var strictness = map[Level]int{Privileged: 0, Baseline: 1, Restricted: 2}

// Stricter reports whether a level forbids what another one allows.
func (l Level) Stricter(other Level) bool { return strictness[l] > strictness[other] }

// latest is the minor version that "latest" stands for.
const latest = math.MaxInt

// Rule is a level as it was in some version of Kubernetes.
type Rule struct {
	Level Level
	minor int // of version 1; latest
}

// String is "restricted:v1.30" or "restricted:latest".
func (r Rule) String() string {
	if r.minor == latest {
		return string(r.Level) + ":latest"
	}
	return fmt.Sprintf("%s:v1.%d", r.Level, r.minor)
}

// SameVersion reports whether two rules are of the same version.
func (r Rule) SameVersion(other Rule) bool { return r.minor == other.minor }

// Policy is what a namespace wants.
type Policy struct {
	Enforce, Audit, Warn Rule
}

// AllPrivileged reports whether the policy lets everything pass silently.
func (p Policy) AllPrivileged() bool {
	return p.Enforce.Level == Privileged && p.Audit.Level == Privileged && p.Warn.Level == Privileged
}

// LabelPrefix is what the labels of a namespace begin with that speak to us.
const LabelPrefix = "pod-security.kubernetes.io/"

// PolicyOf reads a namespace's labels. What is not said is privileged. An
// enforced level that cannot be read counts as the strictest, so that a typing
// error opens no door. Without a warn label, people are warned of what will be
// refused: enforcing comes too late for whoever applied a Deployment.
func PolicyOf(labels map[string]string) (Policy, field.ErrorList) {
	everything := Rule{Privileged, latest}
	policy := Policy{everything, everything, everything}
	var errs field.ErrorList
	said := readLabels(labels, "enforce", &policy.Enforce, Restricted, &errs)
	readLabels(labels, "audit", &policy.Audit, Privileged, &errs)
	readLabels(labels, "warn", &policy.Warn, Privileged, &errs)
	if _, ok := labels[LabelPrefix+"warn"]; said && !ok && policy.Enforce.Level.Stricter(policy.Warn.Level) {
		policy.Warn.Level = policy.Enforce.Level
		if _, ok := labels[LabelPrefix+"warn-version"]; !ok {
			policy.Warn.minor = policy.Enforce.minor
		}
	}
	return policy, errs
}

// readLabels reads a mode's two labels, and reports whether there was a level
// and it made sense.
func readLabels(labels map[string]string, mode string, rule *Rule, otherwise Level, errs *field.ErrorList) (said bool) {
	wrong := func(label, value string, err error) {
		*errs = append(*errs, field.Invalid(field.NewPath("metadata", "labels").Key(label), value, err.Error()))
	}
	if text, ok := labels[LabelPrefix+mode]; ok {
		rule.Level = Level(text)
		if _, said = strictness[rule.Level]; !said {
			rule.Level = otherwise
			wrong(LabelPrefix+mode, text, errors.New("must be one of privileged, baseline, restricted"))
		}
	}
	label := LabelPrefix + mode + "-version"
	if text, ok := labels[label]; ok {
		var err error
		if rule.minor, err = parseVersion(text); err != nil {
			wrong(label, text, err)
		}
	}
	return said
}

var versionPattern = regexp.MustCompile(`^v1\.([0-9]|[1-9][0-9]*)$`)

func parseVersion(text string) (int, error) {
	if text == "latest" {
		return latest, nil
	}
	if match := versionPattern.FindStringSubmatch(text); match != nil {
		if minor, err := strconv.Atoi(match[1]); err == nil {
			return minor, nil
		}
	}
	return latest, errors.New(`must be "latest" or "v1.x"`)
}
