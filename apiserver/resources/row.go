package resources

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is what every stored kind is: metadata plus a runtime type.
type Object interface {
	metav1.Object
	runtime.Object
}

// Row declares one resource: its names, where it is stored, what a write does
// to it and how it is printed.
type Row struct {
	Group, Version, Kind string // "apps", "v1", "Deployment"
	Plural, Singular     string // "deployments", "deployment"
	ShortNames           []string
	Categories           []string // e.g. "all"
	Namespaced           bool

	// Prefix is the etcd key prefix below /registry/, without slashes at the
	// ends: "pods", "minions", "services/specs".
	Prefix string

	// StoredAs is set when another row's kind is what lies in etcd and in the
	// watch cache (events.k8s.io Events, autoscaling/v1 autoscalers): this row
	// is then a second view of the same objects.
	StoredAs *StoredAs

	// ListKind is Kind+"List" unless a definition says otherwise.
	ListKind string

	// StoredJSON is set for kinds that are JSON in etcd whatever form is chosen
	// for the others, as upstream's are.
	StoredJSON bool
	// Read decodes what lies in etcd where that may be of another version than
	// the row's; nil means that it is not.
	Read func(data []byte) (Object, error)

	// Custom is set for rows made from a CustomResourceDefinition. Their objects
	// have no Go type: they are *unstructured.Unstructured.
	Custom *Custom

	// Deprecated is the warning that every request for this row is answered
	// with, such as "v1 Endpoints is deprecated in v1.33+; use …".
	Deprecated string

	New     func() Object         // a new zero value
	NewList func() runtime.Object // a new empty list

	// Verbs overrides the default set (create delete deletecollection get
	// list patch update watch).
	Verbs []string

	Status       bool          // has /status
	Scale        *Scale        // has /scale
	Subresources []Subresource // the others: log, exec, binding, token, …

	Strategy Strategy

	// SelectableFields are the fields a field selector may name beside
	// metadata.name and metadata.namespace.
	SelectableFields func(Object) fields.Set
	OldFields        map[string]string // names that some of them had before

	// Columns and Cells make the Table that kubectl get prints. Cells returns
	// one value per column. A nil Columns prints Name and Created At.
	Columns []metav1.TableColumnDefinition
	Cells   func(obj Object, now time.Time) []any
	// TableOrder compares objects for tables whose order is not that of names;
	// may be nil.
	TableOrder func(a, b Object) int
	// RowConditions marks rows of what is over; may be nil.
	RowConditions func(Object) []metav1.TableRowCondition
}

// Subresource is an entry of discovery. With Prepare it is an update endpoint
// like /status, which the parent package serves without knowing more; without
// it a handler is found by name.
type Subresource struct {
	Name                 string // "log"
	Group, Version, Kind string // kind of its body, e.g. "", "v1", "Binding"
	Verbs                []string

	// Prepare carries over from old all that this endpoint may not change.
	Prepare        func(obj, old Object)
	ValidateUpdate func(obj, old Object) field.ErrorList
}

// StoredAs says how a view is converted from and to the row that is stored.
// Neither func changes its argument.
type StoredAs struct {
	schema.GroupVersionResource
	From func(stored Object) Object
	To   func(view Object) Object
}

// Scale maps a kind to autoscaling/v1 Scale.
type Scale struct {
	Get func(Object) (spec, status int32, selector string)
	Set func(obj Object, replicas int32)
}

// Strategy is what a write does to one kind. Every func may be nil. The
// handler's order is: decode, Default, Prepare*, admission, Validate*, store.
type Strategy struct {
	// Default fills in unset fields as upstream's versioned defaults do. It is
	// also applied to what is read from etcd in another version of us.
	Default func(Object)

	PrepareCreate func(obj Object)      // reset status, set generation
	PrepareUpdate func(obj, old Object) // keep status, bump generation on spec change
	PrepareStatus func(obj, old Object) // keep spec and most metadata

	Validate       func(obj Object) field.ErrorList
	ValidateUpdate func(obj, old Object) field.ErrorList
	ValidateStatus func(obj, old Object) field.ErrorList
	// Warnings are sent to the client in Warning headers; old is nil for a new
	// object.
	Warnings func(obj, old Object) []string

	// NameValidation returns what is wrong with a name (e.g.
	// IsDNS1123Subdomain); nil means DNS-1123 subdomain.
	NameValidation func(name string) []string

	// StampUser records the requester in a new object (certificate requests).
	StampUser func(obj Object, name, uid string, groups []string, extra map[string][]string)

	CreateOnUpdate bool // a PUT to a missing object creates it (Lease, Event, …)
	// RequireResourceVersion refuses a PUT that names no resourceVersion.
	RequireResourceVersion bool
	// PrepareDelete is called before an object is marked or removed; it may add
	// a finalizer.
	PrepareDelete func(obj Object)
	// GracePeriod is non-nil for kinds deleted in two steps (Pod): it returns
	// the seconds between deletionTimestamp and removal; 0 removes at once.
	GracePeriod func(obj Object, options *metav1.DeleteOptions) int64
	// OrphanByDefault is upstream's default propagation for old kinds; false
	// means background.
	OrphanByDefault bool
	// NoDependents: nobody owns anything through this kind (events), so no
	// policy of propagation applies.
	NoDependents bool
	// ReturnsDeleted answers a DELETE that removed the object with the object,
	// not with a Status.
	ReturnsDeleted bool
}

// GVK returns the row's group, version and kind.
func (r *Row) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
}

// GVR returns the row's group, version and resource.
func (r *Row) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: r.Group, Version: r.Version, Resource: r.Plural}
}

// Stored reports whether the row's objects lie in etcd; the others (reviews,
// bindings) only exist while a request is answered.
func (r *Row) Stored() bool { return r.Prefix != "" }
