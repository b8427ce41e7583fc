package storage

import (
	"bytes"
	"strconv"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"tinykube/apiserver/resources"
)

// Item is one object at one revision: the bytes first, the object only when
// somebody asks. It is immutable and shared by the cache, every LIST and every
// watcher, which is what makes "at most one serialization per event" true.
//
// What lies in etcd has no resourceVersion, for it *is* the etcd revision and
// is not known before the write. It is injected once, here, by splicing:
//
//	etcd:   {"kind":"Pod","apiVersion":"v1","metadata":{"name":"web",…
//	item:   {"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"42","name":"web",…
//	                                        ▲ body     ▲ from           ▲ to
//
// A LIST leaves out kind and apiVersion: it ships "{" and then json[body:].
type Item struct {
	Key      string
	Revision int64 // etcd's mod revision: the resourceVersion

	stale bool // what is stored should be encrypted anew

	row      *resources.Row
	json     []byte
	body     int // offset of "metadata"
	from, to int // the injected bytes are json[from:to]

	decoded sync.Once
	object  resources.Object
	err     error

	protobuf atomic.Pointer[[]byte] // the message without its envelope
	view     atomic.Pointer[Item]   // the object as another row shows it
	forms    sync.Map               // other serialized forms, by name
}

// newItem makes an item of a value as it lies in etcd.
func newItem(row *resources.Row, key string, value []byte, revision int64) (*Item, error) {
	item := &Item{Key: key, Revision: revision, row: row}
	value = bytes.TrimSuffix(value, []byte("\n"))
	if row.Custom == nil && item.inject(value) {
		return item, nil
	}
	// Protobuf, JSON in another order of fields or of another version, or an
	// object whose schema may have changed since: the long way round. It may be
	// another server's, which fills defaults in when it reads.
	obj, err := decodeStored(row, value)
	if err != nil {
		return nil, err
	}
	if row.Custom == nil && row.Strategy.Default != nil {
		row.Strategy.Default(obj)
	}
	obj.SetResourceVersion("")
	canonical, err := EncodeJSON(obj, row.GVK())
	if err != nil {
		return nil, err
	}
	item.inject(canonical)
	return item, nil
}

// Draft makes an item of an object that is not going to be stored: what a dry
// run answers with. Revision 0 means that it has no resourceVersion.
func Draft(row *resources.Row, key string, obj resources.Object, revision int64) (*Item, error) {
	obj.SetResourceVersion("")
	value, err := EncodeJSON(obj, row.GVK())
	if err != nil {
		return nil, err
	}
	return newItem(row, key, value, revision)
}

// inject splices the resourceVersion into canonical JSON, and reports whether
// the value was canonical.
func (i *Item) inject(value []byte) bool {
	head := canonicalHead(i.row)
	if !bytes.HasPrefix(value, head) || len(value) == len(head) {
		return false
	}
	i.body = len(head) - len(`"metadata":{`)
	if i.row.Custom != nil {
		i.body = 1 // upstream's lists of what has no Go type name the kind of each item
	}
	i.from, i.to = len(head), len(head)
	if i.Revision == 0 {
		i.json = value
		return true
	}
	i.json = make([]byte, 0, len(value)+len(`"resourceVersion":"",`)+20)
	i.json = append(i.json, head...)
	i.json = append(i.json, `"resourceVersion":"`...)
	i.json = strconv.AppendInt(i.json, i.Revision, 10)
	i.json = append(i.json, '"')
	rest := value[len(head):]
	if rest[0] != '}' { // metadata is not empty
		i.json = append(i.json, ',')
	}
	i.to = len(i.json)
	i.json = append(i.json, rest...)
	return true
}

var heads sync.Map // *resources.Row → []byte

// canonicalHead is how the JSON of every object of a row starts: Go's encoder
// writes the fields in the order of the struct, upstream's too.
func canonicalHead(row *resources.Row) []byte {
	if head, ok := heads.Load(row); ok {
		return head.([]byte)
	}
	version := row.GVK().GroupVersion().String()
	head := []byte(`{"kind":"` + row.Kind + `","apiVersion":"` + version + `","metadata":{`)
	if row.Custom != nil { // see encodeCustom
		return []byte(`{"apiVersion":"` + version + `","kind":"` + row.Kind + `","metadata":{`)
	}
	heads.Store(row, head)
	return head
}

