package validation

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Messages that several checks share.
const (
	negative  = "must be greater than or equal to 0"
	immutable = "field is immutable"
)

// report collects errors. Its methods are the checks that recur.
type report struct{ errs field.ErrorList }

func (r *report) add(errs ...*field.Error) { r.errs = append(r.errs, errs...) }

func (r *report) invalid(at *field.Path, value any, message string) {
	r.add(field.Invalid(at, value, message))
}

// messages reports each message about one value.
func (r *report) messages(at *field.Path, value string, messages []string) {
	for _, m := range messages {
		r.invalid(at, value, m)
	}
}

// required reports an empty value and returns whether there is one.
func (r *report) required(at *field.Path, value string) bool {
	if value == "" {
		r.add(field.Required(at, ""))
	}
	return value != ""
}

// oneOf reports a value that is missing or not among those allowed.
func oneOf[T ~string](r *report, at *field.Path, value T, allowed ...T) {
	switch {
	case value == "":
		r.add(field.Required(at, ""))
	default:
		ifSet(r, at, value, allowed...)
	}
}

// ifSet reports a value that is there but not among those allowed.
func ifSet[T ~string](r *report, at *field.Path, value T, allowed ...T) {
	if value != "" && !slices.Contains(allowed, value) {
		r.add(field.NotSupported(at, value, allowed))
	}
}

func (r *report) label(at *field.Path, value string) {
	r.messages(at, value, validation.IsDNS1123Label(value))
}

func (r *report) subdomain(at *field.Path, value string) {
	r.messages(at, value, validation.IsDNS1123Subdomain(value))
}

// notNegative checks numbers by the name of their field.
func notNegative[N ~int32 | ~int64](r *report, at *field.Path, n N) {
	if n < 0 {
		r.invalid(at, int64(n), negative)
	}
}

func notNegativePointer[N ~int32 | ~int64](r *report, at *field.Path, n *N) {
	if n != nil {
		notNegative(r, at, *n)
	}
}

func (r *report) port(at *field.Path, n int32) {
	for _, m := range validation.IsValidPortNum(int(n)) {
		r.invalid(at, n, m)
	}
}

// portOrName checks a port given by number or by name.
func (r *report) portOrName(at *field.Path, p intstr.IntOrString) {
	if p.Type == intstr.String {
		r.messages(at, p.StrVal, validation.IsValidPortName(p.StrVal))
		return
	}
	for _, m := range validation.IsValidPortNum(p.IntValue()) {
		r.invalid(at, p.IntValue(), m)
	}
}

// unchanged reports a field that may not change after creation.
func (r *report) unchanged(at *field.Path, now, before any) {
	if !equality.Semantic.DeepEqual(now, before) {
		r.invalid(at, now, immutable)
	}
}

func (r *report) labels(at *field.Path, labels map[string]string) {
	r.add(metavalidation.ValidateLabels(labels, at)...)
}

func (r *report) selector(at *field.Path, s *metav1.LabelSelector) {
	r.add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at)...)
}

func (r *report) ip(at *field.Path, ip string) {
	if _, err := netip.ParseAddr(ip); err != nil && !sloppyIP(ip) {
		r.invalid(at, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
	}
}

// sloppyIP accepts the leading zeros that old objects may have.
func sloppyIP(ip string) bool {
	parts := strings.Split(ip, ".")
	for i, p := range parts {
		parts[i] = strings.TrimLeft(p, "0")
		if parts[i] == "" && p != "" {
			parts[i] = "0"
		}
	}
	_, err := netip.ParseAddr(strings.Join(parts, "."))
	return len(parts) == 4 && err == nil
}

func (r *report) cidr(at *field.Path, cidr string) {
	ip, bits, _ := strings.Cut(cidr, "/")
	if _, err := netip.ParsePrefix(cidr); err != nil {
		if _, err := netip.ParsePrefix("1.1.1.1/" + bits); err != nil || !sloppyIP(ip) {
			r.invalid(at, cidr, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
		}
	}
}

// descending checks a path that must stay below where it starts.
func (r *report) descending(at *field.Path, p string) {
	if path.IsAbs(p) {
		r.invalid(at, p, "must be a relative path")
	}
	r.noBacksteps(at, p)
}

func (r *report) noBacksteps(at *field.Path, p string) {
	if slices.Contains(strings.Split(p, "/"), "..") {
		r.invalid(at, p, "must not contain '..'")
	}
}

// quantity checks one entry of a resource list.
func (r *report) quantity(at *field.Path, name corev1.ResourceName, q resource.Quantity) {
	if q.Sign() < 0 {
		r.invalid(at, q.String(), negative)
	}
	if isWhole(name) && q.MilliValue()%1000 != 0 {
		r.invalid(at, q, "must be an integer")
	}
}

// isWhole says whether a resource is counted in whole units: objects in a
// quota, and everything that is not Kubernetes' own, such as devices.
func isWhole(name corev1.ResourceName) bool {
	switch name {
	case corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceQuotas,
		corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
		corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return isExtended(name)
}

// isExtended says whether a resource is somebody's own, such as example.com/gpu.
func isExtended(name corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	return qualified && !strings.HasSuffix(domain, "kubernetes.io") && !strings.HasPrefix(string(name), "requests.")
}

// count checks a number or percentage, such as maxUnavailable.
func (r *report) count(at *field.Path, v intstr.IntOrString) {
	if v.Type == intstr.String {
		for _, m := range validation.IsValidPercent(v.StrVal) {
			r.invalid(at, v, m)
		}
		return
	}
	notNegative(r, at, v.IntVal)
}

func (r *report) atMost100Percent(at *field.Path, v intstr.IntOrString) {
	if n, isPercent := percent(v); isPercent && n > 100 {
		r.invalid(at, v, "must not be greater than 100%")
	}
}

func percent(v intstr.IntOrString) (n int, ok bool) {
	if v.Type != intstr.String || len(validation.IsValidPercent(v.StrVal)) > 0 {
		return 0, false
	}
	_, err := fmt.Sscanf(v.StrVal, "%d%%", &n)
	return n, err == nil
}

// isZero says whether a number or percentage amounts to none.
func isZero(v intstr.IntOrString) bool {
	if n, isPercent := percent(v); isPercent {
		return n == 0
	}
	return v.IntValue() == 0
}

// deref returns what p points to, or the zero value.
func deref[T any](p *T) (value T) {
	if p != nil {
		value = *p
	}
	return value
}
