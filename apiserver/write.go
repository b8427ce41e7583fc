package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

const (
	// A generated name is base plus five random letters, 63 in all at most.
	generatedSuffix  = 5
	maxGeneratedBase = 63 - generatedSuffix
	// generateTries is how often a generated name may turn out to be taken.
	generateTries = 8
	// allocateTries is how often an allocation may lose a race.
	allocateTries = 16
)

// create answers POST on a collection.
func (s *Server) create(q *request) error {
	obj, err := q.decodeBody()
	if err != nil {
		return err
	}
	item, err := s.createObject(q, obj)
	if err != nil {
		return err
	}
	return q.sendItem(http.StatusCreated, item)
}

// createObject takes a decoded object through everything that comes before it
// is stored, and stores it.
func (s *Server) createObject(q *request, obj resources.Object) (*storage.Item, error) {
	strategy := &q.row.Strategy
	if q.row.Custom != nil && q.row.Custom.Terminating {
		return nil, apierrors.NewForbidden(q.row.GVR().GroupResource(), obj.GetName(), errors.New("create not allowed while custom resource definition is terminating"))
	}
	if err := q.newMetadata(obj); err != nil {
		return nil, err
	}
	if strategy.Default != nil {
		strategy.Default(obj)
	}
	s.fields.created(q, obj) // what is filled in from here on is nobody's
	if strategy.PrepareCreate != nil {
		strategy.PrepareCreate(obj)
	}
	if strategy.StampUser != nil {
		strategy.StampUser(obj, q.user.name, q.user.uid, q.user.groups, q.user.extra)
	}
	if err := s.admit(q, obj, nil); err != nil {
		return nil, err
	}
	if err := q.invalid(obj, append(q.validateNew(obj), s.forbidPrivileged(q, obj)...)); err != nil {
		return nil, err
	}
	if err := s.admitValid(q, obj, nil); err != nil {
		return nil, err
	}
	if strategy.Warnings != nil {
		for _, warning := range strategy.Warnings(obj, nil) {
			q.warn(warning)
		}
	}
	return s.storeNew(q, obj)
}

// storeNew stores an object; a name we generated may be tried again.
func (s *Server) storeNew(q *request, obj resources.Object) (*storage.Item, error) {
	defer q.settle()
	for try := 1; ; try++ {
		key := storage.Key(obj.GetNamespace(), obj.GetName())
		stored, also, err := s.allocate(q, q.stored(obj), nil)
		if err != nil {
			return nil, err
		}
		charged, err := s.charge(q, obj, nil)
		if err != nil {
			return nil, err
		}
		also = append(also, charged...)
		if q.options.dryRun {
			if q.table.Cached(key) != nil {
				return nil, apierrors.NewAlreadyExists(q.row.GVR().GroupResource(), obj.GetName())
			}
			return storage.Draft(q.table.Row(), key, stored, 0)
		}
		if q.inNamespace > 0 {
			also = append(also, storage.Also{Table: s.tableOf("", "namespaces"), Key: q.namespace, Only: true, IfRevision: q.inNamespace})
		}
		item, err := q.table.Create(q.Context(), key, stored, also...)
		switch {
		case errors.Is(err, storage.ErrAlsoConflict) && try < allocateTries:
			if q.inNamespace > 0 {
				if err := s.lookAtNamespace(q, obj.GetName()); err != nil {
					return nil, err
				}
			}
		case apierrors.IsAlreadyExists(err) && q.generated && try < generateTries:
			obj.SetName(generateName(obj.GetGenerateName()))
		default:
			return item, err
		}
	}
}

// stored is the object in the form in which its table keeps it.
func (q *request) stored(obj resources.Object) resources.Object {
	if q.row.StoredAs == nil {
		return obj
	}
	return q.row.StoredAs.To(obj)
}

// newMetadata checks and fills what the server says about a new object.
func (q *request) newMetadata(obj resources.Object) error {
	if err := q.sameNamespace(obj); err != nil {
		return err
	}
	if q.name != "" && obj.GetName() == "" {
		obj.SetName(q.name)
	}
	if v := obj.GetResourceVersion(); v != "" && v != "0" {
		return errors.New("resourceVersion should not be set on objects to be created")
	}
	if obj.GetName() == "" && obj.GetGenerateName() != "" {
		obj.SetName(generateName(obj.GetGenerateName()))
		q.generated = true
	}
	obj.SetUID(types.UID(uuid.NewString()))
	obj.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	obj.SetSelfLink("")
	return nil
}

