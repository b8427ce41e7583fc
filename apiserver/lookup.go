package apiserver

import (
	"context"
	"fmt"
	stdlog "log"
	"log/slog"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// The API server reads its own objects (roles, secrets, namespaces …) from the
// same tables that it serves them from.

// tableOf is the table of a built-in resource.
func (s *Server) tableOf(group, plural string) *storage.Table {
	return s.tables[schema.GroupResource{Group: group, Resource: plural}]
}

// cached returns an object as the cache has it: good enough where a moment's
// delay is, and for finding what exists for long.
func cached[T resources.Object](s *Server, group, plural, key string) (T, bool) {
	var none T
	table := s.tableOf(group, plural)
	if table == nil {
		return none, false
	}
	return decoded[T](table.Cached(key))
}

// current is cached, and asks etcd before it says no.
func current[T resources.Object](ctx context.Context, s *Server, group, plural, key string) (T, bool) {
	if obj, ok := cached[T](s, group, plural, key); ok {
		return obj, true
	}
	obj, err := fresh[T](ctx, s, group, plural, key)
	return obj, err == nil
}

// fresh returns an object as it is now.
func fresh[T resources.Object](ctx context.Context, s *Server, group, plural, key string) (T, error) {
	var none T
	item, err := s.tableOf(group, plural).Get(ctx, key, "")
	if err != nil {
		return none, err
	}
	obj, ok := decoded[T](item)
	if !ok {
		return none, apierrors.NewInternalError(fmt.Errorf("%s %s cannot be read", plural, key))
	}
	return obj, nil
}

// allCached returns all objects of a namespace, or of all for "".
func allCached[T resources.Object](s *Server, group, plural, namespace string) []T {
	table := s.tableOf(group, plural)
	if table == nil {
		return nil
	}
	var out []T
	for _, item := range table.All(namespace) {
		if obj, ok := decoded[T](item); ok {
			out = append(out, obj)
		}
	}
	return out
}

func decoded[T resources.Object](item *storage.Item) (T, bool) {
	var none T
	if item == nil {
		return none, false
	}
	obj, err := item.Object()
	if err != nil {
		return none, false
	}
	typed, ok := obj.(T)
	return typed, ok
}

// rowFor is the row of an object, by its Go type.
func (s *Server) rowFor(obj resources.Object) *resources.Row {
	for _, row := range s.allRows {
		if row.Stored() && reflect.TypeOf(row.New()) == reflect.TypeOf(obj) {
			return row
		}
	}
	return nil
}

func slogLogger(log *slog.Logger) *stdlog.Logger {
	return slog.NewLogLogger(log.Handler(), slog.LevelDebug)
}

func labelSet(set map[string]string) labels.Set { return labels.Set(set) }

func portOf(port int) intstr.IntOrString { return intstr.FromInt32(int32(port)) }
