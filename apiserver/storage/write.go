package storage

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"tinykube/apiserver/resources"
)

// Every write is a compare-and-swap: "if the key is still at the revision that
// I read, then put". etcd decides, in one transaction, so two API servers need
// no lock between them.
//
//	update:  read (cache) → try(current) → If(mod revision same) Then(put)
//	             ▲                               │ Else(get)
//	             └────── current := what is there ◀┘
//
// Starting from the cache saves a read, and is safe: the compare finds out. If
// try refuses what the cache has, it is asked again with what etcd has, since a
// stale object may be the reason.

// Also is a write to another table that happens in the same transaction, or
// not at all: an address that is taken when its Service is created. It may be
// only a condition: a namespace that must be as it was when we looked.
type Also struct {
	Table  *Table
	Key    string
	Only   bool             // only the condition counts; nothing is written
	Object resources.Object // nil deletes
	// IfRevision is what the key must be at: 0 means it must not exist,
	// AnyRevision that we do not care.
	IfRevision int64
}

// AnyRevision is the IfRevision of a blind write.
const AnyRevision = -1

// Change is what an update makes of the current object.
type Change struct {
	Object resources.Object // the new state; nil deletes
	Also   []Also
}

// Create stores a new object, or says AlreadyExists.
func (t *Table) Create(ctx context.Context, key string, obj resources.Object, also ...Also) (*Item, error) {
	value, err := t.encode(obj)
	if err != nil {
		return nil, err
	}
	revision, existing, err := t.swap(ctx, key, 0, value, also)
	if err != nil {
		return nil, err
	}
	if existing != nil {
		_, name := SplitKey(key)
		return nil, apierrors.NewAlreadyExists(t.row.GVR().GroupResource(), name)
	}
	if revision == 0 {
		return nil, ErrAlsoConflict
	}
	return newItem(t.row, key, value, revision)
}

// ErrAlsoConflict says that the object itself could have been written, but
// something that goes with it has changed meanwhile; the caller plans anew.
var ErrAlsoConflict = errors.New("what the write depends on has changed meanwhile")

// Update replaces or deletes an object as try decides, which may be called
// several times. It returns the new state, or the last one if it was deleted.
//
// LAB 01 update: take what the cache has, let try change it, and swap it in if
// nobody wrote in between; otherwise begin again with what is there. A cache
// may be behind, so neither a refusal nor "nothing to do" counts before etcd
// itself was read. An error of swap is final: it may have happened.
func (t *Table) Update(ctx context.Context, key string, try func(current *Item) (*Change, error)) (*Item, error) {
	current, certain := t.Cached(key), false
	for {
		if current == nil {
			var err error
			if current, err = t.read(ctx, key); err != nil {
				return nil, err
			}
			certain = true
		}
		change, err := try(current)
		if err != nil && certain {
			return nil, err
		}
		if err != nil {
			current = nil // perhaps only because the cache is behind
			continue
		}
		value, same, err := t.prepare(current, change)
		switch {
		case err != nil:
			return nil, err
		case same && certain:
			return current, nil
		case same: // "nothing to do" must be true of now
			current = nil
			continue
		}
		revision, found, err := t.swap(ctx, key, current.Revision, value, change.Also)
		switch {
		case err != nil:
			return nil, err
		case revision > 0:
			return t.written(current, value, revision)
		case found == nil: // deleted meanwhile, as the read will say
			current = nil
		case found.ModRevision == current.Revision:
			return nil, ErrAlsoConflict
		default:
			current, certain = t.item(found), true
		}
	}
}

// prepare makes the value that a change stores, nil if it deletes, and reports
// whether that is there already: then it is not written, and the
// resourceVersion stays.
func (t *Table) prepare(current *Item, change *Change) (value []byte, same bool, err error) {
	if change.Object == nil {
		return nil, false, nil
	}
	if value, err = t.encode(change.Object); err != nil {
		return nil, false, err
	}
	return value, t.unchanged(current, change, value), nil
}

// written is the item after a write: the new one, or the deleted one at the
// revision of its end.
func (t *Table) written(current *Item, value []byte, revision int64) (*Item, error) {
	if value == nil {
		return current.at(revision), nil
	}
	return newItem(t.row, current.Key, value, revision)
}

// unchanged reports whether a change would write what is there already.
func (t *Table) unchanged(current *Item, change *Change, value []byte) bool {
	if len(change.Also) > 0 || current.stale {
		return false
	}
	if IsProtobuf(value) {
		var err error
		if value, err = EncodeJSON(change.Object, t.row.GVK()); err != nil {
			return false
		}
	}
	return current.sameAs(value)
}

