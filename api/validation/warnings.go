package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings are what is accepted and still likely a mistake: names that will
// not do as a hostname, definitions that hide others, fields and labels that
// are on their way out. kubectl prints them; nothing else happens.
//
// Upstream: kubernetes@v1.36 pkg/api/pod/warnings.go

// advice collects warnings.
type advice struct{ list []string }

func (a *advice) say(at *field.Path, format string, args ...any) {
	a.list = append(a.list, at.String()+": "+fmt.Sprintf(format, args...))
}

func (a *advice) ip(at *field.Path, ip string) {
	a.list = append(a.list, validation.GetWarningsForIP(at, ip)...)
}

// PodWarnings are about a new pod.
func PodWarnings(p *corev1.Pod) []string {
	a := &advice{}
	if messages := validation.IsDNS1123Label(p.Name); len(messages) > 0 {
		a.say(field.NewPath("metadata", "name"), "this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", messages)
	}
	a.pod(nil, &p.Spec, p.Annotations)
	return a.list
}

// TemplateWarnings are about what controllers make pods from.
func TemplateWarnings(at *field.Path, t *corev1.PodTemplateSpec) []string {
	a := &advice{}
	if t != nil {
		a.pod(at, &t.Spec, t.Annotations)
	}
	return a.list
}

// OwnerNameWarnings are about a name from which names of pods are made.
func OwnerNameWarnings(name string) []string {
	a := &advice{}
	if messages := validation.IsDNS1123Label(name); len(messages) > 0 {
		a.say(field.NewPath("metadata", "name"), "this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", messages)
	}
	return a.list
}

