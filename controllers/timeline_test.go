package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// Timelines that operators know by heart, each lived through in virtual time,
// checked, and printed: go test -v -run Timeline.

// timeline notes what happens when.
type timeline struct {
	c     *cluster
	start time.Time
	lines []string
}

func (c *cluster) timeline() *timeline { return &timeline{c: c, start: time.Now()} }

// at is the time since the beginning.
func (l *timeline) at() time.Duration { return time.Since(l.start) }

// note says that something has happened now.
func (l *timeline) note(format string, args ...any) time.Duration {
	at := l.at()
	l.lines = append(l.lines, fmt.Sprintf("%8.1f s  %s", at.Seconds(), fmt.Sprintf(format, args...)))
	return at
}

// until waits for something, notes it, and says when it was.
func (l *timeline) until(what string, ok func() bool) time.Duration {
	l.c.t.Helper()
	l.c.until(what, time.Hour, ok)
	return l.note("%s", what)
}

func (l *timeline) print(t *testing.T) { t.Logf("\n%s", strings.Join(l.lines, "\n")) }

// lived runs a timeline in a bubble and prints it.
func lived(t *testing.T, cfg Config, nodes []string, live func(t *testing.T, c *cluster, l *timeline)) {
	var l *timeline
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, cfg, nodes...)
		defer c.stop()
		c.start()
		time.Sleep(30 * time.Second)
		l = c.timeline()
		live(t, c, l)
	})
	l.print(t)
}

// TestTimelineNodeDeath: looked at every 5 s, unknown after 50 s (or 40, as
// older texts say), its pods evicted five minutes after that.
func TestTimelineNodeDeath(t *testing.T) {
	for _, grace := range []time.Duration{50 * time.Second, 40 * time.Second} {
		cfg := quick
		cfg.NodeLifecycle.GracePeriod = grace
		lived(t, cfg, []string{"node-0", "node-1"}, func(t *testing.T, c *cluster, l *timeline) {
			on := func(node string, also func(*corev1.Pod) bool) (n int) {
				for _, pod := range c.pods() {
					if pod.Spec.NodeName == node && also(pod) {
						n++
					}
				}
				return n
			}
			leaving := func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }
			tainted := func(effect corev1.TaintEffect) func() bool {
				return func() bool {
					return slices.ContainsFunc(c.node("node-1").Spec.Taints, func(t corev1.Taint) bool {
						return t.Key == corev1.TaintNodeUnreachable && t.Effect == effect
					})
				}
			}
			c.deploy("web", "v1", 4)
			l.until("four pods are ready", func() bool { return on("node-0", harness.IsReady)+on("node-1", harness.IsReady) == 4 })
			there := on("node-1", harness.IsReady)
			c.dead["node-1"].Store(true)
			died := l.note("node-1 dies with %d pods; --node-monitor-grace-period is %s", there, grace)
			unknown := l.until("its condition Ready is Unknown", func() bool { return ready(c.node("node-1")) == corev1.ConditionUnknown })
			between(t, "Ready=Unknown", unknown-died, grace-10*time.Second, grace+5*time.Second+time.Second) // the last beat was up to 10 s before
			l.until("its pods are not ready: Services leave them out", func() bool { return on("node-1", harness.IsReady) == 0 })
			l.until("taint unreachable:NoSchedule", tainted(corev1.TaintEffectNoSchedule))
			noExecute := l.until("taint unreachable:NoExecute; its pods tolerate it for 300 s", tainted(corev1.TaintEffectNoExecute))
			evicted := l.until("its pods are deleted", func() bool { return on("node-1", leaving) == there })
			between(t, "eviction", evicted-noExecute, 299*time.Second, 303*time.Second)
			l.until("others run in their place", func() bool { return on("node-0", harness.IsReady) == 4 })
			c.dead["node-1"].Store(false)
			back := l.note("node-1 is back")
			clean := l.until("it is ready and without taints", func() bool { return len(c.node("node-1").Spec.Taints) == 0 })
			between(t, "recovery", clean-back, 0, 15*time.Second)
			l.until("the old pods are gone from it", func() bool { return len(c.pods()) == 4 })
			if node := c.node("node-1"); node.DeletionTimestamp != nil {
				t.Error("the Node was deleted")
			}
		})
	}
}

// TestTimelineJobBackoff: a failed pod is replaced after 10 s, 20 s, 40 s …
func TestTimelineJobBackoff(t *testing.T) {
	cfg := quick
	cfg.Controllers = []string{"job"}
	lived(t, cfg, []string{"node-0"}, func(t *testing.T, c *cluster, l *timeline) {
		job := newJob("bad", "exit-1", 1, 1)
		job.Spec.BackoffLimit = ptr(int32(4))
		create(c, client.Jobs, job)
		last := l.note("a Job whose pods fail, backoffLimit 4")
		failed := func(n int) func() bool {
			return func() bool {
				done := 0
				for _, pod := range c.pods() {
					if pod.Status.Phase == corev1.PodFailed {
						done++
					}
				}
				return done == n
			}
		}
		for i, wait := range []time.Duration{0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second} {
			made := l.until(fmt.Sprintf("pod %d is made", i+1), func() bool { return len(c.pods()) == i+1 })
			// We look twice a second, and pods' times are whole seconds.
			between(t, fmt.Sprintf("pod %d", i+1), made-last, wait-2*time.Second, wait+3*time.Second)
			last = l.until(fmt.Sprintf("pod %d has failed", i+1), failed(i+1))
		}
		l.until("the Job has failed: BackoffLimitExceeded", func() bool {
			return slices.ContainsFunc(get(c, client.Jobs, ns, "bad").Status.Conditions, func(c batchv1.JobCondition) bool {
				return c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue && c.Reason == batchv1.JobReasonBackoffLimitExceeded
			})
		})
		time.Sleep(20 * time.Minute)
		if n := len(c.pods()); n != 5 {
			t.Errorf("%d pods were made", n)
		}
	})
}

