package apiserver

// Tables are how kubectl get shows kinds it has never heard of: it asks for
// "as=Table", and the server, which knows each kind, sends cells. Each row
// also carries the object, or only its metadata, for sorting and deleting.

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"tinykube/apiserver/resources"
)

// tableOptions is what a client chooses about its table.
type tableOptions struct {
	version       string                     // of meta.k8s.io: "v1", which is the default, or "v1beta1"
	includeObject metav1.IncludeObjectPolicy // "" means Metadata
	// noHeaders leaves out the column definitions: a watch sends them once.
	noHeaders bool
}

// plainColumns serve kinds that print nothing of their own.
var plainColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name"},
	{Name: "Created At", Type: "date"},
}

// tableFor prints objects of one row. The list's metadata becomes the table's.
func tableFor(row *resources.Row, objs []resources.Object, list metav1.ListMeta, options tableOptions, now time.Time) *metav1.Table {
	apiVersion := "meta.k8s.io/v1"
	if options.version != "" {
		apiVersion = "meta.k8s.io/" + options.version
	}
	table := &metav1.Table{
		TypeMeta: metav1.TypeMeta{Kind: "Table", APIVersion: apiVersion},
		ListMeta: list,
		Rows:     make([]metav1.TableRow, 0, len(objs)),
	}
	if !options.noHeaders {
		table.ColumnDefinitions = row.Columns
		if row.Columns == nil {
			table.ColumnDefinitions = plainColumns
		}
	}
	if row.TableOrder != nil {
		slices.SortStableFunc(objs, row.TableOrder)
	}
	for _, obj := range objs {
		table.Rows = append(table.Rows, tableRow(row, obj, options.includeObject, apiVersion, now))
	}
	return table
}

func tableRow(row *resources.Row, obj resources.Object, include metav1.IncludeObjectPolicy, apiVersion string, now time.Time) metav1.TableRow {
	var out metav1.TableRow
	if row.Cells != nil {
		out.Cells = row.Cells(obj, now)
	} else {
		out.Cells = []any{obj.GetName(), obj.GetCreationTimestamp().UTC().Format(time.RFC3339)}
	}
	if row.RowConditions != nil {
		out.Conditions = row.RowConditions(obj)
	}
	switch include {
	case metav1.IncludeNone:
	case metav1.IncludeObject:
		if obj.GetObjectKind().GroupVersionKind() != row.GVK() { // shared objects have it
			obj.GetObjectKind().SetGroupVersionKind(row.GVK())
		}
		out.Object = runtime.RawExtension{Object: obj}
	default:
		out.Object = runtime.RawExtension{Object: metadataOf(obj, apiVersion)}
	}
	return out
}

// metadataOf strips an object of all but its metadata.
func metadataOf(obj metav1.Object, apiVersion string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{Kind: "PartialObjectMetadata", APIVersion: apiVersion},
		ObjectMeta: metav1.ObjectMeta{
			Name:                       obj.GetName(),
			GenerateName:               obj.GetGenerateName(),
			Namespace:                  obj.GetNamespace(),
			SelfLink:                   obj.GetSelfLink(),
			UID:                        obj.GetUID(),
			ResourceVersion:            obj.GetResourceVersion(),
			Generation:                 obj.GetGeneration(),
			CreationTimestamp:          obj.GetCreationTimestamp(),
			DeletionTimestamp:          obj.GetDeletionTimestamp(),
			DeletionGracePeriodSeconds: obj.GetDeletionGracePeriodSeconds(),
			Labels:                     obj.GetLabels(),
			Annotations:                obj.GetAnnotations(),
			OwnerReferences:            obj.GetOwnerReferences(),
			Finalizers:                 obj.GetFinalizers(),
			ManagedFields:              obj.GetManagedFields(),
		},
	}
}
