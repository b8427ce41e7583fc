package validation

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation"
)

// LabelName is the rule of names that become one label of a DNS name:
// namespaces, stateful sets and services.
func LabelName(name string) []string { return validation.IsDNS1123Label(name) }

// ServiceName is the rule of services: since 1.36 they may begin with a digit.
func ServiceName(name string) []string { return validation.IsDNS1123Label(name) }

// PathName is the rule of names that need only fit in a URL: roles, and their
// "system:" names.
func PathName(name string) []string { return path.IsValidPathSegmentName(name) }

// CronJobName leaves room for the time that is appended to name the jobs.
func CronJobName(name string) []string {
	messages := validation.IsDNS1123Subdomain(name)
	if len(name) > validation.DNS1035LabelMaxLength-11 {
		messages = append(messages, "must be no more than 52 characters")
	}
	return messages
}

// IPAddressName is an IP address in its canonical form.
func IPAddressName(name string) []string {
	for _, err := range validation.IsValidIP(nil, name) {
		return []string{err.Detail}
	}
	if strings.ToLower(name) != name {
		return []string{"must be a valid IP address in canonical form"}
	}
	return nil
}
