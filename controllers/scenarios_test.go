package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// scenarios are the rows of the fault-pattern matrix; scenarios_cluster_test.go
// has more.
var scenarios = slices.Concat(workloadScenarios, clusterScenarios, storageScenarios)

const ns = "default"

var web = map[string]string{"app": "web"}

func meta1(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: web},
		Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
}

func ptr[T any](v T) *T { return &v }

func replicaSet(replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: meta1("web"), Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template("v1"),
	}}
}

func statefulSet(replicas int32) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: meta1("web"), Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template("v1"), ServiceName: "web",
		PodManagementPolicy: appsv1.OrderedReadyPodManagement,
		UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32)}},
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
	}}
}

func newJob(name, image string, completions, parallelism int32) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: meta1(name), Spec: batchv1.JobSpec{
		Completions: &completions, Parallelism: &parallelism, BackoffLimit: ptr(int32(6)), Template: template(image),
		CompletionMode: ptr(batchv1.NonIndexedCompletion),
	}}
}

// podsAre says what is wrong with the live pods of an image.
func (c *cluster) podsAre(image string, want int) string {
	n, others := 0, 0
	for _, pod := range c.pods() {
		switch {
		case pod.Spec.Containers[0].Image == image && harness.IsReady(pod) && harness.IsActive(pod):
			n++
		default:
			others++
		}
	}
	if n != want || others != 0 {
		return fmt.Sprintf("%d ready pods of %s, want %d; %d others", n, image, want, others)
	}
	return ""
}

func jobCondition(c *cluster, name string, kind batchv1.JobConditionType) bool {
	job := get(c, client.Jobs, ns, name)
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == kind && c.Status == corev1.ConditionTrue })
}

// jobWrong says what is wrong with a Job that should be complete.
func (c *cluster) jobWrong(name string, succeeded, failed int32) string {
	job := get(c, client.Jobs, ns, name)
	if !jobCondition(c, name, batchv1.JobComplete) || job.Status.Succeeded != succeeded || job.Status.Failed != failed || job.Status.Active != 0 {
		return fmt.Sprintf("job %s: %+v", name, job.Status)
	}
	for _, pod := range c.pods() {
		if len(pod.Finalizers) > 0 {
			return fmt.Sprintf("pod %s still has %v", pod.Name, pod.Finalizers)
		}
	}
	return ""
}