// sameNamespace puts an object into the namespace of the path, which it may
// not contradict.
func (q *request) sameNamespace(obj resources.Object) error {
	if !q.row.Namespaced {
		obj.SetNamespace("")
		return nil
	}
	if obj.GetNamespace() == "" {
		obj.SetNamespace(q.namespace)
	}
	if obj.GetNamespace() != q.namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

func generateName(base string) string {
	if len(base) > maxGeneratedBase {
		base = base[:maxGeneratedBase]
	}
	return base + rand.String(generatedSuffix)
}

// validateNew says what is wrong with a new object.
func (q *request) validateNew(obj resources.Object) field.ErrorList {
	check := utilvalidation.IsDNS1123Subdomain
	if q.row.Strategy.NameValidation != nil {
		check = q.row.Strategy.NameValidation
	}
	name := func(name string, prefix bool) []string {
		if prefix { // of a generated name: what comes after will be fine
			name = maskTrailingDash(name)
		}
		return check(name)
	}
	errs := validation.ValidateObjectMetaAccessor(obj, q.row.Namespaced, name, field.NewPath("metadata"))
	for i, finalizer := range obj.GetFinalizers() {
		if q.row.Custom == nil && !strings.Contains(finalizer, "/") && finalizer != string(corev1.FinalizerKubernetes) && !isCollectorFinalizer(finalizer) {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "finalizers").Index(i), finalizer, "name is neither a standard finalizer name nor is it fully qualified"))
		}
	}
	if q.row.Strategy.Validate != nil {
		errs = append(errs, q.row.Strategy.Validate(obj)...)
	}
	return errs
}

func maskTrailingDash(name string) string {
	if n := len(name); n > 1 && name[n-1] == '-' {
		return name[:n-2] + "a"
	}
	return name
}

// invalid makes the 422 of a list of errors.
func (q *request) invalid(obj resources.Object, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	kind := q.row.GVK().GroupKind()
	if q.row.StoredAs != nil { // upstream checks what is stored
		kind.Group = q.row.StoredAs.Group
	}
	return apierrors.NewInvalid(kind, obj.GetName(), errs)
}

// update answers PUT on an object or one of its subresources.
func (s *Server) update(q *request) error {
	obj, err := q.decodeBody()
	if err != nil {
		return err
	}
	if err := q.sameNamespace(obj); err != nil {
		return err
	}
	if err := q.sameName(obj); err != nil {
		return err
	}
	item, err := s.updateObject(q, func(resources.Object) (resources.Object, error) {
		return obj.DeepCopyObject().(resources.Object), nil
	})
	if apierrors.IsNotFound(err) && q.row.Strategy.CreateOnUpdate && q.subresource == "" && obj.GetUID() == "" {
		if obj.GetResourceVersion() != "" && obj.GetResourceVersion() != "0" {
			return q.conflict(errModified)
		}
		obj.SetResourceVersion("")
		if item, err = s.createObject(q, obj); err == nil {
			return q.sendItem(http.StatusCreated, item)
		}
	}
	if err != nil {
		return q.named(err)
	}
	return q.sendItem(http.StatusOK, item)
}

// sameName refuses a body that is about something else than the path.
func (q *request) sameName(obj metav1.Object) error {
	switch obj.GetName() {
	case q.name:
		return nil
	case "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", q.name))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), q.name))
}

// errModified is what optimistic locking says to the loser.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

func (q *request) conflict(err error) error {
	return apierrors.NewConflict(q.row.GVR().GroupResource(), q.name, err)
}

// updateObject changes an object by a function of its present state. The
// function may be called again, with a newer state, if somebody else wrote in
// between; it fails for good if the new object insists on a resourceVersion
// that is gone.
func (s *Server) updateObject(q *request, change func(old resources.Object) (resources.Object, error)) (*storage.Item, error) {
	var last resources.Object // the object's last state, if the update removed it
	try := func(current *storage.Item) (*storage.Change, error) {
		shown, err := current.As(q.row)
		if err != nil {
			return nil, err
		}
		old, err := shown.Object()
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		obj, err := change(old)
		if err != nil {
			return nil, err
		}
		planned, err := s.planUpdate(q, current, obj, old)
		if last = nil; err == nil && planned.Object == nil {
			last = obj
		}
		return planned, err
	}
	item, err := q.commit(q.key(), try)
	if err == nil && last != nil {
		return storage.Draft(q.table.Row(), q.key(), q.stored(last), item.Revision)
	}
	return item, err
}