// read is a linearizable read of one key.
func (t *Table) read(ctx context.Context, key string) (*Item, error) {
	response, err := t.get(ctx, t.prefix+key)
	if err != nil {
		return nil, readError(err)
	}
	if len(response.Kvs) == 0 {
		_, name := SplitKey(key)
		return nil, apierrors.NewNotFound(t.row.GVR().GroupResource(), name)
	}
	item, err := t.open(response.Kvs[0])
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return item, nil
}

// swap puts or deletes key if it is at revision. It returns the revision of
// the write, or 0 and what is there instead.
func (t *Table) swap(ctx context.Context, key string, revision int64, value []byte, also []Also) (int64, *mvccpb.KeyValue, error) {
	ctx, cancel := context.WithTimeout(ctx, t.store.cfg.Timeout)
	defer cancel()
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(t.prefix+key), "=", revision)}
	operation, err := t.operation(ctx, key, value)
	if err != nil {
		return 0, nil, err
	}
	operations := []clientv3.Op{operation}
	for _, a := range also {
		if a.IfRevision != AnyRevision {
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(a.Table.prefix+a.Key), "=", a.IfRevision))
		}
		if a.Only {
			continue
		}
		var value []byte
		if a.Object != nil {
			if value, err = a.Table.encode(a.Object); err != nil {
				return 0, nil, err
			}
		}
		if operation, err = a.Table.operation(ctx, a.Key, value); err != nil {
			return 0, nil, err
		}
		operations = append(operations, operation)
	}
	response, err := t.store.client.Txn(ctx).If(conditions...).Then(operations...).Else(clientv3.OpGet(t.prefix + key)).Commit()
	if err != nil {
		return 0, nil, writeError(err)
	}
	if response.Succeeded {
		return response.Header.Revision, nil, nil
	}
	if found := response.Responses[0].GetResponseRange().Kvs; len(found) > 0 {
		return 0, found[0], nil
	}
	return 0, nil, nil
}

// operation is the put or delete of one key.
func (t *Table) operation(ctx context.Context, key string, value []byte) (clientv3.Op, error) {
	if value == nil {
		return clientv3.OpDelete(t.prefix + key), nil
	}
	if !IsProtobuf(value) {
		value = append(value[:len(value):len(value)], '\n') // as upstream's
	}
	sealed, err := seal(t.providers, value, []byte(t.prefix+key))
	if err != nil {
		return clientv3.Op{}, apierrors.NewInternalError(err)
	}
	text := string(sealed)
	if ttl := t.store.cfg.EventTTL; ttl > 0 && t.row.Group == "" && t.row.Plural == "events" {
		lease, err := t.store.leases.get(ctx, t.store.client, ttl)
		if err != nil {
			return clientv3.Op{}, readError(err)
		}
		return clientv3.OpPut(t.prefix+key, text, clientv3.WithLease(lease)), nil
	}
	return clientv3.OpPut(t.prefix+key, text), nil
}

// encode makes the value that is stored: it has no resourceVersion.
func (t *Table) encode(obj resources.Object) ([]byte, error) {
	obj.SetResourceVersion("")
	gvk := t.row.GVK()
	if t.store.cfg.MediaType == ProtobufMediaType && !t.row.StoredJSON {
		if value, err := EncodeProtobuf(obj, gvk); err == nil {
			return value, nil
		} // kinds without a protobuf form are stored as JSON
	}
	value, err := EncodeJSON(obj, gvk)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return value, nil
}

// leases shares one etcd lease among all Events of about the same minute:
// a lease each would cost etcd more than the events do.
type leases struct {
	mu      sync.Mutex // guards the fields
	id      clientv3.LeaseID
	renewAt time.Time
}

// leaseSharing is for how long a lease takes in new keys; they live this much
// longer at most.
const leaseSharing = time.Minute

func (l *leases) get(ctx context.Context, client *clientv3.Client, ttl time.Duration) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.renewAt) {
		return l.id, nil
	}
	grant, err := client.Grant(ctx, int64((ttl + leaseSharing).Seconds()))
	if err != nil {
		return 0, err
	}
	l.id, l.renewAt = grant.ID, time.Now().Add(leaseSharing)
	return l.id, nil
}

// FormatVersion is a revision as a resourceVersion.
func FormatVersion(revision int64) string { return strconv.FormatInt(revision, 10) }
