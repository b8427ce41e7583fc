package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/apiserver/resources"
)

// What the API server does of its own accord, without a request: it makes sure
// that every cluster's first objects exist, and keeps the kubernetes Service
// pointing at itself.

const (
	housekeepingEvery = 10 * time.Second
	seedRetry         = time.Second
	seedWorkers       = 16
)

// housekeeping runs until ctx ends.
func (s *Server) housekeeping(ctx context.Context) error {
	select {
	case <-s.store.Ready():
	case <-ctx.Done():
		return nil
	}
	if err := s.writeAdminKubeconfig(); err != nil {
		return fmt.Errorf("write the admin kubeconfig: %w", err)
	}
	for {
		err := s.seed(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			s.log.Warn("Cannot keep the cluster's own objects, will retry", "err", err)
		} else if !s.seeded.Swap(true) {
			close(s.ready)
		}
		wait := housekeepingEvery
		if !s.seeded.Load() {
			wait = seedRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			s.withdraw(ctx)
			return nil
		}
	}
}

// seed creates what is missing.
func (s *Server) seed(ctx context.Context) error {
	if !s.seeded.Load() {
		if err := s.seedDefaults(ctx); err != nil {
			return err
		}
		// Who is told that we are ready must find its rights.
		for _, plural := range rbacTables {
			if err := s.tableOf(rbacv1.GroupName, plural).CatchUp(ctx); err != nil {
				return err
			}
		}
	}
	if time.Since(s.repaired) >= repairEvery {
		if err := s.services.repair(ctx); err != nil {
			return err
		}
		s.repaired = time.Now()
	}
	return s.publish(ctx)
}

// seedDefaults creates the default objects: first the namespaces, in which the
// others live, and then these all at once.
func (s *Server) seedDefaults(ctx context.Context) error {
	objects := defaultObjects()
	for len(objects) > 0 {
		if _, ok := objects[0].(*corev1.Namespace); !ok {
			break
		}
		if err := s.ensure(ctx, objects[0]); err != nil {
			return err
		}
		objects = objects[1:]
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(seedWorkers)
	for _, obj := range objects {
		group.Go(func() error {
			if obj.GetLabels()["kubernetes.io/bootstrapping"] != "" {
				return s.reconcileRBAC(ctx, obj)
			}
			return s.ensure(ctx, obj)
		})
	}
	return group.Wait()
}

// ensure creates an object of our own if it is missing.
func (s *Server) ensure(ctx context.Context, obj resources.Object) error {
	q := s.internal(ctx, s.rowFor(obj), obj.GetNamespace(), obj.GetName())
	if q.table.Cached(q.key()) != nil {
		return nil
	}
	_, err := s.createObject(q, obj)
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// internal is a request of our own: it goes the way of all others, but for
// authentication and authorization.
func (s *Server) internal(ctx context.Context, row *resources.Row, namespace, name string) *request {
	return &request{
		Request: (&http.Request{Header: http.Header{}}).WithContext(ctx),
		w:       &answer{ResponseWriter: nowhere{}},
		target:  target{isResource: true, group: row.Group, version: row.Version, resource: row.Plural, namespace: namespace, name: name},
		user:    &user{name: userSelf, groups: []string{groupMasters}},
		row:     row, table: s.store.Table(row),
		options: writeOptions{fieldManager: "kube-apiserver"},
	}
}

// nowhere is where an internal request's answer goes.
type nowhere struct{}

func (nowhere) Header() http.Header            { return http.Header{} }
func (nowhere) Write(data []byte) (int, error) { return len(data), nil }
func (nowhere) WriteHeader(int)                {}

// stampNew is what the server says about an object that it makes itself.
func stampNew(obj resources.Object) {
	obj.SetUID(types.UID(uuid.NewString()))
	obj.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
}
