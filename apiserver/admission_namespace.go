package apiserver

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/apiserver/storage"
)

// immortalNamespaces cannot be deleted: the cluster itself lives there.
var immortalNamespaces = []string{"default", "kube-system", "kube-public"}

// admitNamespaceLifecycle keeps objects out of namespaces that do not exist,
// or are on their way out: otherwise a namespace might never become empty.
func admitNamespaceLifecycle(a *admission) error {
	if a.row.Kind == "Namespace" && a.obj == nil && slices.Contains(immortalNamespaces, a.old.GetName()) {
		return apierrors.NewForbidden(a.row.GVR().GroupResource(), a.old.GetName(), errors.New("this namespace may not be deleted"))
	}
	if a.old != nil || !a.row.Namespaced {
		return nil
	}
	item := a.server.tableOf("", "namespaces").Cached(a.namespace)
	if item == nil {
		return a.server.lookAtNamespace(a.request, a.obj.GetName())
	}
	return a.server.openNamespace(a.request, item, a.obj.GetName())
}

// lookAtNamespace is openNamespace for the namespace as it is now.
func (s *Server) lookAtNamespace(q *request, name string) error {
	item, err := s.tableOf("", "namespaces").Get(q.Context(), q.namespace, "")
	if err != nil {
		return err
	}
	return s.openNamespace(q, item, name)
}

// openNamespace refuses a new object in a namespace that is being deleted. If
// it is not, its revision becomes a condition of the write: between this look
// and the write, somebody may delete it.
func (s *Server) openNamespace(q *request, item *storage.Item, name string) error {
	namespace, ok := decoded[*corev1.Namespace](item)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("namespace %s cannot be read", q.namespace))
	}
	if namespace.DeletionTimestamp == nil {
		q.inNamespace = item.Revision
		return nil
	}
	err := apierrors.NewForbidden(q.row.GVR().GroupResource(), name,
		fmt.Errorf("unable to create new content in namespace %s because it is being terminated", q.namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", q.namespace), Field: "metadata.namespace",
	})
	return err
}
