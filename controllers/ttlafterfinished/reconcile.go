package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

type controller struct {
	*harness.Scope
	jobs *harness.Store[*batchv1.Job]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "ttl-after-finished-controller", Account: "ttl-after-finished-controller", Source: "ttl-after-finished-controller"})
	c := &controller{Scope: s, jobs: harness.StoreOf(s, client.Jobs)}
	loop := harness.NewLoop(s, 1, c.reconcile)
	harness.WatchSelf(loop, c.jobs)
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	job, ok := c.jobs.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	if left, due := expiry(job, time.Now()); !due {
		return left, nil
	}
	// The cache may be old, and the time to live have been prolonged since.
	fresh, err := c.jobs.Live(ctx, job.Namespace, job.Name)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("before deleting: %w", err)
	}
	if left, due := expiry(fresh, time.Now()); !due || fresh.UID != job.UID {
		return left, nil
	}
	foreground := metav1.DeletePropagationForeground
	return 0, c.jobs.Delete(ctx, fresh, metav1.DeleteOptions{
		PropagationPolicy: &foreground, Preconditions: &metav1.Preconditions{ResourceVersion: &fresh.ResourceVersion},
	})
}

// expiry says whether a Job is to be deleted; if that is a matter of time
// only, left is how long.
func expiry(job *batchv1.Job, now time.Time) (left time.Duration, due bool) {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return 0, false
	}
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			left = c.LastTransitionTime.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second).Sub(now)
			return max(left, 0), left <= 0
		}
	}
	return 0, false
}
