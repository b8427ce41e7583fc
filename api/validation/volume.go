package validation

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const fileMode = "must be a number between 0 and 0777 (octal), both inclusive"

// checkVolumes returns the volumes that are in order, by name.
func checkVolumes(r *report, at *field.Path, volumes []corev1.Volume) map[string]corev1.VolumeSource {
	good := map[string]corev1.VolumeSource{}
	for i := range volumes {
		at, v := at.Index(i), &volumes[i]
		before := len(r.errs)
		checkVolumeSource(r, at, &v.VolumeSource)
		if r.required(at.Child("name"), v.Name) {
			r.label(at.Child("name"), v.Name)
		}
		if _, taken := good[v.Name]; taken {
			r.add(field.Duplicate(at.Child("name"), v.Name))
		}
		if len(r.errs) == before {
			good[v.Name] = v.VolumeSource
		}
	}
	return good
}

// checkVolumeSource checks that there is one source, and what can be wrong
// with those that pods really use.
//
// Simplified: sources of drivers that no longer exist are not looked into.
func checkVolumeSource(r *report, at *field.Path, s *corev1.VolumeSource) {
	names := setFields(s)
	if s.EmptyDir != nil && names[0] != "emptyDir" {
		names[1] = names[0] // upstream looks at emptyDir first
	}
	if len(names) == 0 {
		r.add(field.Required(at, "must specify a volume type"))
	}
	for _, name := range names[min(1, len(names)):] {
		r.add(field.Forbidden(at.Child(name), "may not specify more than 1 volume type"))
	}
	if e := s.EmptyDir; e != nil && e.SizeLimit != nil && e.SizeLimit.Sign() < 0 {
		r.add(field.Forbidden(at.Child("emptyDir", "sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	if h := s.HostPath; h != nil {
		if r.required(at.Child("hostPath", "path"), h.Path) {
			r.noBacksteps(at.Child("hostPath", "path"), h.Path)
		}
		ifSet(r, at.Child("hostPath", "type"), deref(h.Type), corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev,
			corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)
	}
	if c := s.ConfigMap; c != nil {
		r.required(at.Child("configMap", "name"), c.Name)
		checkFiles(r, at.Child("configMap"), c.DefaultMode, c.Items)
	}
	if c := s.Secret; c != nil {
		r.required(at.Child("secret", "secretName"), c.SecretName)
		checkFiles(r, at.Child("secret"), c.DefaultMode, c.Items)
	}
	if p := s.PersistentVolumeClaim; p != nil {
		r.required(at.Child("persistentVolumeClaim", "claimName"), p.ClaimName)
	}
	if n := s.NFS; n != nil {
		r.required(at.Child("nfs", "server"), n.Server)
		if r.required(at.Child("nfs", "path"), n.Path) && !strings.HasPrefix(n.Path, "/") {
			r.invalid(at.Child("nfs", "path"), n.Path, "must be an absolute path")
		}
	}
	if d := s.DownwardAPI; d != nil {
		checkMode(r, at.Child("downwardAPI", "defaultMode"), d.DefaultMode)
		for i := range d.Items {
			checkDownwardFile(r, at.Child("downwardAPI"), &d.Items[i]) // upstream does not say which
		}
	}
	if p := s.Projected; p != nil {
		checkProjected(r, at.Child("projected"), p)
	}
	if c := s.CSI; c != nil {
		r.required(at.Child("csi", "driver"), c.Driver)
	}
	if e := s.Ephemeral; e != nil {
		if e.VolumeClaimTemplate == nil {
			r.add(field.Required(at.Child("ephemeral", "volumeClaimTemplate"), ""))
		} else {
			checkClaimSpec(r, at.Child("ephemeral", "volumeClaimTemplate", "spec"), &e.VolumeClaimTemplate.Spec)
		}
	}
}

// setFields returns the JSON names of a struct's pointers that are not nil.
func setFields(s any) []string {
	var names []string
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Pointer && !f.IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			names = append(names, name)
		}
	}
	return names
}

func checkFiles(r *report, at *field.Path, mode *int32, items []corev1.KeyToPath) {
	checkMode(r, at.Child("defaultMode"), mode)
	for i, item := range items {
		at := at.Child("items").Index(i)
		r.required(at.Child("key"), item.Key)
		r.required(at.Child("path"), item.Path)
		checkFilePath(r, at.Child("path"), item.Path)
		checkMode(r, at.Child("mode"), item.Mode)
	}
}

func checkMode(r *report, at *field.Path, mode *int32) {
	if mode != nil && (*mode < 0 || *mode > 0o777) {
		r.invalid(at, *mode, fileMode)
	}
}

// checkFilePath: names that begin with ".." are the kubelet's own.
func checkFilePath(r *report, at *field.Path, p string) {
	r.descending(at, p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		r.invalid(at, p, "must not start with '..'")
	}
}

func checkProjected(r *report, projected *field.Path, p *corev1.ProjectedVolumeSource) {
	at := projected
	checkMode(r, at.Child("defaultMode"), p.DefaultMode)
	for i := range p.Sources {
		at, s := at.Child("sources").Index(i), &p.Sources[i]
		if len(setFields(s)) > 1 {
			r.add(field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
		if c := s.ConfigMap; c != nil {
			r.required(at.Child("configMap", "name"), c.Name)
			checkFiles(r, at.Child("configMap"), nil, c.Items)
		}
		if c := s.Secret; c != nil {
			r.required(at.Child("secret", "name"), c.Name)
			checkFiles(r, at.Child("secret"), nil, c.Items)
		}
		if d := s.DownwardAPI; d != nil {
			for j := range d.Items {
				checkDownwardFile(r, at.Child("downwardAPI"), &d.Items[j])
			}
		}
		if t := s.ServiceAccountToken; t != nil {
			at := at.Child("serviceAccountToken")
			switch seconds := deref(t.ExpirationSeconds); {
			case seconds < 10*60:
				r.invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes")
			case seconds > 1<<32:
				r.invalid(at.Child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds")
			}
			if path := projected.Child("path"); r.required(path, t.Path) { // where upstream looks for it
				checkFilePath(r, path, t.Path)
			}
		}
	}
}

// The fields of a pod that its containers may learn, by environment or file.
var (
	envFields = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
		"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}
	fileFields = []string{"metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"}
	resources  = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
		"requests.cpu", "requests.ephemeral-storage", "requests.memory"}
)

func checkDownwardFile(r *report, at *field.Path, f *corev1.DownwardAPIVolumeFile) {
	r.required(at.Child("path"), f.Path)
	checkFilePath(r, at.Child("path"), f.Path)
	checkMode(r, at.Child("mode"), f.Mode)
	switch {
	case f.FieldRef != nil && f.ResourceFieldRef != nil:
		r.invalid(at, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
	case f.FieldRef != nil:
		checkFieldRef(r, at.Child("fieldRef"), f.FieldRef, fileFields)
	case f.ResourceFieldRef != nil:
		checkResourceRef(r, at.Child("resourceFieldRef"), f.ResourceFieldRef, true)
	default:
		r.add(field.Required(at, "one of fieldRef and resourceFieldRef is required"))
	}
}

func checkFieldRef(r *report, at *field.Path, ref *corev1.ObjectFieldSelector, allowed []string) {
	if !r.required(at.Child("apiVersion"), ref.APIVersion) || !r.required(at.Child("fieldPath"), ref.FieldPath) {
		return
	}
	path, key, subscripted := strings.Cut(ref.FieldPath, "['")
	key, closed := strings.CutSuffix(key, "']")
	switch {
	case subscripted && closed && path == "metadata.annotations":
		r.messages(at, key, validation.IsQualifiedName(strings.ToLower(key)))
	case subscripted && closed && path == "metadata.labels":
		r.messages(at, key, validation.IsQualifiedName(key))
	case subscripted && closed:
		r.invalid(at, path, "does not support subscript")
	case !slices.Contains(envFields, path) && !slices.Contains(fileFields, path) && !slices.Contains(otherFields, path):
		r.invalid(at.Child("fieldPath"), path, "error converting fieldPath: field label not supported: "+path)
	case !slices.Contains(allowed, path):
		r.add(field.NotSupported(at.Child("fieldPath"), path, allowed))
	}
}

// otherFields have a label but are exposed to no container.
var otherFields = []string{"spec.restartPolicy", "spec.schedulerName", "status.phase", "spec.host"}

func checkResourceRef(r *report, at *field.Path, ref *corev1.ResourceFieldSelector, file bool) {
	known := slices.Contains(resources, ref.Resource) ||
		strings.HasPrefix(ref.Resource, "limits."+corev1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(ref.Resource, "requests."+corev1.ResourceHugePagesPrefix)
	switch {
	case file && ref.ContainerName == "":
		r.add(field.Required(at.Child("containerName"), ""))
	case ref.Resource == "":
		r.add(field.Required(at.Child("resource"), ""))
	case !known:
		r.add(field.NotSupported(at.Child("resource"), ref.Resource, resources))
	}
}

// mounts checks where a container sees volumes, as files and as devices.
func (c *containerCheck) mounts(at *field.Path, k *corev1.Container) {
	paths := map[string]bool{}
	for i := range k.VolumeMounts {
		mounts, m := at.Child("volumeMounts"), &k.VolumeMounts[i]
		at := mounts.Index(i)
		c.required(at.Child("name"), m.Name)
		if _, there := c.volumes[m.Name]; !there {
			c.add(field.NotFound(at.Child("name"), m.Name))
		}
		c.required(at.Child("mountPath"), m.MountPath)
		if paths[m.MountPath] {
			c.invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		paths[m.MountPath] = true
		if m.SubPath != "" {
			c.descending(mounts.Child("subPath"), m.SubPath)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				c.invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			c.descending(mounts.Child("subPathExpr"), m.SubPathExpr)
		}
		c.propagation(mounts.Child("mountPropagation"), m.MountPropagation, k)
	}
	c.devices(at.Child("volumeDevices"), k, paths)
}

func (c *containerCheck) propagation(at *field.Path, p *corev1.MountPropagationMode, k *corev1.Container) {
	if p == nil {
		return
	}
	ifSet(c.report, at, *p, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	privileged := k.SecurityContext != nil && deref(k.SecurityContext.Privileged)
	if *p == corev1.MountPropagationBidirectional && !privileged {
		c.add(field.Forbidden(at, "Bidirectional mount propagation is available only to privileged containers"))
	}
}

func (c *containerCheck) devices(at *field.Path, k *corev1.Container, mounted map[string]bool) {
	paths := map[string]bool{}
	for i, d := range k.VolumeDevices {
		at := at.Index(i)
		c.required(at.Child("name"), d.Name)
		switch v, there := c.volumes[d.Name]; {
		case !there:
			c.add(field.NotFound(at.Child("name"), d.Name))
		case v.PersistentVolumeClaim == nil && v.Ephemeral == nil:
			c.invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		c.required(at.Child("devicePath"), d.DevicePath)
		switch {
		case paths[d.DevicePath]:
			c.invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
		case mounted[d.DevicePath]:
			c.invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
		case slices.Contains(strings.Split(d.DevicePath, "/"), ".."):
			c.invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')")
		}
		paths[d.DevicePath] = true
	}
}
