package apiserver

import (
	"fmt"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// get answers with one object.
func (s *Server) get(q *request) error {
	item, err := q.table.Get(q.Context(), q.key(), q.query().Get("resourceVersion"))
	if err != nil {
		return q.named(err)
	}
	return q.sendItem(http.StatusOK, item)
}

// key is where the request's object is in its table.
func (q *request) key() string { return storage.Key(q.namespace, q.name) }

// named corrects an error about a stored row to speak of the row that was
// asked for, when that is a view.
func (q *request) named(err error) error {
	if q.row.StoredAs != nil && apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(q.row.GVR().GroupResource(), q.name)
	}
	return err
}

// list answers with a page of objects.
func (s *Server) list(q *request) error {
	options, err := q.listOptions()
	if err != nil {
		return err
	}
	selector, err := selectorOf(q.row, options)
	if err != nil {
		return err
	}
	page, err := q.table.List(q.Context(), storage.ListOptions{
		Row: q.row, Namespace: q.namespace, Selector: selector,
		ResourceVersion: options.ResourceVersion, ResourceVersionMatch: options.ResourceVersionMatch,
		Limit: options.Limit, Continue: options.Continue,
	})
	if err != nil {
		return err
	}
	body, err := q.format.list(q.row, page, time.Now(), q.includeObject())
	if err != nil {
		return err
	}
	err = q.send(http.StatusOK, q.format.contentType(), body)
	if !q.w.failed { // otherwise HTTP/2 may still be reading it
		recycle(body)
	}
	return err
}

// listOptions reads and checks the parameters of a list or watch.
func (q *request) listOptions() (*metav1.ListOptions, error) {
	query := q.query()
	o := &metav1.ListOptions{}
	if err := metav1.Convert_url_Values_To_v1_ListOptions(&query, o, nil); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	// A watch says so by its parameter, or by its path; the rules differ.
	o.Watch = q.verb == "watch"
	if o.Watch && q.name != "" && o.FieldSelector == "" {
		o.FieldSelector = "metadata.name=" + q.name
	}
	internal := &internalversion.ListOptions{
		Watch: o.Watch, AllowWatchBookmarks: o.AllowWatchBookmarks, SendInitialEvents: o.SendInitialEvents,
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		TimeoutSeconds: o.TimeoutSeconds, Limit: o.Limit, Continue: o.Continue,
	}
	// A watch without a version has always begun with what there is.
	internalversion.SetListOptionsDefaults(internal, true)
	if errs := validation.ValidateListOptions(internal, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	o.SendInitialEvents = internal.SendInitialEvents
	return o, nil
}

// selectorOf parses the selectors; a field nobody can select by is refused
// rather than ignored.
func selectorOf(row *resources.Row, o *metav1.ListOptions) (storage.Selector, error) {
	var out storage.Selector
	var err error
	if out.Labels, err = labels.Parse(o.LabelSelector); err != nil {
		return out, apierrors.NewBadRequest(err.Error())
	}
	if out.Fields, err = fields.ParseSelector(o.FieldSelector); err != nil {
		return out, apierrors.NewBadRequest(err.Error())
	}
	if out.Fields.Empty() {
		return out, nil
	}
	if out.Fields, err = out.Fields.Transform(func(field, value string) (string, string, error) {
		if now, old := row.OldFields[field]; old {
			field = now
		}
		return field, value, nil
	}); err != nil {
		return out, apierrors.NewBadRequest(err.Error())
	}
	known := fields.Set{}
	if row.SelectableFields != nil {
		known = row.SelectableFields(row.New())
	}
	for _, requirement := range out.Fields.Requirements() {
		switch requirement.Field {
		case "metadata.name":
			continue
		case "metadata.namespace":
			if row.Namespaced {
				continue
			}
		}
		if _, ok := known[requirement.Field]; !ok {
			return out, apierrors.NewBadRequest(unknownField(row, requirement.Field))
		}
	}
	return out, nil
}

// unknownField says that there is no selecting by a field, in the words that
// upstream has for the kind.
func unknownField(row *resources.Row, field string) string {
	switch {
	case row.Kind == "Job":
		return fmt.Sprintf("field label %q not supported for Job", field)
	case row.SelectableFields != nil:
		return "field label not supported: " + field
	}
	return fmt.Sprintf("%q is not a known field selector: only %q, %q", field, "metadata.name", "metadata.namespace")
}
