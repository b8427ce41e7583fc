package storage

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/btree"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
)

// A LIST reads one frozen tree. Freezing is O(1): the B-tree is cloned lazily,
// node by node, when it next changes, and all lists between two changes share
// one clone. A LIST in pages must show the same moment on every page, so the
// tree of a page that has a next one is kept for a while; when it is gone, or
// when another server handed out the token, etcd still has that revision until
// it is compacted.

// keepPages bounds how many moments are kept for lists in pages.
const keepPages = 8

// snapshot is the table's tree at a revision; it was the same at all revisions
// between from and to.
type snapshot struct {
	at, from, to int64
	tree         *btree.BTreeG[*Item]
}

// ListOptions are the storage's part of metav1.ListOptions. The caller has
// validated their combination.
type ListOptions struct {
	Row                  *resources.Row // the table's, or a view of it
	Namespace            string
	Selector             Selector
	ResourceVersion      string
	ResourceVersionMatch metav1.ResourceVersionMatch
	Limit                int64
	Continue             string
}

// Page is the answer to a LIST: items to ship, and where to go on.
type Page struct {
	Items     []*Item
	Revision  int64
	Continue  string
	Remaining *int64
}

// List returns a page of the table at one moment.
func (t *Table) List(ctx context.Context, o ListOptions) (*Page, error) {
	var revision int64 // exactly this one, unless 0
	var start string
	var err error
	if o.ResourceVersion == "0" && o.Continue == "" {
		o.Limit = 0 // what is cached is served whole
	}
	asked, err := parseVersion(o.ResourceVersion)
	switch {
	case err != nil:
		return nil, apierrors.NewBadRequest("invalid resource version: " + err.Error())
	case o.Continue != "" && o.ResourceVersion != "" && o.ResourceVersion != "0":
		return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
	case o.Continue != "":
		if revision, start, err = decodeContinue(o.Continue); err != nil {
			return nil, err
		}
	case o.ResourceVersionMatch == metav1.ResourceVersionMatchExact,
		o.ResourceVersionMatch == "" && o.Limit > 0 && o.ResourceVersion != "" && o.ResourceVersion != "0":
		revision = asked
	}
	version := o.ResourceVersion
	if revision > 0 {
		version = strconv.FormatInt(revision, 10)
	}
	if revision < 0 { // an inconsistent continuation: from start, but of now
		version, revision = "", 0
	}
	if err := t.fresh(ctx, version); err != nil {
		return nil, err
	}
	moment, ok := t.moment(revision)
	if !ok {
		return t.listPast(ctx, o, revision, start)
	}
	return t.page(moment, o, start), nil
}

// moment returns the tree at a revision, or now for 0, and whether it is known.
func (t *Table) moment(revision int64) (snapshot, bool) {
	t.mu.RLock()
	if t.frozen != nil {
		defer t.mu.RUnlock()
		return t.lookUp(revision)
	}
	t.mu.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.freeze()
	return t.lookUp(revision)
}

// lookUp is moment with mu held and the tree frozen.
func (t *Table) lookUp(revision int64) (snapshot, bool) {
	now := snapshot{at: t.revision, from: t.changed, to: t.revision, tree: t.frozen}
	if revision == 0 {
		return now, true
	}
	for _, s := range append(t.pages[:len(t.pages):len(t.pages)], now) {
		if s.from <= revision && revision <= s.to {
			s.at = revision
			return s, true
		}
	}
	return snapshot{}, false
}

// freeze returns a tree that will not change. The caller holds mu.
func (t *Table) freeze() *btree.BTreeG[*Item] {
	if t.frozen == nil {
		t.frozen = t.tree.Clone()
	}
	return t.frozen
}

// page cuts a page out of a moment.
func (t *Table) page(moment snapshot, o ListOptions, start string) *Page {
	page := &Page{Revision: moment.at}
	more := false
	var rest int64
	walk(moment.tree, o.Namespace, start, func(stored *Item) bool {
		if more {
			rest++
			return o.Selector.Empty()
		}
		item, err := stored.As(o.Row)
		if err != nil || !o.Selector.matches(item) {
			return true
		}
		if o.Limit > 0 && int64(len(page.Items)) == o.Limit {
			more, rest = true, 1
			return o.Selector.Empty()
		}
		page.Items = append(page.Items, item)
		return true
	})
	if more {
		page.Continue = encodeContinue(page.Revision, page.Items[len(page.Items)-1].Key)
		if o.Selector.Empty() {
			page.Remaining = &rest
		}
		t.keep(moment)
	}
	return page
}

