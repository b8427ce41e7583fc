package resources

import (
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/validation"
)

// Events exist in two groups with different field names and one store. The
// core/v1 form is the stored one; events.k8s.io is a view of it.

func eventRow() *Row {
	return kind[corev1.Event, corev1.EventList](Row{
		ShortNames: names("ev"), Namespaced: true,
		Strategy:         Strategy{CreateOnUpdate: true, NoDependents: true},
		SelectableFields: selectable(eventFields),
	}).prints(eventColumns, cells(eventCells)).
		validates(check(validation.Event), nil)
}

func eventsRows() []*Row {
	return group("events.k8s.io", "v1",
		kind[eventsv1.Event, eventsv1.EventList](Row{
			ShortNames: names("ev"), Namespaced: true,
			StoredAs: &StoredAs{
				GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "events"},
				From:                 func(stored Object) Object { return eventView(stored.(*corev1.Event)) },
				To:                   func(view Object) Object { return eventStored(view.(*eventsv1.Event)) },
			},
			Strategy: Strategy{CreateOnUpdate: true, NoDependents: true},
			SelectableFields: selectable(func(e *eventsv1.Event) fields.Set {
				set := eventFields(eventStored(e))
				for name, value := range set {
					// The view calls the object "regarding" in selectors too.
					if rest, ok := cutInvolved(name); ok {
						set["regarding"+rest] = value
						delete(set, name)
					}
				}
				set["reportingController"] = set["reportingComponent"]
				delete(set, "reportingComponent")
				delete(set, "source")
				return set
			}),
		}).prints(eventColumns, cells(eventViewCells)).
			validates(func(view Object) field.ErrorList {
				return validation.NewEvent(eventStored(view.(*eventsv1.Event)))
			}, func(view, old Object) field.ErrorList {
				return validation.NewEventUpdate(eventStored(view.(*eventsv1.Event)), eventStored(old.(*eventsv1.Event)))
			}),
	)
}

func cutInvolved(name string) (rest string, ok bool) {
	const involved = "involvedObject"
	if len(name) > len(involved) && name[:len(involved)] == involved {
		return name[len(involved):], true
	}
	return "", false
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	about := e.InvolvedObject
	return fields.Set{
		"involvedObject.kind":            about.Kind,
		"involvedObject.namespace":       about.Namespace,
		"involvedObject.name":            about.Name,
		"involvedObject.uid":             string(about.UID),
		"involvedObject.apiVersion":      about.APIVersion,
		"involvedObject.resourceVersion": about.ResourceVersion,
		"involvedObject.fieldPath":       about.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

func eventView(e *corev1.Event) *eventsv1.Event {
	view := &eventsv1.Event{
		ObjectMeta:               e.ObjectMeta,
		EventTime:                e.EventTime,
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
		Action:                   e.Action,
		Reason:                   e.Reason,
		Regarding:                e.InvolvedObject,
		Related:                  e.Related,
		Note:                     e.Message,
		Type:                     e.Type,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
	}
	if s := e.Series; s != nil {
		view.Series = &eventsv1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	view.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
	return view
}

func eventStored(v *eventsv1.Event) *corev1.Event {
	stored := &corev1.Event{
		ObjectMeta:          v.ObjectMeta,
		EventTime:           v.EventTime,
		ReportingController: v.ReportingController,
		ReportingInstance:   v.ReportingInstance,
		Action:              v.Action,
		Reason:              v.Reason,
		InvolvedObject:      v.Regarding,
		Related:             v.Related,
		Message:             v.Note,
		Type:                v.Type,
		Source:              v.DeprecatedSource,
		FirstTimestamp:      v.DeprecatedFirstTimestamp,
		LastTimestamp:       v.DeprecatedLastTimestamp,
		Count:               v.DeprecatedCount,
	}
	if s := v.Series; s != nil {
		stored.Series = &corev1.EventSeries{Count: s.Count, LastObservedTime: s.LastObservedTime}
	}
	stored.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
	return stored
}
