package cronjob

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

const workers = 5

type controller struct {
	*harness.Scope
	cronJobs *harness.Store[*batchv1.CronJob]
	jobs     *harness.Store[*batchv1.Job]
}

// Register adds the controller to a manager.
func Register(m *harness.Manager) {
	s := m.Scope(harness.Identity{Name: "cronjob-controller", Account: "cronjob-controller", Source: "cronjob-controller"})
	c := &controller{Scope: s, cronJobs: harness.StoreOf(s, client.CronJobs), jobs: harness.StoreOf(s, client.Jobs)}
	loop := harness.NewLoop(s, workers, c.reconcile)
	harness.WatchSelf(loop, c.cronJobs)
	harness.WatchOwned(loop, c.jobs, "CronJob", nil)
}

func (c *controller) reconcile(ctx context.Context, key string) (time.Duration, error) {
	cronJob, ok := c.cronJobs.Get(client.SplitKey(key))
	if !ok {
		return 0, nil
	}
	jobs := c.jobs.ByIndex(harness.ByController, string(cronJob.UID))
	p := makePlan(snapshot{cronJob: cronJob, jobs: jobs, now: time.Now()})
	for _, e := range p.events {
		c.Events.Event(cronJob, e.kind, e.reason, "%s", e.message)
	}
	for _, job := range p.delete {
		if err := c.deleteJob(ctx, cronJob, job); err != nil {
			return 0, err
		}
		p.status.Active = slices.DeleteFunc(p.status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
	}
	if !p.start.IsZero() {
		job, err := c.startJob(ctx, cronJob, p.start)
		if err != nil {
			return 0, err
		}
		p.status.LastScheduleTime = &metav1.Time{Time: p.start}
		if job != nil && ended(job) == "" && !isActive(p.status.Active, job) {
			p.status.Active = append(p.status.Active, reference(job))
		}
	}
	return p.again, c.updateStatus(ctx, cronJob, p.status)
}

// startJob creates a run's Job. If it is there already, made by us before we
// could say so in the status, that one is returned; nil if the name is
// someone else's.
func (c *controller) startJob(ctx context.Context, cronJob *batchv1.CronJob, due time.Time) (*batchv1.Job, error) {
	if there, ok := c.jobs.Get(cronJob.Namespace, jobName(cronJob, due)); ok && metav1.IsControlledBy(there, cronJob) {
		return there, nil
	}
	job, err := c.jobs.Create(ctx, newJob(cronJob, due))
	switch {
	case apierrors.IsAlreadyExists(err):
		there, err := c.jobs.Live(ctx, cronJob.Namespace, jobName(cronJob, due))
		if err != nil || !metav1.IsControlledBy(there, cronJob) {
			return nil, err
		}
		return there, nil
	case err != nil:
		if ctx.Err() == nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			c.Events.Event(cronJob, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		}
		return nil, fmt.Errorf("create Job: %w", err)
	}
	c.Events.Event(cronJob, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	return job, nil
}

func (c *controller) deleteJob(ctx context.Context, cronJob *batchv1.CronJob, job *batchv1.Job) error {
	background := metav1.DeletePropagationBackground
	if err := c.jobs.Delete(ctx, job, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		c.Events.Event(cronJob, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete Job %s: %w", job.Name, err)
	}
	c.Events.Event(cronJob, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}

func (c *controller) updateStatus(ctx context.Context, cronJob *batchv1.CronJob, status batchv1.CronJobStatus) error {
	if equality.Semantic.DeepEqual(cronJob.Status, status) {
		return nil
	}
	updated := cronJob.DeepCopy()
	updated.Status = status
	_, err := c.cronJobs.UpdateStatus(ctx, updated)
	return err
}
