package apiserver

import "slices"

// protections are the finalizers of storage that must not go while it is in
// use. Whether it is, a controller knows, and takes them off.
var protections = map[string]string{
	"persistentvolumeclaims":  "kubernetes.io/pvc-protection",
	"persistentvolumes":       "kubernetes.io/pv-protection",
	"volumeattributesclasses": "kubernetes.io/vac-protection",
}

// admitProtection puts the finalizer on what is made.
//
// Upstream: kubernetes@v1.36 plugin/pkg/admission/storage/storageobjectinuseprotection
func admitProtection(a *admission) error {
	finalizer := protections[a.row.Plural]
	if finalizer == "" || a.old != nil || a.subresource != "" || a.row.Custom != nil {
		return nil
	}
	if has := a.obj.GetFinalizers(); !slices.Contains(has, finalizer) {
		a.obj.SetFinalizers(append(has, finalizer))
	}
	return nil
}
