package controllers

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"tinykube/client"
	"tinykube/controllers/harness"
	"tinykube/internal/reference"
)

// More parts of TestOnTheWire: workloads, which need the real server's
// defaults, validation and rights.

func testJobs(t *testing.T, c *cluster) {
	const ns = "jobs"
	c.namespace(ns)
	job := func(name, image string, change func(*batchv1.JobSpec)) {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: batchv1.JobSpec{
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: image}}}},
		}}
		change(&j.Spec)
		create(c, client.Jobs, j)
	}
	is := func(name string, kind batchv1.JobConditionType) func() bool {
		return func() bool {
			conditions := get(c, client.Jobs, ns, name).Status.Conditions
			return slices.ContainsFunc(conditions, func(c batchv1.JobCondition) bool { return c.Type == kind && c.Status == corev1.ConditionTrue })
		}
	}
	job("five", "exit-0", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr(int32(5)), ptr(int32(3)) })
	job("parts", "exit-0", func(s *batchv1.JobSpec) {
		s.CompletionMode, s.Completions, s.Parallelism = ptr(batchv1.IndexedCompletion), ptr(int32(3)), ptr(int32(3))
	})
	job("strict", "exit-42", func(s *batchv1.JobSpec) {
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionFailJob,
			OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}}}}
	})
	job("later", "exit-0", func(s *batchv1.JobSpec) { s.Suspend = ptr(true) })
	c.until("five succeeded", time.Minute, is("five", batchv1.JobComplete))
	c.until("parts succeeded", time.Minute, is("parts", batchv1.JobComplete))
	c.until("strict failed", time.Minute, is("strict", batchv1.JobFailed))
	c.until("later suspended", time.Minute, is("later", batchv1.JobSuspended))
	change(c, client.Jobs, ns, "later", func(j *batchv1.Job) { j.Spec.Suspend = ptr(false) })
	c.until("later succeeded", time.Minute, is("later", batchv1.JobComplete))
	if s := get(c, client.Jobs, ns, "five").Status; s.Succeeded != 5 || s.Failed != 0 || s.CompletionTime == nil {
		t.Errorf("five: %+v", s)
	}
	if s := get(c, client.Jobs, ns, "parts").Status; s.CompletedIndexes != "0-2" {
		t.Errorf("parts: %+v", s)
	}
	if s := get(c, client.Jobs, ns, "strict").Status; s.Failed != 1 || !strings.Contains(fmt.Sprint(s.Conditions), "failed with exit code 42 matching FailJob rule at index 0") {
		t.Errorf("strict: %+v", s)
	}
	c.until("no finalizers left", time.Minute, func() bool {
		return !slices.ContainsFunc(list(c, client.Pods, ns), func(p *corev1.Pod) bool { return len(p.Finalizers) > 0 })
	})
	c.atRest()
}

func testStatefulSet(t *testing.T, c *cluster) {
	const ns = "stateful"
	c.namespace(ns)
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	set := statefulSet(3)
	set.Namespace, set.Spec.Template.Spec.RestartPolicy = ns, ""
	set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: remove, WhenScaled: remove}
	set.Spec.VolumeClaimTemplates[0].Spec = corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}
	create(c, client.StatefulSets, set)
	settled := func(want int32, image string) {
		t.Helper()
		c.until(fmt.Sprintf("%d of %s", want, image), time.Minute, func() bool {
			s, pods := get(c, client.StatefulSets, ns, "web"), list(c, client.Pods, ns)
			return s.Status.ReadyReplicas == want && s.Status.UpdatedReplicas == want && len(pods) == int(want) && s.Status.ObservedGeneration == s.Generation &&
				!slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image != image })
		})
	}
	settled(3, "v1")
	// Only what is at or above the partition changes.
	change(c, client.StatefulSets, ns, "web", func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr(int32(2))
		s.Spec.Template.Spec.Containers[0].Image = "v2"
	})
	image := func(name string) string {
		pod, err := client.For(c.client, client.Pods).Get(t.Context(), ns, name)
		if err != nil || !harness.IsReady(pod) {
			return ""
		}
		return pod.Spec.Containers[0].Image
	}
	c.until("web-2 is v2", time.Minute, func() bool { return image("web-2") == "v2" })
	c.atRest()
	if image("web-0") != "v1" || image("web-1") != "v1" {
		t.Errorf("below the partition: %s %s", image("web-0"), image("web-1"))
	}
	change(c, client.StatefulSets, ns, "web", func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr(int32(0)) })
	settled(3, "v2")
	change(c, client.StatefulSets, ns, "web", func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr(int32(1)) })
	settled(1, "v2")
	c.until("the claims of what went are gone", time.Minute, func() bool { return len(list(c, client.PersistentVolumeClaims, ns)) == 1 })
	if err := client.For(c.client, client.StatefulSets).Delete(t.Context(), ns, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.until("all gone", time.Minute, func() bool {
		return len(list(c, client.Pods, ns))+len(list(c, client.PersistentVolumeClaims, ns))+len(list(c, client.ControllerRevisions, ns)) == 0
	})
}

