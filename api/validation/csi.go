package validation

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What storage drivers write about themselves, and what is written for them.
//
// Upstream: kubernetes@v1.36 pkg/apis/storage/validation/validation.go

const (
	maxDriverName     = 63
	maxNodeID         = 192
	shortestToken     = 10 * 60 // seconds
	longestToken      = 1 << 32 // seconds
	shortestRecount   = 10      // seconds
	maxParameters     = 512
	maxParametersSize = 256 << 10
)

func (r *report) driverName(at *field.Path, name string) {
	if !r.required(at, name) {
		return
	}
	if len(name) > maxDriverName {
		r.add(field.TooLong(at, "", maxDriverName))
	}
	r.messages(at, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))
}

// CSIDriver checks what a driver says about itself.
func CSIDriver(d *storagev1.CSIDriver) field.ErrorList {
	r := &report{}
	at, s := field.NewPath("spec"), &d.Spec
	if s.FSGroupPolicy != nil {
		ifSet(r, at.Child("fsGroupPolicy"), *s.FSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	}
	audiences := map[string]bool{}
	for i, t := range s.TokenRequests {
		at := at.Child("tokenRequests").Index(i)
		if audiences[t.Audience] {
			r.add(field.Duplicate(at.Child("audience"), t.Audience))
			continue
		}
		audiences[t.Audience] = true
		switch seconds := t.ExpirationSeconds; {
		case seconds == nil:
		case *seconds < shortestToken:
			r.invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration less than 10 minutes")
		case *seconds > longestToken:
			r.invalid(at.Child("expirationSeconds"), *seconds, "may not specify a duration larger than 2^32 seconds")
		}
	}
	for _, mode := range s.VolumeLifecycleModes {
		ifSet(r, at.Child("volumeLifecycleModes"), mode, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)
	}
	if period := s.NodeAllocatableUpdatePeriodSeconds; period != nil && *period < shortestRecount {
		r.invalid(at.Child("nodeAllocatableUpdatePeriodSeconds"), *period, "must be greater than or equal to 10 seconds")
	}
	return r.errs
}

// CSIDriverUpdate checks a change of a driver.
func CSIDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	r := &report{errs: CSIDriver(d)}
	r.unchanged(field.NewPath("spec", "attachedRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired)
	r.unchanged(field.NewPath("spec", "volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)
	return r.errs
}

// CSINode checks the drivers of a node.
func CSINode(n *storagev1.CSINode) field.ErrorList {
	r := &report{}
	names := map[string]bool{}
	for i, d := range n.Spec.Drivers {
		at := field.NewPath("spec", "drivers").Index(i)
		r.driverName(at.Child("name"), d.Name)
		if r.required(at.Child("nodeID"), d.NodeID) && len(d.NodeID) > maxNodeID {
			r.invalid(at.Child("nodeID"), d.NodeID, "must be 192 characters or less")
		}
		if d.Allocatable != nil {
			notNegativePointer(r, at.Child("allocatable", "count"), d.Allocatable.Count)
		}
		if names[d.Name] {
			r.add(field.Duplicate(at.Child("name"), d.Name))
		}
		names[d.Name] = true
		for j, key := range d.TopologyKeys {
			if key == "" {
				r.add(field.Required(at, key))
			}
			if slices.Contains(d.TopologyKeys[:j], key) {
				r.add(field.Duplicate(at, key))
			}
			r.messages(at, key, validation.IsQualifiedName(key))
		}
	}
	return r.errs
}

// CSINodeUpdate: of a driver that stays, only what it can allocate changes.
func CSINodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	r := &report{errs: CSINode(n)}
	for _, was := range old.Spec.Drivers {
		for _, is := range n.Spec.Drivers {
			if is.Name == was.Name {
				is.Allocatable, was.Allocatable = nil, nil
				r.unchanged(field.NewPath("spec", "drivers"), &is, &was)
			}
		}
	}
	return r.errs
}

// CSIStorageCapacity checks how much a driver says there is.
func CSIStorageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	r := &report{}
	r.selector(field.NewPath("nodeTopology"), c.NodeTopology)
	r.subdomain(field.NewPath("storageClassName"), c.StorageClassName)
	r.notNegativeQuantity(field.NewPath("capacity"), c.Capacity)
	return r.errs
}

func (r *report) notNegativeQuantity(at *field.Path, q *resource.Quantity) {
	if q != nil && q.Sign() < 0 {
		r.invalid(at, q.String(), negative)
	}
}

// CSIStorageCapacityUpdate: what was asked stays, the answer changes.
func CSIStorageCapacityUpdate(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	r := &report{}
	r.unchanged(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)
	r.unchanged(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)
	return r.errs
}

// VolumeAttributesClass checks a class of what volumes can change into.
func VolumeAttributesClass(c *storagev1.VolumeAttributesClass) field.ErrorList {
	r := &report{}
	checkProvisioner(r, field.NewPath("driverName"), c.DriverName)
	checkParameters(r, field.NewPath("parameters"), c.Parameters)
	if len(c.Parameters) == 0 {
		r.add(field.Required(field.NewPath("parameters"), "must contain at least one key/value pair"))
	}
	return r.errs
}

// VolumeAttributesClassUpdate: a class says for ever what it said once.
func VolumeAttributesClassUpdate(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	r := &report{}
	if c.DriverName != old.DriverName {
		r.add(field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
	}
	if !maps.Equal(c.Parameters, old.Parameters) {
		r.add(field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
	}
	r.add(VolumeAttributesClass(c)...)
	return r.errs
}

func checkProvisioner(r *report, at *field.Path, name string) {
	if r.required(at, name) {
		name := strings.ToLower(name)
		r.messages(at, name, validation.IsQualifiedName(name))
	}
}

func checkParameters(r *report, at *field.Path, parameters map[string]string) {
	if len(parameters) > maxParameters {
		r.add(field.TooLong(at, "", maxParameters))
		return
	}
	size := 0
	for key, value := range parameters {
		if key == "" {
			r.invalid(at, key, "field can not be empty.")
		}
		size += len(key) + len(value)
	}
	if size > maxParametersSize {
		r.add(field.TooLong(at, "", maxParametersSize))
	}
}

// checkTopologies checks where a storage class's volumes may be.
func checkTopologies(r *report, at *field.Path, topologies []corev1.TopologySelectorTerm) {
	for i, t := range topologies {
		at := at.Index(i).Child("matchLabelExpressions")
		keys := map[string]bool{}
		for j, e := range t.MatchLabelExpressions {
			at := at.Index(j)
			if len(e.Values) == 0 {
				r.add(field.Required(at.Child("values"), ""))
			}
			for k, value := range e.Values {
				if slices.Contains(e.Values[:k], value) {
					r.add(field.Duplicate(at.Child("values").Index(k), value))
				}
			}
			r.labelName(at.Child("key"), e.Key)
			if keys[e.Key] {
				r.add(field.Duplicate(at.Child("key"), e.Key))
			}
			keys[e.Key] = true
		}
		for _, earlier := range topologies[:i] {
			if equality.Semantic.DeepEqual(earlier, t) {
				r.add(field.Duplicate(at, ""))
			}
		}
	}
}