var workloadScenarios = []scenario{
	{
		name: "deployment", controllers: []string{"deployment", "replicaset"}, nodes: 2,
		start: func(c *cluster) { c.deploy("web", "v1", 3) },
		change: func(c *cluster) {
			change(c, client.Deployments, ns, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
		},
		wrong: func(c *cluster) string {
			d := get(c, client.Deployments, ns, "web")
			if sets := list(c, client.ReplicaSets, ns); len(sets) != 2 || d.Status.AvailableReplicas != 3 || d.Annotations["deployment.kubernetes.io/revision"] != "2" {
				return fmt.Sprintf("%d ReplicaSets, %+v", len(sets), d.Status)
			}
			return c.podsAre("v2", 3)
		},
		creates: map[string]int{"pods": 6, "replicasets": 2},
	},
	{
		name: "replicaset", controllers: []string{"replicaset"}, nodes: 2,
		start: func(c *cluster) { create(c, client.ReplicaSets, replicaSet(4)) },
		change: func(c *cluster) {
			change(c, client.ReplicaSets, ns, "web", func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr(int32(2)) })
		},
		wrong: func(c *cluster) string {
			if s := get(c, client.ReplicaSets, ns, "web").Status; s.Replicas != 2 || s.AvailableReplicas != 2 {
				return fmt.Sprintf("%+v", s)
			}
			return c.podsAre("v1", 2)
		},
		creates: map[string]int{"pods": 4},
	},
	{
		name: "replicationcontroller", controllers: []string{"replicationcontroller"},
		start: func(c *cluster) {
			create(c, client.ReplicationControllers, &corev1.ReplicationController{ObjectMeta: meta1("web"), Spec: corev1.ReplicationControllerSpec{
				Replicas: ptr(int32(2)), Selector: web, Template: ptr(template("v1")),
			}})
		},
		change: func(c *cluster) {
			change(c, client.ReplicationControllers, ns, "web", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr(int32(3)) })
		},
		wrong: func(c *cluster) string {
			if s := get(c, client.ReplicationControllers, ns, "web").Status; s.Replicas != 3 || s.AvailableReplicas != 3 {
				return fmt.Sprintf("%+v", s)
			}
			return c.podsAre("v1", 3)
		},
		creates: map[string]int{"pods": 3},
	},
	{
		name: "statefulset", controllers: []string{"statefulset"}, nodes: 2,
		start: func(c *cluster) { create(c, client.StatefulSets, statefulSet(3)) },
		change: func(c *cluster) {
			change(c, client.StatefulSets, ns, "web", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "v2" })
		},
		wrong: func(c *cluster) string {
			s := get(c, client.StatefulSets, ns, "web").Status
			if s.Replicas != 3 || s.UpdatedReplicas != 3 || s.AvailableReplicas != 3 || s.CurrentRevision != s.UpdateRevision {
				return fmt.Sprintf("%+v", s)
			}
			if got := strings.Join(names(c.pods()), " "); got != "web-0 web-1 web-2" {
				return got
			}
			if got := strings.Join(names(list(c, client.PersistentVolumeClaims, ns)), " "); got != "data-web-0 data-web-1 data-web-2" {
				return got
			}
			return c.podsAre("v2", 3)
		},
		// web-0 … web-2 of v1, or of v2 those that the change overtook.
		creates: map[string]int{"pods": 6, "persistentvolumeclaims": 3, "controllerrevisions": 2},
	},
	{
		name: "daemonset", controllers: []string{"daemonset"}, nodes: 3,
		start: func(c *cluster) { create(c, client.DaemonSets, rollingAgent()) },
		change: func(c *cluster) {
			change(c, client.DaemonSets, ns, "agent", func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = "v2" })
		},
		wrong: func(c *cluster) string {
			if s := get(c, client.DaemonSets, ns, "agent").Status; s.UpdatedNumberScheduled != 3 || s.NumberAvailable != 3 {
				return fmt.Sprintf("%+v", s)
			}
			on := map[string]bool{}
			for _, pod := range c.pods() {
				on[pod.Spec.NodeName] = true
			}
			if len(on) != 3 {
				return fmt.Sprintf("pods on %d nodes", len(on))
			}
			return c.podsAre("v2", 3)
		},
		creates: map[string]int{"pods": 6, "controllerrevisions": 2},
	},
	{
		name: "job", controllers: []string{"job"}, nodes: 2,
		start:   func(c *cluster) { create(c, client.Jobs, newJob("sum", "exit-0", 5, 2)) },
		wrong:   func(c *cluster) string { return c.jobWrong("sum", 5, 0) },
		creates: map[string]int{"pods": 5},
	},
	{
		name: "indexed job", controllers: []string{"job"}, nodes: 2,
		start: func(c *cluster) {
			job := newJob("part", "exit-0", 4, 4)
			job.Spec.CompletionMode = ptr(batchv1.IndexedCompletion)
			create(c, client.Jobs, job)
		},
		wrong: func(c *cluster) string {
			if got := get(c, client.Jobs, ns, "part").Status.CompletedIndexes; got != "0-3" {
				return "completed " + got
			}
			return c.jobWrong("part", 4, 0)
		},
		creates: map[string]int{"pods": 4},
	},
	{
		name: "failing job", controllers: []string{"job"},
		start: func(c *cluster) {
			job := newJob("bad", "exit-1", 1, 1)
			job.Spec.BackoffLimit = ptr(int32(2))
			create(c, client.Jobs, job)
		},
		wrong: func(c *cluster) string {
			if s := get(c, client.Jobs, ns, "bad").Status; !jobCondition(c, "bad", batchv1.JobFailed) || s.Failed != 3 || s.Succeeded != 0 {
				return fmt.Sprintf("%+v", s)
			}
			return ""
		},
		creates: map[string]int{"pods": 3},
	},
	{
		name: "ttl-after-finished", controllers: []string{"job", "ttl-after-finished"},
		start: func(c *cluster) {
			job := newJob("brief", "exit-0", 1, 1)
			job.Spec.TTLSecondsAfterFinished = ptr(int32(30))
			create(c, client.Jobs, job)
		},
		wrong: func(c *cluster) string {
			for _, pod := range c.pods() {
				if len(pod.Finalizers) > 0 {
					return "a pod keeps its finalizer"
				}
			}
			return strings.Join(names(list(c, client.Jobs, ns)), " ")
		},
		creates: map[string]int{"pods": 1},
	},
	{
		name: "cronjob", controllers: []string{"cronjob", "job"},
		start: func(c *cluster) {
			create(c, client.CronJobs, &batchv1.CronJob{ObjectMeta: meta1("tick"), Spec: batchv1.CronJobSpec{
				Schedule: "*/2 * * * *", TimeZone: ptr("Etc/UTC"), ConcurrencyPolicy: batchv1.ForbidConcurrent,
				SuccessfulJobsHistoryLimit: ptr(int32(2)), FailedJobsHistoryLimit: ptr(int32(1)),
				JobTemplate: batchv1.JobTemplateSpec{Spec: newJob("", "exit-0", 1, 1).Spec},
			}})
		},
		// At 10 minutes, that is five runs, it is suspended.
		wrong: func(c *cluster) string {
			tick := get(c, client.CronJobs, ns, "tick")
			last := tick.Status.LastScheduleTime
			if last == nil || last.Sub(tick.CreationTimestamp.Time) < 9*time.Minute {
				return fmt.Sprintf("%+v", tick.Status)
			}
			if tick.Spec.Suspend == nil {
				change(c, client.CronJobs, ns, "tick", func(cj *batchv1.CronJob) { cj.Spec.Suspend = ptr(true) })
			}
			if n := len(list(c, client.Jobs, ns)); n != 2 || len(tick.Status.Active) != 0 {
				return fmt.Sprintf("%d jobs, %d active", n, len(tick.Status.Active))
			}
			return ""
		},
		creates: map[string]int{"jobs": 6, "pods": 6},
		within:  20 * time.Minute,
	},
}

func rollingAgent() *appsv1.DaemonSet {
	ds := agent(ns)
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr(intstr.FromInt32(1))}}
	return ds
}
