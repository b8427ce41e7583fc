package apiserver

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/apiserver/resources"
)

// forbidPrivileged refuses privileged containers, in pods and in templates of
// pods, where --allow-privileged does not allow them. It is older than
// PodSecurity and knows no namespaces.
//
// Upstream: kubernetes@v1.36 pkg/apis/core/validation/validation.go ValidateSecurityContext
func (s *Server) forbidPrivileged(q *request, obj resources.Object) (errs field.ErrorList) {
	if s.cfg.AllowPrivileged || q.subresource != "" && q.subresource != "ephemeralcontainers" {
		return nil
	}
	_, spec := podSpecOf(obj)
	if spec == nil {
		return nil
	}
	at := field.NewPath("spec", "template", "spec")
	switch obj.(type) {
	case *corev1.Pod:
		at = field.NewPath("spec")
	case *corev1.PodTemplate:
		at = field.NewPath("template", "spec")
	case *batchv1.CronJob:
		at = field.NewPath("spec", "jobTemplate", "spec", "template", "spec")
	}
	number := map[string]int{}
	eachContainer(spec, func(where string, c *corev1.Container) {
		if c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged {
			errs = append(errs, field.Forbidden(at.Child(where).Index(number[where]).Child("securityContext", "privileged"), "disallowed by cluster policy"))
		}
		number[where]++
	})
	return errs
}