// testManifests applies what others wrote and waits for every workload's state.
func testManifests(t *testing.T, c *cluster) {
	const ns, other = "manifests", "guestbook-go"
	c.namespace(ns)
	c.namespace(other)
	create(c, client.ServiceAccounts, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "database"}})
	kinds, _, err := harness.Discover(t.Context(), c.client)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{
		"apps/cassandra/service.yaml", "apps/cassandra/statefulset.yaml", "apps/cockroachdb/statefulset.yaml", "apps/minio/headless-service.yaml",
		"apps/minio/statefulset.yaml", "apps/guestbook-go/redis-master-controller.yaml", "apps/guestbook-go/redis-replica-controller.yaml",
		"apps/guestbook-go/guestbook-controller.yaml", "apps/guestbook-all-in-one/guestbook.yaml", "podinfo/deploy/bases/database/statefulset-primary.yaml",
	} {
		raw, err := os.ReadFile(reference.Path(t, "manifests/"+file))
		if err != nil {
			t.Fatal(err)
		}
		into := ns
		if strings.Contains(file, other) {
			into = other // its names are the other guestbook's
		}
		for _, document := range strings.Split(string(raw), "\n---") {
			if !strings.Contains(document, "policy/v1beta1") { // which v1.36 has not
				c.apply(kinds, into, document)
			}
		}
	}
	c.until("every StatefulSet has its pods", 2*time.Minute, func() bool {
		sets := list(c, client.StatefulSets, ns)
		return len(sets) == 4 && !slices.ContainsFunc(sets, func(s *appsv1.StatefulSet) bool {
			return s.Status.AvailableReplicas != *s.Spec.Replicas || s.Status.ObservedGeneration != s.Generation
		})
	})
	c.until("every Deployment and ReplicationController too", time.Minute, func() bool {
		deployments, controllers := append(list(c, client.Deployments, ns), list(c, client.Deployments, other)...), list(c, client.ReplicationControllers, other)
		return len(deployments) == 4 && !slices.ContainsFunc(deployments, func(d *appsv1.Deployment) bool { return !complete(d) }) &&
			len(controllers) == 2 && !slices.ContainsFunc(controllers, func(rc *corev1.ReplicationController) bool {
			return rc.Status.AvailableReplicas != *rc.Spec.Replicas
		})
	})
	for _, set := range list(c, client.StatefulSets, ns) {
		for ordinal := range *set.Spec.Replicas {
			for _, template := range set.Spec.VolumeClaimTemplates {
				get(c, client.PersistentVolumeClaims, ns, fmt.Sprintf("%s-%s-%d", template.Name, set.Name, ordinal))
			}
		}
		t.Logf("%s: %d of %d available", set.Name, set.Status.AvailableReplicas, *set.Spec.Replicas)
	}
}

// apply creates the object of a document, whatever its kind.
func (c *cluster) apply(kinds []harness.Resource, namespace, document string) {
	c.t.Helper()
	obj := object{}
	if err := yaml.Unmarshal([]byte(document), &obj); err != nil {
		c.t.Fatal(err)
	}
	if obj["kind"] == nil {
		return // comments alone
	}
	group, _, named := strings.Cut(obj["apiVersion"].(string), "/")
	if !named {
		group = ""
	}
	i := slices.IndexFunc(kinds, func(r harness.Resource) bool { return r.Group == group && r.Kind == obj["kind"] })
	if i < 0 {
		c.t.Fatalf("no resource for %v %v", obj["apiVersion"], obj["kind"])
	}
	path := client.For(c.client, kinds[i].Metadata()).Path(namespace, "")
	if err := c.client.DoInto(c.t.Context(), client.Request{Method: "POST", Path: path}, obj, nil); err != nil {
		c.t.Errorf("create %v %v: %v", obj["kind"], meta(obj)["name"], err)
	}
}
