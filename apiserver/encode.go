package apiserver

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// Answers about stored objects are bytes that exist already: encode.go only
// puts them into an envelope, or between the brackets of a list. The slow way,
// by an object, is taken for tables, for YAML, and for what is not stored.

const (
	// gzipAbove is upstream's threshold for compressing an answer.
	gzipAbove = 128 * 1024
	gzipLevel = 1
)

// item is the body of one stored object.
func (f format) item(item *storage.Item, now time.Time, include metav1.IncludeObjectPolicy) ([]byte, error) {
	switch {
	case f.as == "Table":
		obj, err := item.Object()
		if err != nil {
			return nil, err
		}
		list := metav1.ListMeta{ResourceVersion: storage.FormatVersion(item.Revision)}
		options := tableOptions{version: f.version, includeObject: include}
		return f.text(tableFor(item.Row(), []resources.Object{obj}, list, options, now))
	case f.as != "":
		return f.metadata(item)
	case f.media == storage.ProtobufMediaType:
		raw, err := item.Protobuf()
		if err != nil {
			return nil, err
		}
		return append(storage.AppendEnvelope(make([]byte, 0, len(raw)+64), item.Row().GVK(), len(raw)), raw...), nil
	}
	return f.reshape(item.JSON())
}

// metadata is only an object's metadata, made once per form.
func (f format) metadata(item *storage.Item) ([]byte, error) {
	protobuf := f.media == storage.ProtobufMediaType
	name := "metadata/" + f.version
	if protobuf {
		name += "/protobuf"
	}
	data, err := item.Form(name, func() ([]byte, error) {
		obj, err := item.Object()
		if err != nil {
			return nil, err
		}
		partial := metadataOf(obj, "meta.k8s.io/"+f.version)
		if protobuf {
			return storage.EncodeProtobuf(partial, partial.GroupVersionKind())
		}
		return json.Marshal(partial)
	})
	if err != nil || protobuf {
		return data, err
	}
	return f.reshape(data)
}

// reshape turns JSON into what the client reads it as. JSON stays as it is.
func (f format) reshape(data []byte) ([]byte, error) {
	switch {
	case f.media == yamlMediaType:
		return yaml.JSONToYAML(data)
	case f.pretty:
		var out bytes.Buffer
		err := json.Indent(&out, data, "", "  ")
		return out.Bytes(), err
	}
	return data, nil
}

// text encodes an object that has no stored bytes.
func (f format) text(obj any) ([]byte, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	return f.reshape(data)
}

// object is the body of an object that is not stored; where it has no protobuf
// form, JSON is sent, which every client understands.
func (f format) object(obj runtime.Object, gvk schema.GroupVersionKind) ([]byte, string, error) {
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if f.media == storage.ProtobufMediaType {
		if data, err := storage.EncodeProtobuf(obj, gvk); err == nil {
			return data, f.media, nil
		}
		f.media = storage.JSONMediaType
	}
	data, err := f.text(obj)
	return data, f.media, err
}

// list is the body of a LIST.
func (f format) list(row *resources.Row, page *storage.Page, now time.Time, include metav1.IncludeObjectPolicy) ([]byte, error) {
	meta := metav1.ListMeta{
		ResourceVersion: storage.FormatVersion(page.Revision), Continue: page.Continue, RemainingItemCount: page.Remaining,
	}
	switch {
	case f.as == "Table":
		objs := make([]resources.Object, 0, len(page.Items))
		for _, item := range page.Items {
			if obj, err := item.Object(); err == nil {
				objs = append(objs, obj)
			}
		}
		return f.text(tableFor(row, objs, meta, tableOptions{version: f.version, includeObject: include}, now))
	case f.media == storage.ProtobufMediaType:
		return f.protobufList(row, page, meta)
	case f.as != "":
		return f.jsonList("PartialObjectMetadataList", "meta.k8s.io/"+f.version, page, meta, func(out []byte, item *storage.Item) ([]byte, error) {
			data, err := format{media: storage.JSONMediaType, as: f.as, version: f.version}.metadata(item)
			return append(out, data...), err
		})
	}
	body := any(meta)
	if row.Custom != nil { // a list without a Go type shows an empty token, too
		body = struct {
			Continue           string `json:"continue"`
			RemainingItemCount *int64 `json:"remainingItemCount,omitempty"`
			ResourceVersion    string `json:"resourceVersion"`
		}{meta.Continue, meta.RemainingItemCount, meta.ResourceVersion}
	}
	return f.jsonList(listKind(row), row.GVK().GroupVersion().String(), page, body, func(out []byte, item *storage.Item) ([]byte, error) {
		return item.AppendListJSON(out), nil
	})
}