// commit lets the table try a change, or, for a dry run, only pretends.
func (q *request) commit(key string, try func(*storage.Item) (*storage.Change, error)) (*storage.Item, error) {
	if q.options.dryRun {
		current, err := q.table.Get(q.Context(), key, "")
		if err != nil {
			return nil, err
		}
		planned, err := try(current)
		if err != nil || planned.Object == nil {
			return current, err
		}
		return storage.Draft(q.table.Row(), key, planned.Object, current.Revision)
	}
	defer q.settle()
	for tries := 1; ; tries++ {
		item, err := q.table.Update(q.Context(), key, try)
		if !errors.Is(err, storage.ErrAlsoConflict) || tries == allocateTries {
			return item, err
		}
	}
}

// planUpdate takes a changed object through everything that comes before it is
// stored.
func (s *Server) planUpdate(q *request, current *storage.Item, obj, old resources.Object) (*storage.Change, error) {
	if err := q.keepMetadata(obj, old); err != nil {
		return nil, err
	}
	if q.row.Strategy.Default != nil {
		q.row.Strategy.Default(obj)
	}
	endpoint := q.endpoint()
	if endpoint.prepare != nil {
		endpoint.prepare(obj, old)
	}
	if err := s.admit(q, obj, old); err != nil {
		return nil, err
	}
	s.fields.updated(q, obj, old)
	errs := validation.ValidateObjectMetaAccessor(obj, q.row.Namespaced, anyName, field.NewPath("metadata"))
	errs = append(errs, validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))...)
	errs = append(errs, s.forbidPrivileged(q, obj)...)
	if endpoint.validate != nil {
		errs = append(errs, endpoint.validate(obj, old)...)
	}
	if err := q.invalid(obj, errs); err != nil {
		return nil, err
	}
	if err := s.admitValid(q, obj, old); err != nil {
		return nil, err
	}
	if q.row.Strategy.Warnings != nil && q.subresource == "" {
		for _, warning := range q.row.Strategy.Warnings(obj, old) {
			q.warn(warning)
		}
	}
	currentObject, err := current.Object()
	if err != nil {
		return nil, err
	}
	if finished(obj) { // the last finalizer went away with this update
		return s.planRemoval(q, currentObject)
	}
	stored, also, err := s.allocate(q, q.stored(obj), currentObject)
	if err != nil {
		return nil, err
	}
	charged, err := s.charge(q, obj, old)
	return &storage.Change{Object: stored, Also: append(also, charged...)}, err
}

// anyName accepts the name of what exists already.
func anyName(string, bool) []string { return nil }

// keepMetadata checks the preconditions in an updated object's metadata and
// keeps what only the server may set.
func (q *request) keepMetadata(obj, old resources.Object) error {
	// A whole object that names a UID means that one; a patch tries to change it.
	if obj.GetUID() != "" && obj.GetUID() != old.GetUID() && q.verb != "patch" {
		return q.conflict(fmt.Errorf("StorageError: invalid object, Code: 4, Key: /registry/%s/%s, ResourceVersion: 0, AdditionalErrorMsg: "+
			"Precondition failed: UID in precondition: %v, UID in object meta: %v", q.row.Prefix, q.key(), obj.GetUID(), old.GetUID()))
	}
	switch obj.GetResourceVersion() {
	case "", "0":
		if q.row.Strategy.RequireResourceVersion {
			return apierrors.NewInvalid(schema.GroupKind{Group: q.row.Group, Kind: q.row.Plural}, obj.GetName(), field.ErrorList{
				field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update")})
		}
	case old.GetResourceVersion():
	default:
		return q.conflict(errModified)
	}
	obj.SetResourceVersion(old.GetResourceVersion())
	if obj.GetUID() == "" {
		obj.SetUID(old.GetUID())
	}
	obj.SetName(old.GetName())
	obj.SetNamespace(old.GetNamespace())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetGeneration(old.GetGeneration())
	obj.SetSelfLink("")
	return nil
}

// endpoint is what an update through one path may change.
type endpoint struct {
	prepare  func(obj, old resources.Object)
	validate func(obj, old resources.Object) field.ErrorList
}

func (q *request) endpoint() endpoint {
	strategy := &q.row.Strategy
	switch q.subresource {
	case "", "scale":
		return endpoint{strategy.PrepareUpdate, strategy.ValidateUpdate}
	case "status":
		return endpoint{strategy.PrepareStatus, strategy.ValidateStatus}
	}
	for _, sub := range q.row.Subresources {
		if sub.Name == q.subresource {
			return endpoint{sub.Prepare, sub.ValidateUpdate}
		}
	}
	return endpoint{}
}
