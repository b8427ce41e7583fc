package hollow

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/internal/reference"
	"tinykube/test/clusters"
)

var all = metav1.ListOptions{}

// TestManifests: StatefulSets, Deployments and ReplicationControllers of real
// applications reach their state, each with its names, its claims and its
// endpoints.
func TestManifests(t *testing.T) {
	manifests := reference.Path(t, "manifests")
	c := clusters.New(t)
	c.Scheduler()
	c.ControllerManager("")
	c.Hollow(5)
	c.Provision()
	c.Ready(5)
	applications(c, manifests)
	c.MustKubectl("apply", "-k", filepath.Join(manifests, "podinfo/deploy/overlays/dev"))
	c.MustKubectl("create", "job", "-n", "dev", "now", "--from=cronjob/backup-daily")
	settled(t, c, "default", "guestbook", "dev")
	c.MustKubectl("wait", "-n", "dev", "job/now", "--for=condition=Complete", "--timeout=60s")
	names, err := c.Kubectl("get", "pods", "-A", "-l", "apps.kubernetes.io/pod-index", "-o", "name", "--sort-by=.metadata.name")
	want := []string{"cassandra-0", "cassandra-1", "cassandra-2", "cockroachdb-0", "cockroachdb-1", "cockroachdb-2", "database-primary-0", "minio-0", "minio-1", "minio-2", "minio-3"}
	got := strings.Fields(strings.ReplaceAll(names, "pod/", ""))
	if slices.Sort(got); err != nil || !slices.Equal(got, want) {
		t.Errorf("the sets' pods are %s, want %s (%v)", got, want, err)
	}
	t.Log("\n" + c.MustKubectl("get", "statefulsets,deployments,replicationcontrollers,cronjobs,persistentvolumeclaims,endpointslices", "-A", "-o", "wide"))
}

// applications applies Kubernetes' examples as they are.
func applications(c *clusters.Cluster, manifests string) {
	c.MustKubectl("create", "namespace", "guestbook") // two of them have objects of the same names
	for app, namespace := range map[string]string{"cassandra": "default", "cockroachdb": "default", "minio": "default", "guestbook-go": "default", "guestbook-all-in-one": "guestbook"} {
		out, err := c.Kubectl("apply", "-n", namespace, "-f", filepath.Join(manifests, "apps", app))
		// One file is of a version of a budget that v1.36 does not have either.
		outdated := app == "cockroachdb" && strings.Contains(out, `no matches for kind "PodDisruptionBudget" in version "policy/v1beta1"`)
		if err != nil && !outdated {
			c.T.Errorf("apply %s: %v\n%s", app, err, out)
		}
	}
}

// settled waits until the workloads of some namespaces are what they ask for.
func settled(t *testing.T, c *clusters.Cluster, namespaces ...string) {
	t.Helper()
	for _, namespace := range namespaces {
		clusters.Eventually(t, "everything available in "+namespace, func(ctx context.Context) (bool, error) {
			return available(ctx, c, namespace)
		})
	}
}

func available(ctx context.Context, c *clusters.Cluster, namespace string) (bool, error) {
	sets, err := client.For(c.Client, client.StatefulSets).List(ctx, namespace, all)
	if err != nil {
		return false, err
	}
	for _, s := range sets.Items {
		if s.Status.AvailableReplicas != *s.Spec.Replicas || s.Status.CurrentRevision != s.Status.UpdateRevision || s.Status.ObservedGeneration != s.Generation {
			return false, fmt.Errorf("%s: %+v", s.Name, s.Status)
		}
	}
	deployments, err := client.For(c.Client, client.Deployments).List(ctx, namespace, all)
	if err != nil {
		return false, err
	}
	for _, d := range deployments.Items {
		if d.Status.AvailableReplicas != *d.Spec.Replicas || d.Status.UpdatedReplicas != *d.Spec.Replicas {
			return false, fmt.Errorf("%s: %+v", d.Name, d.Status)
		}
	}
	controllers, err := client.For(c.Client, client.ReplicationControllers).List(ctx, namespace, all)
	if err != nil {
		return false, err
	}
	for _, rc := range controllers.Items {
		if rc.Status.AvailableReplicas != *rc.Spec.Replicas {
			return false, fmt.Errorf("%s: %+v", rc.Name, rc.Status)
		}
	}
	return len(sets.Items)+len(deployments.Items) > 0, nil
}