// keep remembers a moment for the next page.
func (t *Table) keep(moment snapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, s := range t.pages {
		if s.tree == moment.tree {
			t.pages[i].to = max(s.to, moment.to)
			return
		}
	}
	if len(t.pages) == keepPages {
		t.pages = t.pages[1:]
	}
	t.pages = append(t.pages, moment)
}

// walk visits the items of a namespace, or all, from start on.
func walk(tree *btree.BTreeG[*Item], namespace, start string, visit func(*Item) bool) {
	scope := ""
	if namespace != "" {
		scope = namespace + "/"
	}
	tree.AscendGreaterOrEqual(&Item{Key: max(start, scope)}, func(item *Item) bool {
		return strings.HasPrefix(item.Key, scope) && visit(item)
	})
}

// selectItems returns what a selector chooses.
func selectItems(tree *btree.BTreeG[*Item], row *resources.Row, namespace string, selector Selector) []*Item {
	var out []*Item
	walk(tree, namespace, "", func(stored *Item) bool {
		if item, err := stored.As(row); err == nil && selector.matches(item) {
			out = append(out, item)
		}
		return true
	})
	return out
}

// All returns the cache's present items of a namespace, or all; they may be
// stale.
func (t *Table) All(namespace string) []*Item {
	moment, _ := t.moment(0)
	return selectItems(moment.tree, t.row, namespace, everything())
}

// listPast reads a page of a revision that the cache no longer has.
func (t *Table) listPast(ctx context.Context, o ListOptions, revision int64, start string) (*Page, error) {
	scope := t.prefix
	if o.Namespace != "" {
		scope += o.Namespace + "/"
	}
	from := max(scope, t.prefix+start)
	page := &Page{Revision: revision}
	for {
		response, err := t.get(ctx, from, clientv3.WithRange(prefixEnd(scope)), clientv3.WithRev(revision), clientv3.WithLimit(loadPage))
		if errors.Is(err, rpctypes.ErrCompacted) && o.Continue != "" {
			return nil, expiredContinue(start)
		} else if err != nil {
			return nil, readError(err)
		}
		for _, kv := range response.Kvs {
			stored := t.item(kv)
			if stored == nil {
				continue
			}
			item, err := stored.As(o.Row)
			if err != nil || !o.Selector.matches(item) {
				continue
			}
			if o.Limit > 0 && int64(len(page.Items)) == o.Limit {
				page.Continue = encodeContinue(revision, page.Items[len(page.Items)-1].Key)
				return page, nil
			}
			page.Items = append(page.Items, item)
		}
		if !response.More {
			return page, nil
		}
		from = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
}

// continueToken is upstream's form, so that a list can be continued at another
// server of the same cluster.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/storage/continue.go
type continueToken struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

func encodeContinue(revision int64, last string) string {
	token, _ := json.Marshal(continueToken{continueVersion, revision, last + "\x00"})
	return base64.RawURLEncoding.EncodeToString(token)
}

func decodeContinue(encoded string) (revision int64, start string, err error) {
	data, err := base64.RawURLEncoding.DecodeString(encoded)
	var token continueToken
	if err == nil {
		err = json.Unmarshal(data, &token)
	}
	switch {
	case err != nil:
	case token.Version != continueVersion:
		err = fmt.Errorf("server does not recognize this encoded version %v", token.Version)
	case token.Revision == 0:
		err = errors.New("incorrect encoded start resourceVersion (version meta.k8s.io/v1)")
	case token.Start == "" || strings.HasPrefix(token.Start, "/") || strings.Contains(token.Start, ".."):
		err = fmt.Errorf("invalid continue start key %q", token.Start)
	}
	if err != nil {
		return 0, "", apierrors.NewBadRequest("invalid continue token: continue key is not valid: " + err.Error())
	}
	return token.Revision, token.Start, nil
}

// expiredContinue offers to go on with the present state instead.
func expiredContinue(start string) error {
	err := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
		"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
		"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time " +
		"the first chunk was returned and now may show up in the list.")
	err.ErrStatus.ListMeta.Continue = encodeContinue(-1, strings.TrimSuffix(start, "\x00"))
	return err
}

// parseVersion reads a resourceVersion; "" is 0.
func parseVersion(version string) (int64, error) {
	if version == "" {
		return 0, nil
	}
	revision, err := strconv.ParseInt(version, 10, 64)
	if err != nil || revision < 0 {
		return 0, fmt.Errorf("resourceVersion: Invalid value: %q: strconv.ParseUint: parsing %q: invalid syntax", version, version)
	}
	return revision, nil
}