func (a *advice) pod(root *field.Path, s *corev1.PodSpec, annotations map[string]string) {
	at := root.Child("spec")
	a.nodeLabels(at, s)
	a.spread(at.Child("topologySpreadConstraints"), s.TopologySpreadConstraints)
	a.annotations(root.Child("metadata", "annotations"), s, annotations)
	for i := range s.Volumes {
		a.volume(at.Child("volumes").Index(i), &s.Volumes[i])
	}
	for i := range s.Volumes {
		a.overlaps(&s.Volumes[i])
	}
	for i, alias := range s.HostAliases {
		if slices.ContainsFunc(s.HostAliases[:i], func(earlier corev1.HostAlias) bool { return earlier.IP == alias.IP }) {
			a.say(at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", alias.IP)
		}
	}
	for i, secret := range s.ImagePullSecrets {
		if slices.Contains(s.ImagePullSecrets[:i], secret) {
			a.say(at.Child("imagePullSecrets").Index(i).Child("name"), "duplicate name %q", secret.Name)
		}
	}
	for i, secret := range s.ImagePullSecrets {
		if secret.Name == "" {
			a.say(at.Child("imagePullSecrets").Index(i).Child("name"), "invalid empty name %q", "")
		}
	}
	a.fractions(at.Child("overhead"), s.Overhead)
	a.containers(at, s)
	if grace := s.TerminationGracePeriodSeconds; grace != nil && *grace < 0 {
		a.say(at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if affinity := s.Affinity; affinity != nil {
		at := at.Child("affinity")
		if p := affinity.PodAffinity; p != nil {
			a.podTerms(at.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if p := affinity.PodAntiAffinity; p != nil {
			a.podTerms(at.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	if s.DNSConfig != nil {
		for i, ip := range s.DNSConfig.Nameservers {
			a.ip(at.Child("dnsConfig", "nameservers").Index(i), ip)
		}
	}
	for i, alias := range s.HostAliases {
		a.ip(at.Child("hostAliases").Index(i).Child("ip"), alias.IP)
	}
}

// oldNodeLabels are labels of nodes under names they have no more.
var oldNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  `deprecated since v1.9`,
	"scheduler.alpha.kubernetes.io/preferAvoidPods": `deprecated since v1.22; use Taints and Tolerations instead`,
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

func (a *advice) nodeLabels(at *field.Path, s *corev1.PodSpec) {
	for _, key := range sortedKeys(s.NodeSelector) {
		if message, old := oldNodeLabels[key]; old {
			a.say(at.Child("nodeSelector").Key(key), "%s", message)
		}
	}
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil {
		return
	}
	at, n := at.Child("affinity", "nodeAffinity"), s.Affinity.NodeAffinity
	if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		a.nodeTerms(at.Child(required, "nodeSelectorTerms"), n.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms)
	}
	for i, term := range n.PreferredDuringSchedulingIgnoredDuringExecution {
		at := at.Child(preferred).Index(i).Child("preference")
		for j, e := range term.Preference.MatchExpressions {
			a.nodeExpression(at.Child("matchExpressions").Index(j), e)
			for k, value := range e.Values { // of a mere preference, a bad value is no error
				for _, message := range validation.IsValidLabelValue(value) {
					a.say(at.Child("matchExpressions").Index(j).Child("values").Index(k), "%s is invalid, %s", value, message)
				}
			}
		}
	}
}

func (a *advice) nodeTerms(at *field.Path, terms []corev1.NodeSelectorTerm) {
	for i, term := range terms {
		for j, e := range term.MatchExpressions {
			a.nodeExpression(at.Index(i).Child("matchExpressions").Index(j), e)
		}
	}
}

func (a *advice) nodeExpression(at *field.Path, e corev1.NodeSelectorRequirement) {
	if message, old := oldNodeLabels[e.Key]; old {
		a.say(at.Child("key"), "%s is %s", e.Key, message)
	}
}

const matchesNothing = "a null labelSelector results in matching no pod"

func (a *advice) spread(at *field.Path, constraints []corev1.TopologySpreadConstraint) {
	for i, c := range constraints {
		if message, old := oldNodeLabels[c.TopologyKey]; old {
			a.say(at.Index(i).Child("topologyKey"), "%s is %s", c.TopologyKey, message)
		}
		if c.LabelSelector == nil {
			a.say(at.Index(i).Child("labelSelector"), matchesNothing)
		}
	}
}

func (a *advice) podTerms(at *field.Path, must []corev1.PodAffinityTerm, should []corev1.WeightedPodAffinityTerm) {
	for i, term := range must {
		if term.LabelSelector == nil {
			a.say(at.Child(required).Index(i).Child("labelSelector"), matchesNothing)
		}
	}
	for i, term := range should {
		if term.PodAffinityTerm.LabelSelector == nil {
			a.say(at.Child(preferred).Index(i).Child("podAffinityTerm", "labelSelector"), matchesNothing)
		}
	}
}

const (
	useSysctls = `non-functional in v1.11+; use the "sysctls" field instead`
	useSeccomp = `non-functional in v1.27+; use the "seccompProfile" field instead`
)

// annotations are from times when there was no field.
func (a *advice) annotations(at *field.Path, s *corev1.PodSpec, annotations map[string]string) {
	for _, old := range []struct{ key, message string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", useSysctls},
		{"security.alpha.kubernetes.io/unsafe-sysctls", useSysctls},
	} {
		if _, there := annotations[old.key]; there {
			a.say(at.Key(old.key), "%s", old.message)
		}
	}
	if _, there := annotations[corev1.SeccompPodAnnotationKey]; there && (s.SecurityContext == nil || s.SecurityContext.SeccompProfile == nil) {
		a.say(at.Key(corev1.SeccompPodAnnotationKey), "%s", useSeccomp)
	}
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		key := corev1.SeccompContainerAnnotationKeyPrefix + c.Name
		if _, there := annotations[key]; there && (c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil) {
			a.say(at.Key(key), "%s", useSeccomp)
		}
	}
}

func (a *advice) volume(at *field.Path, v *corev1.Volume) {
	for _, old := range []struct {
		name, message string
		used          bool
	}{
		{"photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", v.PhotonPersistentDisk != nil},
		{"gitRepo", "deprecated in v1.11, and disabled by default in v1.33+", v.GitRepo != nil},
		{"scaleIO", "deprecated in v1.16, non-functional in v1.22+", v.ScaleIO != nil},
		{"flocker", "deprecated in v1.22, non-functional in v1.25+", v.Flocker != nil},
		{"storageOS", "deprecated in v1.22, non-functional in v1.25+", v.StorageOS != nil},
		{"quobyte", "deprecated in v1.22, non-functional in v1.25+", v.Quobyte != nil},
		{"glusterfs", "deprecated in v1.25, non-functional in v1.26+", v.Glusterfs != nil},
		{"cephfs", "deprecated in v1.28, non-functional in v1.31+", v.CephFS != nil},
		{"rbd", "deprecated in v1.28, non-functional in v1.31+", v.RBD != nil},
	} {
		if old.used {
			a.say(at.Child(old.name), "%s", old.message)
		}
	}
	if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
		a.claim(at.Child("ephemeral", "volumeClaimTemplate", "spec"), &v.Ephemeral.VolumeClaimTemplate.Spec)
	}
}

// fractions: memory is counted in whole bytes, though "100m" is a quantity.
func (a *advice) fractions(at *field.Path, list corev1.ResourceList, names ...corev1.ResourceName) {
	if names == nil {
		names = []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	}
	for _, name := range names {
		if q := list[name]; q.MilliValue()%1000 != 0 {
			a.say(at.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
}

func (a *advice) claim(at *field.Path, s *corev1.PersistentVolumeClaimSpec) {
	a.fractions(at.Child("resources", "requests"), s.Resources.Requests, corev1.ResourceStorage)
	a.fractions(at.Child("resources", "limits"), s.Resources.Limits, corev1.ResourceStorage)
}

// file is a path in a volume and where it comes from.
type file struct{ path, source string }

func (f file) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

// overlaps: of two files with one path the kubelet writes one; a path below a
// file cannot be written at all.
func (a *advice) overlaps(v *corev1.Volume) {
	kind, files := "Projected", []file(nil)
	switch {
	case v.ConfigMap != nil:
		kind, files = fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), keyFiles(v.ConfigMap.Items, "")
	case v.Secret != nil:
		kind, files = fmt.Sprintf("Secret %q", v.Secret.SecretName), keyFiles(v.Secret.Items, "")
	case v.DownwardAPI != nil:
		kind, files = "DownwardAPI", downwardFiles(v.DownwardAPI.Items, "")
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			switch {
			case s == (corev1.VolumeProjection{}):
				a.list = append(a.list, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
			case s.ConfigMap != nil:
				files = append(files, keyFiles(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))...)
			case s.Secret != nil:
				files = append(files, keyFiles(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))...)
			case s.DownwardAPI != nil:
				files = append(files, downwardFiles(s.DownwardAPI.Items, "DownwardAPI")...)
			case s.ServiceAccountToken != nil:
				files = append(files, file{s.ServiceAccountToken.Path, "ServiceAccountToken"})
			}
		}
	}
	for i := range files {
		files[i].path = strings.TrimRight(files[i].path, "/")
		for _, earlier := range files[:i] {
			below := strings.HasPrefix(earlier.path+"/", files[i].path+"/") || strings.HasPrefix(files[i].path+"/", earlier.path+"/")
			if below && files[i].path != "" && earlier.path != "" {
				a.list = append(a.list, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", v.Name, kind, files[i], earlier))
			}
		}
	}
}

func keyFiles(items []corev1.KeyToPath, source string) []file {
	var out []file
	for _, item := range items {
		out = append(out, file{item.Path, source})
	}
	return out
}

func downwardFiles(items []corev1.DownwardAPIVolumeFile, source string) []file {
	var out []file
	for _, item := range items {
		out = append(out, file{item.Path, source})
	}
	return out
}
