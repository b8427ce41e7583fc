package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const workers = 5

// controllerName is who manages Jobs without spec.managedBy.
const controllerName = "kubernetes.io/job-controller"

type controller struct {
	*harness.Scope
	jobs *harness.Store[*batchv1.Job]
	pods *harness.Store[*corev1.Pod]
}

func selectorOf(owner *batchv1.Job) *metav1.LabelSelector { return owner.Spec.Selector }

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "job-controller", Account: "job-controller", Source: "job-controller"})
	c := &controller{Scope: s, jobs: harness.StoreOf(s, client.Jobs), pods: harness.StoreOf(s, client.Pods)}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchWorkload(loop, c.jobs, c.pods, selectorOf)

	// Pods that nobody will count any more must not keep the finalizer.
	leftovers := harness.NewLoop(s, 1, c.letGo)
	harness.WatchSelf(leftovers, c.pods)
	harness.Watch(leftovers, c.jobs, func(old, new *batchv1.Job) []string {
		if new != nil && !finished(new) {
			return nil
		}
		owner := new
		if owner == nil {
			owner = old
		}
		var keys []string
		for _, pod := range c.pods.ByIndex(harness.ByController, string(owner.UID)) {
			keys = append(keys, client.Key(pod))
		}
		return keys
	})
}

// letGo removes the finalizer from a pod whose Job is gone or finished, or
// that belongs to no one.
func (c *controller) letGo(ctx context.Context, key string) (time.Duration, error) {
	pod, ok := c.pods.Get(client.SplitKey(key))
	if !ok || !tracked(pod) {
		return 0, nil
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if ref.Kind != client.Jobs.Kind {
			return 0, nil
		}
		if job, ok := c.jobs.Get(pod.Namespace, ref.Name); ok && job.UID == ref.UID && (!managed(job) || !finished(job)) {
			return 0, nil
		}
	}
	return 0, c.release(ctx, pod)
}

// managed says whether the Job is ours and not another controller's.
func managed(job *batchv1.Job) bool {
	return job.Spec.ManagedBy == nil || *job.Spec.ManagedBy == controllerName
}

// steps bounds how often one reconcile goes on by itself. Counting a pod takes
// two, its end a third.
const steps = 4

func (c *controller) reconcile(ctx context.Context, key string) (again time.Duration, err error) {
	for range steps {
		job, ok := c.jobs.Get(client.SplitKey(key))
		if !ok || !managed(job) || finished(job) {
			return 0, nil
		}
		selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
		if err != nil || selector.Empty() {
			return 0, nil // the server does not let such a one in
		}
		var more bool
		if again, more, err = c.step(ctx, job, selector); err != nil || !more {
			return again, err
		}
	}
	return time.Millisecond, nil // others wait for this worker
}

// step does what can be done now; more says that it may have made room for
// something else.
func (c *controller) step(ctx context.Context, job *batchv1.Job, selector labels.Selector) (again time.Duration, more bool, err error) {
	// Simplified: adopted pods do not get the finalizer, so one that ends is
	// not counted and another is made. Upstream adds it with the reference.
	pods, err := harness.Settle(ctx, c.pods, c.jobs, job, harness.Claim(job, selector, harness.Candidates(c.pods, job)))
	if err != nil {
		return 0, false, err
	}
	s := snapshot{job: job, pods: pods, now: time.Now()}
	t := count(s)
	decided, deadline := verdict(s, t)
	p := makePlan(s, t, decided)
	failure := c.apply(ctx, s, t, p)

	// Look again: the store shows what apply did.
	s.pods = harness.Claim(job, selector, c.pods.ByIndex(harness.ByController, string(job.UID))).Owned
	status, release := makeStatus(s, count(s), decided)
	wrote, err := c.updateStatus(ctx, job, status)
	if err != nil {
		return 0, false, errors.Join(failure, err)
	}
	err = harness.Parallel(len(release), func(i int) error { return c.release(ctx, release[i]) })
	again = harness.Sooner(p.again, deadline)
	return again, len(release)+len(p.delete) > 0 || wrote && decided != nil, errors.Join(failure, err)
}

func (c *controller) apply(ctx context.Context, s snapshot, t tally, p plan) error {
	deleteErr := harness.Parallel(len(p.delete), func(i int) error {
		if p.uncounted {
			if err := c.release(ctx, p.delete[i]); err != nil {
				return err
			}
		}
		return c.deletePod(ctx, s.job, p.delete[i])
	})
	createErr := harness.SlowStart(len(p.create), func(i int) error {
		return c.createPod(ctx, s.job, newPod(s, t, p.create[i]))
	})
	return errors.Join(deleteErr, createErr)
}

func (c *controller) createPod(ctx context.Context, job *batchv1.Job, pod *corev1.Pod) error {
	created, err := c.pods.Create(ctx, pod)
	if err != nil {
		if !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) && ctx.Err() == nil {
			c.Events.Event(job, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return fmt.Errorf("create pod: %w", err)
	}
	c.Events.Event(job, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %s", created.Name)
	return nil
}

func (c *controller) deletePod(ctx context.Context, job *batchv1.Job, pod *corev1.Pod) error {
	if err := c.pods.Delete(ctx, pod, metav1.DeleteOptions{}); err != nil {
		c.Events.Event(job, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	c.Events.Event(job, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %s", pod.Name)
	return nil
}

// release removes the finalizer from a pod, if it is there.
func (c *controller) release(ctx context.Context, pod *corev1.Pod) error {
	if !tracked(pod) {
		return nil
	}
	patch := fmt.Sprintf(`{"metadata":{"uid":%q,"$deleteFromPrimitiveList/finalizers":[%q]}}`, pod.UID, batchv1.JobTrackingFinalizer)
	_, err := c.pods.Patch(ctx, pod.Namespace, pod.Name, types.StrategicMergePatchType, []byte(patch))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove finalizer from pod %s: %w", pod.Name, err)
	}
	return nil
}

func (c *controller) updateStatus(ctx context.Context, job *batchv1.Job, status batchv1.JobStatus) (wrote bool, err error) {
	if equality.Semantic.DeepEqual(job.Status, status) {
		return false, nil
	}
	updated := job.DeepCopy()
	updated.Status = status
	written, err := c.jobs.UpdateStatus(ctx, updated)
	if err != nil {
		return false, err
	}
	c.tell(job, written)
	return true, nil
}

// tell reports what became of a Job.
func (c *controller) tell(was, is *batchv1.Job) {
	for _, now := range is.Status.Conditions {
		before := condition(was, now.Type)
		if before != nil && before.Status == now.Status || before == nil && now.Status != corev1.ConditionTrue {
			continue
		}
		switch {
		case now.Type == batchv1.JobSuspended && now.Status == corev1.ConditionTrue:
			c.Events.Event(is, corev1.EventTypeNormal, "Suspended", "%s", now.Message)
		case now.Type == batchv1.JobSuspended:
			c.Events.Event(is, corev1.EventTypeNormal, "Resumed", "%s", now.Message)
		case now.Type == batchv1.JobFailed:
			c.Events.Event(is, corev1.EventTypeWarning, now.Reason, "%s", now.Message)
		case now.Type == batchv1.JobComplete:
			if is.Spec.Completions != nil && is.Status.Succeeded > *is.Spec.Completions {
				c.Events.Event(is, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
			}
			c.Events.Event(is, corev1.EventTypeNormal, "Completed", "Job completed")
		}
	}
}
