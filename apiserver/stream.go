package apiserver

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// A watch is a LIST that does not end. Its life:
//
//	[initial events … [bookmark "initial-events-end"]]  events…  bookmarks  end
//
// Each turn of the loop takes what its cursor finds, writes it, and flushes
// once. Bookmarks tell the client how far it is when nothing concerned it, so
// that it can come back there instead of listing everything again.

const (
	bookmarkEvery = time.Minute
	// minWatch is the shortest life of a watch that set no timeout; twice that
	// is the longest, at random, so that reconnects do not come all at once.
	minWatch = 30 * time.Minute
	// A client that takes nothing for this long has its stream reset.
	writePatience    = time.Minute
	writeDeadlineFor = 20 * time.Second // how often the deadline is moved
)

// stream is one watch's output.
type stream struct {
	q       *request
	control *http.ResponseController
	buffer  []byte
	headers bool // column definitions of a table have been sent
	events  prometheus.Counter
	sizes   prometheus.Observer
	include metav1.IncludeObjectPolicy
}

// watch answers with events until the client, the time, or the history ends it.
func (s *Server) watch(q *request) error {
	options, err := q.listOptions()
	if err != nil {
		return err
	}
	selector, err := selectorOf(q.row, options)
	if err != nil {
		return err
	}
	if q.format.media == yamlMediaType {
		q.format.media = storage.JSONMediaType
	}
	q.format.pretty = false
	o := storage.WatchOptions{Row: q.row, Namespace: q.namespace, Selector: selector, ResourceVersion: options.ResourceVersion}
	// Without sendInitialEvents, "" and "0" have always meant: tell me first
	// what there is.
	o.Initial = o.ResourceVersion == "" || o.ResourceVersion == "0"
	if options.SendInitialEvents != nil {
		o.Initial = *options.SendInitialEvents
	}
	watcher, err := q.table.Watch(q.Context(), o)
	if apierrors.IsResourceExpired(err) {
		// Once a watch is accepted, its errors are events.
		return newStream(q, s.metrics).error(err)
	} else if err != nil {
		return err
	}
	defer watcher.Stop()
	out := newStream(q, s.metrics)
	defer out.control.SetWriteDeadline(time.Time{}) // the connection may live on
	if err := out.initial(watcher, options); err != nil {
		return nil
	}
	q.seat.leave() // to wait costs nothing
	return s.follow(out, watcher, options)
}

// follow is the loop after the initial events.
func (s *Server) follow(out *stream, watcher *storage.Watcher, options *metav1.ListOptions) error {
	life := minWatch
	if s.cfg.MinRequestTimeout > 0 {
		life = s.cfg.MinRequestTimeout
	}
	life += rand.N(life)
	if options.TimeoutSeconds != nil {
		life = time.Duration(*options.TimeoutSeconds) * time.Second
	}
	end := time.NewTimer(life)
	defer end.Stop()
	bookmarks := time.NewTicker(bookmarkEvery)
	defer bookmarks.Stop()
	deadline := time.NewTicker(writeDeadlineFor)
	defer deadline.Stop()
	for {
		bookmark, last := false, false
		select {
		case <-watcher.Bell():
		case <-bookmarks.C:
			bookmark = options.AllowWatchBookmarks
		case <-deadline.C:
			out.control.SetWriteDeadline(time.Now().Add(writePatience))
			continue
		case <-end.C:
			bookmark, last = options.AllowWatchBookmarks, true
		case <-s.draining:
			bookmark, last = options.AllowWatchBookmarks, true
		case <-out.q.Context().Done():
			return nil
		}
		events, revision, err := watcher.Take()
		if err != nil {
			return out.error(err)
		}
		for _, event := range events {
			if err := out.event(event); err != nil {
				return out.error(err)
			}
		}
		if bookmark {
			out.bookmark(revision, nil)
		}
		if out.flush() != nil || last {
			return nil
		}
	}
}

// newStream starts the answer.
func newStream(q *request, m *metrics) *stream {
	contentType := q.format.media
	if contentType == storage.ProtobufMediaType {
		contentType += ";stream=watch"
	}
	q.w.Header().Set("Content-Type", contentType)
	q.w.WriteHeader(http.StatusOK)
	out := &stream{
		q: q, control: http.NewResponseController(q.w), include: q.includeObject(),
		events: m.watchEvents.WithLabelValues(q.row.Group, q.row.Version, q.row.Plural),
		sizes:  m.watchSizes.WithLabelValues(q.row.Group, q.row.Version, q.row.Plural),
	}
	out.control.SetWriteDeadline(time.Now().Add(writePatience))
	out.control.Flush()
	return out
}

