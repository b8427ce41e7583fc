package validation

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// frozen is said of the fields of a config that was marked immutable.
const frozen = "field is immutable when `immutable` is set"

// ConfigMap checks a config map.
func ConfigMap(c *corev1.ConfigMap) field.ErrorList {
	r := &report{}
	size := 0
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		at := field.NewPath("data").Key(key)
		r.messages(at, key, validation.IsConfigMapKey(key))
		if _, twice := c.BinaryData[key]; twice {
			r.invalid(at, key, "duplicate of key present in binaryData")
		}
		size += len(c.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(c.BinaryData)) {
		r.messages(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))
		size += len(c.BinaryData[key])
	}
	if size > corev1.MaxSecretSize {
		r.add(field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return r.errs
}

// ConfigMapUpdate checks a change of a config map.
func ConfigMapUpdate(c, old *corev1.ConfigMap) field.ErrorList {
	r := &report{}
	checkFrozen(r, old.Immutable, c.Immutable, map[string]bool{
		"data": reflect.DeepEqual(c.Data, old.Data), "binaryData": reflect.DeepEqual(c.BinaryData, old.BinaryData)})
	r.add(ConfigMap(c)...)
	return r.errs
}

func checkFrozen(r *report, was, is *bool, same map[string]bool) {
	if !deref(was) {
		return
	}
	if !deref(is) {
		r.add(field.Forbidden(field.NewPath("immutable"), frozen))
	}
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(same))) { // data before binaryData
		if !same[name] {
			r.add(field.Forbidden(field.NewPath(name), frozen))
		}
	}
}