// JSON is the whole object, as GET and watch ship it.
func (i *Item) JSON() []byte { return i.json }

// AppendListJSON appends the object as an item of a list.
func (i *Item) AppendListJSON(out []byte) []byte {
	out = append(out, '{')
	return append(out, i.json[i.body:]...)
}

// stored is the JSON without the resourceVersion, in two pieces.
func (i *Item) stored() (head, tail []byte) { return i.json[:i.from], i.json[i.to:] }

// sameAs reports whether canonical JSON says what the item says already.
func (i *Item) sameAs(value []byte) bool {
	head, tail := i.stored()
	return len(value) == len(head)+len(tail) && bytes.HasPrefix(value, head) && bytes.HasSuffix(value, tail)
}

// Protobuf is the object as a protobuf message, without an envelope.
func (i *Item) Protobuf() ([]byte, error) {
	if raw := i.protobuf.Load(); raw != nil {
		return *raw, nil
	}
	obj, err := i.Object()
	if err != nil {
		return nil, err
	}
	raw, err := marshalRaw(obj)
	if err != nil {
		return nil, err
	}
	i.protobuf.Store(&raw)
	return raw, nil
}

// Form returns another serialized form of the item, made by make when it is
// first asked for.
func (i *Item) Form(name string, make func() ([]byte, error)) ([]byte, error) {
	if form, ok := i.forms.Load(name); ok {
		return form.([]byte), nil
	}
	form, err := make()
	if err == nil {
		i.forms.Store(name, form)
	}
	return form, err
}

// Object decodes the item, once.
//
// Invariant: nobody changes what it returns; a writer deep-copies it first.
func (i *Item) Object() (resources.Object, error) {
	i.decoded.Do(func() {
		if i.object == nil {
			i.object, i.err = decode(i.row, i.json)
		}
	})
	return i.object, i.err
}

// Row is the row that the item is shown as.
func (i *Item) Row() *resources.Row { return i.row }

// As shows the item as a row that is a view of it (events.k8s.io over core).
func (i *Item) As(row *resources.Row) (*Item, error) {
	if row == i.row || row.StoredAs == nil {
		return i, nil
	}
	if view := i.view.Load(); view != nil && view.row == row {
		return view, nil
	}
	obj, err := i.Object()
	if err != nil {
		return nil, err
	}
	shown := row.StoredAs.From(obj)
	shown.SetResourceVersion("")
	data, err := EncodeJSON(shown, row.GVK())
	if err != nil {
		return nil, err
	}
	view, err := newItem(row, i.Key, data, i.Revision)
	if err == nil {
		i.view.Store(view)
	}
	return view, err
}

// at is the same object with another resourceVersion: what a DELETED event
// shows is the last state with the revision of the deletion.
func (i *Item) at(revision int64) *Item {
	head, tail := i.stored()
	value := make([]byte, 0, len(head)+len(tail))
	value = append(append(value, head...), tail...)
	item := &Item{Key: i.Key, Revision: revision, row: i.row}
	item.inject(value)
	return item
}

// Selector chooses objects by labels and fields. The zero value chooses all.
type Selector struct {
	Labels labels.Selector
	Fields fields.Selector
}

// Empty reports whether the selector chooses everything.
func (s Selector) Empty() bool {
	return (s.Labels == nil || s.Labels.Empty()) && (s.Fields == nil || s.Fields.Empty())
}

// matches decides without decoding when it can: an empty selector matches, and
// name and namespace are in the key. An object that cannot be decoded matches
// nothing.
func (s Selector) matches(item *Item) bool {
	if item == nil {
		return false
	}
	if s.Empty() {
		return true
	}
	obj, err := item.Object()
	if err != nil {
		return false
	}
	if s.Labels != nil && !s.Labels.Matches(labels.Set(obj.GetLabels())) {
		return false
	}
	return s.Fields == nil || s.Fields.Empty() || s.Fields.Matches(fieldsOf(item.row, obj))
}

func fieldsOf(row *resources.Row, obj resources.Object) fields.Set {
	set := fields.Set{}
	if row.SelectableFields != nil {
		set = row.SelectableFields(obj)
	}
	set["metadata.name"] = obj.GetName()
	if row.Namespaced {
		set["metadata.namespace"] = obj.GetNamespace()
	}
	return set
}