// initial sends what there is, and for a WatchList the bookmark after it.
func (out *stream) initial(w *storage.Watcher, o *metav1.ListOptions) error {
	for i, item := range w.Initial {
		if err := out.event(storage.Event{Type: watch.Added, Item: item}); err != nil {
			return out.error(err)
		}
		if i%256 == 255 {
			out.control.SetWriteDeadline(time.Now().Add(writePatience))
			if err := out.flush(); err != nil {
				return err
			}
		}
	}
	w.Initial = nil // the watch may live for an hour; the list need not
	if o.AllowWatchBookmarks && o.SendInitialEvents != nil && *o.SendInitialEvents {
		out.bookmark(w.InitialRevision, map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return out.flush()
}

// event appends one event to the buffer.
func (out *stream) event(e storage.Event) error {
	f := out.q.format
	if f.as == "Table" {
		return out.tableEvent(e)
	}
	object, err := f.item(e.Item, time.Time{}, out.include)
	if err != nil {
		return err
	}
	out.frame(string(e.Type), object)
	return nil
}

// tableEvent is a table of one row; only the first has the columns.
func (out *stream) tableEvent(e storage.Event) error {
	obj, err := e.Item.Object()
	if err != nil {
		return err
	}
	options := tableOptions{version: out.q.format.version, includeObject: out.include, noHeaders: out.headers}
	out.headers = true
	list := metav1.ListMeta{ResourceVersion: storage.FormatVersion(e.Item.Revision)}
	object, err := json.Marshal(tableFor(e.Item.Row(), []resources.Object{obj}, list, options, time.Now()))
	if err == nil {
		out.frame(string(e.Type), object)
	}
	return err
}

// frame appends {"type":…,"object":…} as a line, or as a length-prefixed
// WatchEvent{1: type, 2: RawExtension{1: raw}}.
func (out *stream) frame(kind string, object []byte) {
	out.events.Inc()
	out.sizes.Observe(float64(len(object)))
	if out.q.format.media != storage.ProtobufMediaType {
		out.buffer = append(out.buffer, `{"type":"`+kind+`","object":`...)
		out.buffer = append(out.buffer, object...)
		out.buffer = append(out.buffer, "}\n"...)
		return
	}
	raw := storage.AppendProtobufHeader(nil, 1, len(object)) // the RawExtension's
	message := storage.AppendProtobufBytes(nil, 1, kind)
	message = storage.AppendProtobufHeader(message, 2, len(raw)+len(object))
	message = append(message, raw...)
	out.buffer = binary.BigEndian.AppendUint32(out.buffer, uint32(len(message)+len(object)))
	out.buffer = append(append(out.buffer, message...), object...)
}

// bookmark appends an object of which only the resourceVersion counts.
func (out *stream) bookmark(revision int64, annotations map[string]string) {
	obj := out.q.row.New()
	obj.SetResourceVersion(storage.FormatVersion(revision))
	obj.SetAnnotations(annotations)
	f, gvk := out.q.format, out.q.row.GVK()
	var object []byte
	var err error
	switch {
	case f.as == "Table":
		options := tableOptions{version: f.version, includeObject: out.include, noHeaders: out.headers}
		list := metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}
		object, err = f.text(tableFor(out.q.row, []resources.Object{obj}, list, options, time.Now()))
	case f.as != "":
		partial := metadataOf(obj, "meta.k8s.io/"+f.version)
		object, _, err = f.object(partial, partial.GroupVersionKind())
	default:
		object, _, err = f.object(obj, gvk)
	}
	if err == nil {
		out.frame(string(watch.Bookmark), object)
	}
}

// error ends the watch with an ERROR event.
func (out *stream) error(err error) error {
	status := statusOf(err)
	object, _, err := out.q.format.object(&status, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	if err == nil {
		out.frame(string(watch.Error), object)
		out.flush()
	}
	return nil
}

// flush sends the buffer as one write.
func (out *stream) flush() error {
	if len(out.buffer) == 0 {
		return nil
	}
	_, err := out.q.w.Write(out.buffer)
	out.buffer = out.buffer[:0]
	if cap(out.buffer) > 1<<20 {
		out.buffer = nil
	}
	if err == nil {
		err = out.control.Flush()
	}
	return err
}