// jsonList splices the items between the brackets.
func (f format) jsonList(kind, apiVersion string, page *storage.Page, meta any, add func([]byte, *storage.Item) ([]byte, error)) ([]byte, error) {
	metadata, err := json.Marshal(meta)
	if err != nil {
		return nil, err
	}
	size := 256
	for _, item := range page.Items {
		size += len(item.JSON()) + 1
	}
	out := largeBuffer(size)
	out = append(out, `{"kind":"`+kind+`","apiVersion":"`+apiVersion+`","metadata":`...)
	out = append(out, metadata...)
	out = append(out, `,"items":[`...)
	for i, item := range page.Items {
		if i > 0 {
			out = append(out, ',')
		}
		if out, err = add(out, item); err != nil {
			return nil, err
		}
	}
	return f.reshape(append(out, `]}`...))
}

// A list of megabytes would be allocated, zeroed and collected for every
// request; so the largest buffers are used again.
var largeBuffers sync.Pool

const largeFrom, largeUpTo = 64 << 10, 64 << 20

func largeBuffer(size int) []byte {
	if size >= largeFrom {
		if buffer, ok := largeBuffers.Get().(*[]byte); ok && cap(*buffer) >= size {
			return (*buffer)[:0]
		}
	}
	return make([]byte, 0, size)
}

// recycle takes a buffer back. Nobody may use it any more.
func recycle(buffer []byte) {
	if n := cap(buffer); n >= largeFrom && n <= largeUpTo {
		largeBuffers.Put(&buffer)
	}
}

// protobufList writes XList{1: metadata, 2: items…} by hand around the items'
// messages; all lists of the API have these two fields.
func (f format) protobufList(row *resources.Row, page *storage.Page, meta metav1.ListMeta) ([]byte, error) {
	gvk := row.GVK()
	gvk.Kind += "List"
	if f.as != "" {
		gvk = schema.GroupVersionKind{Group: "meta.k8s.io", Version: f.version, Kind: "PartialObjectMetadataList"}
	}
	metadata, err := meta.Marshal()
	if err != nil {
		return nil, err
	}
	list := storage.AppendProtobufBytes(nil, 1, string(metadata))
	for _, item := range page.Items {
		raw, err := f.message(item)
		if err != nil {
			return nil, err
		}
		list = storage.AppendProtobufHeader(list, 2, len(raw))
		list = append(list, raw...)
	}
	return append(storage.AppendEnvelope(make([]byte, 0, len(list)+64), gvk, len(list)), list...), nil
}

// message is an item as a protobuf message without envelope.
func (f format) message(item *storage.Item) ([]byte, error) {
	if f.as == "" {
		return item.Protobuf()
	}
	obj, err := item.Object()
	if err != nil {
		return nil, err
	}
	return metadataOf(obj, "").Marshal()
}

// contentType is what the answer is declared as.
func (f format) contentType() string {
	return f.media
}

// send writes a complete answer, compressed if it is large and the client can
// read that.
func (q *request) send(code int, contentType string, body []byte) error {
	q.audit.answered(q, contentType, body)
	header := q.w.Header()
	header.Set("Content-Type", contentType)
	newline := contentType == storage.JSONMediaType && !bytes.HasSuffix(body, []byte("\n"))
	if len(body) > gzipAbove && acceptsGzip(q.Request) {
		header.Set("Content-Encoding", "gzip")
		header.Add("Vary", "Accept-Encoding")
		q.w.WriteHeader(code)
		return compress(q.w, body)
	}
	size := len(body)
	if newline {
		size++
	}
	header.Set("Content-Length", strconv.Itoa(size))
	q.w.WriteHeader(code)
	if q.Method == http.MethodHead {
		return nil
	}
	if _, err := q.w.Write(body); err != nil {
		return nil // the client went away; there is nobody to tell
	}
	if newline {
		q.w.Write([]byte("\n"))
	}
	return nil
}

func acceptsGzip(r *http.Request) bool {
	for clause := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		if strings.TrimSpace(clause) == "gzip" {
			return true
		}
	}
	return false
}

var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzipLevel)
	return w
}}

func compress(w http.ResponseWriter, body []byte) error {
	z := gzipWriters.Get().(*gzip.Writer)
	defer gzipWriters.Put(z)
	z.Reset(w)
	z.Write(body)
	z.Close()
	return nil
}

// sendItem answers with one stored object.
func (q *request) sendItem(code int, item *storage.Item) error {
	item, err := item.As(q.row)
	if err != nil {
		return err
	}
	body, err := q.format.item(item, time.Now(), q.includeObject())
	if err != nil {
		return err
	}
	return q.send(code, q.format.contentType(), body)
}

// sendObject answers with an object that is not stored.
func (q *request) sendObject(code int, obj runtime.Object, gvk schema.GroupVersionKind) error {
	body, contentType, err := q.format.object(obj, gvk)
	if err != nil {
		return err
	}
	if status, ok := obj.(*metav1.Status); ok {
		q.audit.failed(status)
	}
	return q.send(code, contentType, body)
}

func (q *request) includeObject() metav1.IncludeObjectPolicy {
	return metav1.IncludeObjectPolicy(q.query().Get("includeObject"))
}