// Secret checks a secret and that it holds what its type promises.
func Secret(s *corev1.Secret) field.ErrorList {
	r := &report{}
	at := field.NewPath("data")
	size := 0
	for _, key := range slices.Sorted(maps.Keys(s.Data)) {
		r.messages(at.Key(key), key, validation.IsConfigMapKey(key))
		size += len(s.Data[key])
	}
	if size > corev1.MaxSecretSize {
		r.add(field.TooLong(at, "", corev1.MaxSecretSize))
	}
	need := func(keys ...string) {
		for _, key := range keys {
			if _, has := s.Data[key]; !has {
				r.add(field.Required(at.Key(key), ""))
			}
		}
	}
	switch s.Type {
	case corev1.SecretTypeServiceAccountToken:
		if s.Annotations[corev1.ServiceAccountNameKey] == "" {
			r.add(field.Required(field.NewPath("metadata", "annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		need(corev1.DockerConfigKey)
		checkDockerConfig(r, at, s, corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		need(corev1.DockerConfigJsonKey)
		checkDockerConfig(r, at, s, corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := s.Data[corev1.BasicAuthUsernameKey]
		_, password := s.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			need(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		if len(s.Data[corev1.SSHAuthPrivateKey]) == 0 {
			r.add(field.Required(at.Key(corev1.SSHAuthPrivateKey), ""))
		}
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return r.errs
}

func checkDockerConfig(r *report, at *field.Path, s *corev1.Secret, key string) {
	if data, has := s.Data[key]; has {
		if err := json.Unmarshal(data, &map[string]any{}); err != nil {
			r.invalid(at.Key(key), "<secret contents redacted>", err.Error())
		}
	}
}

// SecretUpdate checks a change of a secret.
func SecretUpdate(s, old *corev1.Secret) field.ErrorList {
	r := &report{}
	r.unchanged(field.NewPath("type"), s.Type, old.Type)
	checkFrozen(r, old.Immutable, s.Immutable, map[string]bool{"data": reflect.DeepEqual(s.Data, old.Data)})
	r.add(Secret(s)...)
	return r.errs
}

// Namespace checks a namespace's own finalizers.
func Namespace(ns *corev1.Namespace) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec", "finalizers")
	for _, f := range ns.Spec.Finalizers {
		r.messages(at, string(f), validation.IsQualifiedName(string(f)))
		if f != corev1.FinalizerKubernetes && !strings.Contains(string(f), "/") {
			r.invalid(at, f, "name is neither a standard finalizer name nor is it fully qualified")
		}
	}
	return r.errs
}

// NamespaceStatusUpdate: the phase says whether the namespace is being deleted.
func NamespaceStatusUpdate(ns, _ *corev1.Namespace) field.ErrorList {
	r := &report{}
	at, phase := field.NewPath("status", "Phase"), ns.Status.Phase
	switch deleted := !ns.DeletionTimestamp.IsZero(); {
	case !deleted && phase != corev1.NamespaceActive:
		r.invalid(at, phase, "may only be 'Active' if `deletionTimestamp` is empty")
	case deleted && phase != corev1.NamespaceTerminating:
		r.invalid(at, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
	return r.errs
}

// Node checks a node.
func Node(n *corev1.Node) field.ErrorList {
	r := &report{}
	checkTaints(r, field.NewPath("metadata", "taints"), n.Spec.Taints)
	checkNodeResources(r, n)
	for i, cidr := range n.Spec.PodCIDRs {
		r.cidr(field.NewPath("spec", "podCIDRs").Index(i), cidr)
	}
	return r.errs
}

// NodeUpdate checks a change of a node: what its pods were addressed by stays.
func NodeUpdate(n, old *corev1.Node) field.ErrorList {
	r := &report{}
	checkNodeResources(r, n)
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if seen[a] {
			r.add(field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
		seen[a] = true
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		r.add(field.Forbidden(field.NewPath("spec", "podCIDRs"), `node updates may not change podCIDR except from "" to valid`))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		r.add(field.Forbidden(field.NewPath("spec", "providerID"), `node updates may not change providerID except from "" to valid`))
	}
	checkTaints(r, field.NewPath("metadata", "taints"), n.Spec.Taints)
	return r.errs
}

func checkNodeResources(r *report, n *corev1.Node) {
	for _, list := range []struct {
		name      string
		resources corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range sortedNames(list.resources) {
			r.quantity(field.NewPath("status", list.name, string(name)), name, list.resources[name])
		}
	}
}

// ResourceQuota checks a quota.
func ResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	r := &report{}
	at := field.NewPath("spec", "hard")
	for _, name := range sortedNames(q.Spec.Hard) {
		at := at.Key(string(name))
		messages := validation.IsQualifiedName(string(name))
		for _, m := range messages {
			r.invalid(at, name, m)
		}
		if !strings.Contains(string(name), "/") && !isQuotaResource(name) {
			if len(messages) == 0 && !standardResources[name] {
				r.invalid(at, name, "must be a standard resource type or fully qualified")
			}
			r.invalid(at, name, "must be a standard resource for quota")
		}
		r.quantity(at, name, q.Spec.Hard[name])
	}
	checkScopes(r, field.NewPath("spec"), &q.Spec)
	return r.errs
}

func isQuotaResource(name corev1.ResourceName) bool {
	s := string(name)
	return standardResources[name] && name != corev1.ResourceStorage || isHugePages(name) || strings.HasPrefix(s, "requests.hugepages-")
}

// ResourceQuotaUpdate checks a change of a quota.
func ResourceQuotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	r := &report{errs: ResourceQuota(q)}
	now, before := slices.Sorted(slices.Values(q.Spec.Scopes)), slices.Sorted(slices.Values(old.Spec.Scopes))
	if !slices.Equal(slices.Compact(now), slices.Compact(before)) {
		r.invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, immutable)
	}
	return r.errs
}

func checkLimitType(r *report, at *field.Path, item *corev1.LimitRangeItem) {
	kind := string(item.Type)
	messages := validation.IsQualifiedName(kind)
	r.messages(at.Child("type"), kind, messages)
	switch item.Type {
	case corev1.LimitTypePod, corev1.LimitTypeContainer:
	case corev1.LimitTypePersistentVolumeClaim:
		_, least := item.Min[corev1.ResourceStorage]
		if _, most := item.Max[corev1.ResourceStorage]; !least && !most {
			r.add(field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	default:
		if len(messages) == 0 && !strings.Contains(kind, "/") {
			r.invalid(at.Child("type"), kind, "must be a standard limit type or fully qualified")
		}
	}
}

// LimitRange checks that the limits of a range are in order: minimum, default
// request, default limit, maximum.
func LimitRange(l *corev1.LimitRange) field.ErrorList {
	r := &report{}
	seen := map[corev1.LimitType]bool{}
	for i := range l.Spec.Limits {
		at, item := field.NewPath("spec", "limits").Index(i), &l.Spec.Limits[i]
		if seen[item.Type] {
			r.add(field.Duplicate(at.Child("type"), item.Type))
		}
		seen[item.Type] = true
		checkLimitType(r, at, item)
		if item.Type == corev1.LimitTypePod {
			if len(item.Default) > 0 {
				r.add(field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(item.DefaultRequest) > 0 {
				r.add(field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
			ordered(r, at.Child("min"), "min value", item.Min, "max value", item.Max, item.Min)
			continue
		}
		ordered(r, at.Child("min"), "min value", item.Min, "max value", item.Max, item.Min)
		ordered(r, at.Child("defaultRequest"), "min value", item.Min, "default request value", item.DefaultRequest, item.DefaultRequest)
		ordered(r, at.Child("defaultRequest"), "default request value", item.DefaultRequest, "max value", item.Max, item.DefaultRequest)
		ordered(r, at.Child("defaultRequest"), "default request value", item.DefaultRequest, "default limit value", item.Default, item.DefaultRequest)
		ordered(r, at.Child("default"), "min value", item.Min, "default value", item.Default, item.Min)
		ordered(r, at.Child("default"), "default value", item.Default, "max value", item.Max, item.Max)
		one := resource.MustParse("1")
		for _, name := range sortedNames(item.MaxLimitRequestRatio) {
			if ratio := item.MaxLimitRequestRatio[name]; ratio.Cmp(one) < 0 {
				r.invalid(at.Child("maxLimitRequestRatio").Key(string(name)), ratio, "ratio "+ratio.String()+" is less than 1")
			}
		}
	}
	return r.errs
}

// ordered reports what is greater in the first list than in the second.
func ordered(r *report, at *field.Path, lowName string, low corev1.ResourceList, highName string, high, shown corev1.ResourceList) {
	for _, name := range sortedNames(low) {
		l := low[name]
		if h, has := high[name]; has && l.Cmp(h) > 0 {
			r.invalid(at.Key(string(name)), shown[name], lowName+" "+l.String()+" is greater than "+highName+" "+h.String())
		}
	}
}
