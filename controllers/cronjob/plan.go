package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/cron"
	"tinykube/client"
	"tinykube/controllers/harness"
)

// manyMissed is how many missed runs make a warning.
const manyMissed = 100

// afterDue is waited for beside a run's time, so that clocks which differ by
// little do not wake us early.
const afterDue = 100 * time.Millisecond

// snapshot is all that a plan is made of.
type snapshot struct {
	cronJob *batchv1.CronJob
	jobs    []*batchv1.Job // what it owns
	now     time.Time
}

// plan is what has to happen.
type plan struct {
	status batchv1.CronJobStatus // before start
	delete []*batchv1.Job
	start  time.Time // the run to start; zero for none
	again  time.Duration
	events []event
}

type event struct{ kind, reason, message string }

func (p *plan) say(kind, reason, format string, args ...any) {
	p.events = append(p.events, event{kind, reason, fmt.Sprintf(format, args...)})
}

// makePlan decides.
//
// Upstream: kubernetes/kubernetes pkg/controller/cronjob syncCronJob
func makePlan(s snapshot) plan {
	p := plan{status: *s.cronJob.Status.DeepCopy()}
	s.keepActive(&p)
	p.delete = s.history()
	if s.cronJob.DeletionTimestamp != nil || s.cronJob.Spec.Suspend != nil && *s.cronJob.Spec.Suspend {
		return p
	}
	schedule, err := s.schedule(&p)
	if err != nil {
		return p
	}
	due, missed := s.latestDue(schedule)
	if next := schedule.Next(s.now); !next.IsZero() {
		p.again = next.Add(afterDue).Sub(s.now)
	}
	if missed > manyMissed {
		p.say(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if !due.IsZero() {
		s.decide(&p, due)
	}
	return p
}

// decide says what becomes of a run that is due.
func (s snapshot) decide(p *plan, due time.Time) {
	deadline := s.cronJob.Spec.StartingDeadlineSeconds
	switch {
	case slices.ContainsFunc(s.jobs, func(job *batchv1.Job) bool { return job.Name == jobName(s.cronJob, due) }):
		// Started before we could say so in the status: say it now.
	case deadline != nil && due.Add(time.Duration(*deadline)*time.Second).Before(s.now):
		p.say(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return
	case s.cronJob.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(p.status.Active) > 0:
		p.say(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return
	case s.cronJob.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, job := range s.jobs {
			if isActive(p.status.Active, job) && job.Name != jobName(s.cronJob, due) {
				p.delete = append(p.delete, job)
			}
		}
	}
	p.start = due
}

// schedule reads the schedule in its time zone; without one, the manager's.
func (s snapshot) schedule(p *plan) (*cron.Schedule, error) {
	zone := time.Local
	if name := s.cronJob.Spec.TimeZone; name != nil {
		var err error
		if zone, err = time.LoadLocation(*name); err != nil {
			p.say(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *name, err)
			return nil, err
		}
	}
	if strings.Contains(s.cronJob.Spec.Schedule, "TZ") { // stored before the server refused it
		p.say(corev1.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", s.cronJob.Spec.Schedule)
	}
	schedule, err := cron.Parse(s.cronJob.Spec.Schedule, zone)
	if err != nil {
		p.say(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", s.cronJob.Spec.Schedule, err)
	}
	return schedule, err
}

// latestDue is the latest run up to now that has not been started, and how
// many there were. After many it takes a long step, since a manager that was
// away for a year need not visit every minute of it.
func (s snapshot) latestDue(schedule *cron.Schedule) (due time.Time, missed int) {
	from := s.cronJob.CreationTimestamp.Time
	if s.cronJob.Status.LastScheduleTime != nil {
		from = s.cronJob.Status.LastScheduleTime.Time
	}
	if deadline := s.cronJob.Spec.StartingDeadlineSeconds; deadline != nil {
		if earliest := s.now.Add(-time.Duration(*deadline) * time.Second); earliest.After(from) {
			from = earliest
		}
	}
	longest := time.Duration(0)
	for t := schedule.Next(from); !t.IsZero() && !t.After(s.now); t = schedule.Next(t) {
		if missed++; missed > 1 {
			longest = max(longest, t.Sub(due))
		}
		due = t
		if step := s.now.Add(-2 * longest); missed == manyMissed+1 && step.After(t) {
			t = step
		}
	}
	return due, missed
}

// keepActive drops Jobs that ended or are gone from status.active, and adds
// those that we started just before we died. Others that we own, such as those
// of kubectl create job --from, are not of the schedule and stand in no one's
// way; that they are there is said.
func (s snapshot) keepActive(p *plan) {
	p.status.Active = nil
	for _, ref := range s.cronJob.Status.Active {
		i := slices.IndexFunc(s.jobs, func(job *batchv1.Job) bool { return job.UID == ref.UID })
		if i < 0 {
			p.say(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			continue
		}
		if kind := ended(s.jobs[i]); kind != "" {
			p.say(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", ref.Name, kind)
			continue
		}
		p.status.Active = append(p.status.Active, ref)
	}
	for _, job := range s.jobs {
		switch {
		case ended(job) != "" || job.DeletionTimestamp != nil || isActive(p.status.Active, job):
		case job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "":
			p.status.Active = append(p.status.Active, reference(job))
		default:
			p.say(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		}
		at := job.Status.CompletionTime
		if last := p.status.LastSuccessfulTime; ended(job) == batchv1.JobComplete && at != nil && (last == nil || last.Before(at)) {
			p.status.LastSuccessfulTime = at
		}
	}
}

// history are the finished Jobs beyond the limits, those that started first.
func (s snapshot) history() []*batchv1.Job {
	var remove []*batchv1.Job
	for kind, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: s.cronJob.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: s.cronJob.Spec.FailedJobsHistoryLimit,
	} {
		done := slices.DeleteFunc(slices.Clone(s.jobs), func(job *batchv1.Job) bool { return ended(job) != kind || job.DeletionTimestamp != nil })
		slices.SortFunc(done, func(a, b *batchv1.Job) int {
			return cmp.Or(startOf(a).Compare(startOf(b)), cmp.Compare(a.Name, b.Name))
		})
		if limit != nil && len(done) > int(*limit) {
			remove = append(remove, done[:len(done)-int(*limit)]...)
		}
	}
	return remove
}

func startOf(job *batchv1.Job) time.Time {
	if job.Status.StartTime == nil {
		return job.CreationTimestamp.Time
	}
	return job.Status.StartTime.Time
}

// ended is the condition with which a Job ended, or empty.
func ended(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

func reference(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: client.Jobs.GVK().GroupVersion().String(), Kind: client.Jobs.Kind, Namespace: job.Namespace, Name: job.Name,
		UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

func isActive(active []corev1.ObjectReference, job *batchv1.Job) bool {
	return slices.ContainsFunc(active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
}

// jobName is the name of a run's Job: the minute is in it, so a run cannot be
// started twice.
func jobName(c *batchv1.CronJob, due time.Time) string {
	return fmt.Sprintf("%s-%d", c.Name, due.Unix()/60)
}

func newJob(c *batchv1.CronJob, due time.Time) *batchv1.Job {
	annotations := maps.Clone(c.Spec.JobTemplate.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	zone := time.UTC
	if c.Spec.TimeZone != nil {
		if named, err := time.LoadLocation(*c.Spec.TimeZone); err == nil {
			zone = named
		}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = due.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.Namespace, Name: jobName(c, due), Labels: maps.Clone(c.Spec.JobTemplate.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{harness.ControllerRef(c, client.CronJobs.GVK())},
		},
		Spec: *c.Spec.JobTemplate.Spec.DeepCopy(),
	}
}
