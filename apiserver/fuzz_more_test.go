package apiserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// fuzzItem is a stored Deployment.
func fuzzItem(f *testing.F, row *resources.Row) *storage.Item {
	f.Helper()
	obj := row.New()
	obj.SetName("a")
	obj.SetNamespace("default")
	obj.SetLabels(map[string]string{"app": "web", "tier": "x"})
	item, err := storage.Draft(row, "default/a", obj, 7)
	if err != nil {
		f.Fatal(err)
	}
	return item
}

// The parameters of a list or watch: whatever they are, they are refused or
// can be used, and what was chosen by a selector can be shown in every form.
func FuzzListParameters(f *testing.F) {
	row := rowsByPlural(f)["deployments"]
	item := fuzzItem(f, row)
	for _, query := range []string{
		"labelSelector=app+in+(web,db),!gone,tier!=y", "labelSelector=a>1,b<2", "labelSelector=%2C%2C", "fieldSelector=metadata.name%3Da,metadata.namespace!=b",
		"fieldSelector=a\\,b%3Dc", "limit=-1", "limit=5&continue=abc", "resourceVersion=0&resourceVersionMatch=Exact",
		"watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "timeoutSeconds=1e9", "pretty=maybe", "includeObject=Metadata",
	} {
		f.Add(query, "application/json")
	}
	f.Add("", "application/json;as=Table;g=meta.k8s.io;v=v1,*/*")
	f.Add("", "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1")
	f.Add("", "application/yaml;q=0.1")
	f.Fuzz(func(t *testing.T, query, accept string) {
		q := fuzzRequest(row)
		q.Request = httptest.NewRequest(http.MethodGet, "/", nil)
		q.URL = &url.URL{Path: "/", RawQuery: query}
		q.Header.Set("Accept", accept)
		options, err := q.listOptions()
		if err != nil {
			return
		}
		selector, err := selectorOf(row, options)
		if err != nil {
			return
		}
		if selector.Empty() != (selector.Labels.Empty() && selector.Fields.Empty()) {
			t.Errorf("%q: empty and not empty", query)
		}
		if q.format, err = formatOf(q.Request, q.query(), false); err != nil {
			return
		}
		page := &storage.Page{Items: []*storage.Item{item}, Revision: 7}
		if _, err := q.format.list(row, page, time.Unix(0, 0), q.includeObject()); err != nil {
			t.Errorf("%q as %q: %v", query, accept, err)
		}
	})
}

// Server-side apply: what a manager states is refused or becomes an object.
func FuzzApply(f *testing.F) {
	rows := resources.All()
	tracker := newFieldTracker()
	tracker.schemas = newOpenAPI(rows)
	row := rowsByPlural(f)["deployments"]
	live, err := fuzzItem(f, row).Object()
	if err != nil {
		f.Fatal(err)
	}
	for _, patch := range []string{
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {replicas: 3}\n",
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, managedFields: []}\nspec: {template: {spec: {containers: [{name: c}, {name: c}]}}}\n",
		"apiVersion: apps/v1\nkind: Deployment\nspec: {selector: 7, template: [&a {x: *a}]}\n",
		"kind: [a\n", "- 1\n", "null", "a: &a [*a, *a]\n",
	} {
		f.Add([]byte(patch))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		q := fuzzRequest(row)
		q.name, q.options.fieldValidation = "a", metav1.FieldValidationWarn
		patch, err := q.appliedObject(data, q.row)
		if err != nil {
			return
		}
		m, err := tracker.manager(q)
		if err != nil {
			return
		}
		merged, err := m.Apply(live.DeepCopyObject(), patch, "fuzz", true)
		if err != nil {
			return
		}
		q.validateNew(merged.(resources.Object))
	})
}

// DeleteOptions and the parameters of writes.
func FuzzWriteParameters(f *testing.F) {
	row := rowsByPlural(f)["pods"]
	for _, media := range []string{storage.JSONMediaType, yamlMediaType, storage.ProtobufMediaType} {
		f.Add(media, "dryRun=All&fieldManager=x&fieldValidation=Strict&force=true", []byte(`{"kind":"DeleteOptions","gracePeriodSeconds":-1,"propagationPolicy":"Orphan"}`))
		f.Add(media, "gracePeriodSeconds=9223372036854775808", []byte("k8s\x00\n\x00"))
		f.Add(media, "propagationPolicy=Foreground&orphanDependents=maybe", []byte{})
	}
	f.Fuzz(func(_ *testing.T, media, query string, data []byte) {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch} {
			r := httptest.NewRequest(method, "/", nil)
			r.URL = &url.URL{Path: "/", RawQuery: query}
			r.Header.Set("Content-Type", media)
			readWriteOptions(r, r.URL.Query())
		}
		var options metav1.DeleteOptions
		if decodeOptions(data, media, &options) != nil {
			return
		}
		q, pod := fuzzRequest(row), row.New()
		pod.SetName("p")
		q.preconditions(pod, options.Preconditions)
		q.mark(pod, &options)
	})
}