// TestTimelineCronJob: on the minute; while one runs, by policy; after the
// manager was away, once; in the zone that it names.
func TestTimelineCronJob(t *testing.T) {
	cfg := quick
	cfg.Controllers = []string{"cronjob", "job"}
	lived(t, cfg, []string{"node-0"}, func(t *testing.T, c *cluster, l *timeline) {
		make := func(name, schedule, image string, edit func(*batchv1.CronJobSpec)) {
			cj := &batchv1.CronJob{ObjectMeta: meta1(name), Spec: batchv1.CronJobSpec{
				Schedule: schedule, TimeZone: ptr("Etc/UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent,
				SuccessfulJobsHistoryLimit: ptr(int32(100)), JobTemplate: batchv1.JobTemplateSpec{Spec: newJob("", image, 1, 1).Spec},
			}}
			edit(&cj.Spec)
			create(c, client.CronJobs, cj)
		}
		of := func(name string) (jobs []*batchv1.Job) {
			for _, job := range list(c, client.Jobs, ns) {
				if strings.HasPrefix(job.Name, name+"-") {
					jobs = append(jobs, job)
				}
			}
			return jobs
		}
		clock := func() string { return time.Now().UTC().Format("15:04:05") }
		make("tick", "*/5 * * * *", "exit-0", func(*batchv1.CronJobSpec) {})
		make("slow", "*/5 * * * *", "runs", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent })
		make("swap", "*/5 * * * *", "runs", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ReplaceConcurrent })
		make("kathmandu", "0 6 * * *", "exit-0", func(s *batchv1.CronJobSpec) { s.TimeZone = ptr("Asia/Kathmandu") }) // 00:15 UTC
		l.note("%s UTC: four CronJobs; three every five minutes, one at 06:00 in Kathmandu, 5:45 ahead", clock())
		for i := range 3 {
			l.until(fmt.Sprintf("run %d of tick", i+1), func() bool { return len(of("tick")) == i+1 })
			l.lines[len(l.lines)-1] += " at " + clock()
			if now := time.Now().UTC(); now.Minute()%5 != 0 || now.Second() > 3 {
				t.Errorf("it started at %s", now)
			}
		}
		time.Sleep(10 * time.Second)
		if n := len(of("slow")); n != 1 {
			t.Errorf("Forbid: %d Jobs", n)
		}
		if jobs := of("swap"); len(jobs) != 1 || jobs[0].Name != fmt.Sprintf("swap-%d", time.Now().Unix()/60) {
			t.Errorf("Replace: %v", names(jobs))
		}
		if n := len(of("kathmandu")); n != 1 {
			t.Errorf("Kathmandu: %d Jobs", n)
		}
		l.note("slow (Forbid) still runs its first Job, swap (Replace) the one of now, Kathmandu had its breakfast")
		c.stopManager()
		l.note("the manager is away for an hour")
		time.Sleep(time.Hour)
		before := len(of("tick"))
		c.start()
		l.until("the manager is back: one run makes up for twelve", func() bool { return len(of("tick")) == before+1 })
		time.Sleep(time.Minute)
		if n := len(of("tick")); n != before+1 {
			t.Errorf("%d runs instead of one", n-before)
		}
	})
}

// TestTimelineProgressDeadline: 600 s without progress, and then progress.
func TestTimelineProgressDeadline(t *testing.T) {
	lived(t, quick, []string{"node-0"}, func(t *testing.T, c *cluster, l *timeline) {
		progressing := func(status corev1.ConditionStatus, reason string) func() bool {
			return func() bool {
				return slices.ContainsFunc(get(c, client.Deployments, ns, "web").Status.Conditions, func(c appsv1.DeploymentCondition) bool {
					return c.Type == appsv1.DeploymentProgressing && c.Status == status && c.Reason == reason
				})
			}
		}
		c.deploy("web", "v1", 3)
		l.until("version 1 is complete: NewReplicaSetAvailable", progressing(corev1.ConditionTrue, "NewReplicaSetAvailable"))
		change(c, client.Deployments, ns, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "broken" })
		began := l.note("version 2, whose pods never become ready; progressDeadlineSeconds is 600")
		l.until("ReplicaSetUpdated", progressing(corev1.ConditionTrue, "ReplicaSetUpdated"))
		ended := l.until("ProgressDeadlineExceeded", progressing(corev1.ConditionFalse, "ProgressDeadlineExceeded"))
		between(t, "ProgressDeadlineExceeded", ended-began, 599*time.Second, 606*time.Second) // conditions have times in whole seconds
		if d := get(c, client.Deployments, ns, "web"); d.Status.AvailableReplicas < 2 {
			t.Errorf("%d pods of version 1 are left", d.Status.AvailableReplicas)
		}
		change(c, client.Deployments, ns, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v1" })
		l.note("rolled back")
		l.until("version 1 is complete again", progressing(corev1.ConditionTrue, "NewReplicaSetAvailable"))
	})
}
