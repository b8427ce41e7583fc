package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Limits of what a reporter of events.k8s.io may say.
const (
	maxReporter = 128
	maxReason   = 128
	maxNote     = 1024
)

// Event checks an event as core/v1 has it. One with an eventTime is of the
// newer kind, wherever it came in, and has to name its reporter.
//
// Upstream: kubernetes@v1.36 pkg/apis/core/validation/events.go
func Event(e *corev1.Event) field.ErrorList { return checkEvent(e, "reportingComponent") }

func checkEvent(e *corev1.Event, reporter string) field.ErrorList {
	r := &report{}
	about := e.InvolvedObject.Namespace
	elsewhere := func() {
		r.invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace")
	}
	if e.EventTime.IsZero() {
		// An event lies where the object lies that it is about; one about the
		// cluster's own objects lies in default.
		if about != e.Namespace && !(about == "" && e.Namespace == "default") {
			elsewhere()
		}
		return r.errs
	}
	if about == "" && e.Namespace != "default" && e.Namespace != "kube-system" {
		elsewhere()
	}
	r.required(field.NewPath(reporter), e.ReportingController)
	r.messages(field.NewPath(reporter), e.ReportingController, validation.IsQualifiedName(e.ReportingController))
	for _, f := range []struct {
		name, value string
		limit       int
		required    bool
	}{
		{"reportingInstance", e.ReportingInstance, maxReporter, true}, {"action", e.Action, maxReason, true},
		{"reason", e.Reason, maxReason, true}, {"message", e.Message, maxNote, false},
	} {
		if f.required {
			r.required(field.NewPath(f.name), f.value)
		}
		if len(f.value) > f.limit {
			r.invalid(field.NewPath(f.name), "", fmt.Sprintf("can have at most %d characters", f.limit))
		}
	}
	return r.errs
}

// NewEvent checks an event that came in by events.k8s.io, in the form in which
// it is stored: the fields of the old kind stay empty.
func NewEvent(e *corev1.Event) field.ErrorList {
	r := &report{errs: checkEvent(e, "reportingController")}
	checkSeries(r, e.Series)
	if e.EventTime.IsZero() {
		r.add(field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		r.invalid(field.NewPath("type"), "", "has invalid value: "+e.Type)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()}, {"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0}, {"source", e.Source != (corev1.EventSource{})},
	} {
		if f.set {
			r.invalid(field.NewPath(f.name), "", "needs to be unset")
		}
	}
	return r.errs
}

// NewEventUpdate: what happened is not told anew, but it may happen again.
func NewEventUpdate(e, old *corev1.Event) field.ErrorList {
	r := &report{errs: checkEvent(e, "reportingController")}
	if e.Series != nil && (old.Series == nil || *e.Series != *old.Series) {
		checkSeries(r, e.Series)
	}
	for _, f := range []struct {
		name     string
		now, was any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject}, {"reason", e.Reason, old.Reason}, {"message", e.Message, old.Message},
		{"source", e.Source, old.Source}, {"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp},
		{"lastTimestamp", e.LastTimestamp, old.LastTimestamp}, {"count", e.Count, old.Count}, {"reason", e.Reason, old.Reason},
		{"type", e.Type, old.Type}, {"eventTime", e.EventTime, old.EventTime}, {"action", e.Action, old.Action}, {"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController}, {"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		r.unchanged(field.NewPath(f.name), f.now, f.was)
	}
	return r.errs
}

func checkSeries(r *report, s *corev1.EventSeries) {
	if s == nil {
		return
	}
	if s.Count < 2 {
		r.invalid(field.NewPath("series.count"), "", "should be at least 2")
	}
	if s.LastObservedTime.IsZero() {
		r.add(field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
}
