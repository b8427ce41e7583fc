package defaults

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

// TestApply applies defaults to what a user writes and compares with what a
// real kube-apiserver 1.36 returns for it. Each case is one YAML file with the
// two documents.
func TestApply(t *testing.T) {
	for name, obj := range map[string]any{
		"pod":           &corev1.Pod{},
		"hostnetwork":   &corev1.Pod{},
		"deployment":    &appsv1.Deployment{},
		"statefulset":   &appsv1.StatefulSet{},
		"daemonset":     &appsv1.DaemonSet{},
		"job":           &batchv1.Job{},
		"cronjob":       &batchv1.CronJob{},
		"service":       &corev1.Service{},
		"secret":        &corev1.Secret{},
		"autoscaler":    &autoscalingv2.HorizontalPodAutoscaler{},
		"networkpolicy": &networkingv1.NetworkPolicy{},
		"rolebinding":   &rbacv1.RoleBinding{},
		"limitrange":    &corev1.LimitRange{},
	} {
		t.Run(name, func(t *testing.T) {
			given, want := readPair(t, "testdata/"+name+".yaml")
			if err := yaml.UnmarshalStrict(given, obj); err != nil {
				t.Fatal(err)
			}
			Apply(obj)
			compare(t, want, obj)
			Apply(obj)
			compare(t, want, obj) // a second time changes nothing
		})
	}
}

// readPair returns the two documents of a case as YAML.
func readPair(t *testing.T, path string) (given, want []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var pair struct{ Given, Want any }
	if err := yaml.UnmarshalStrict(data, &pair); err != nil {
		t.Fatal(err)
	}
	given, _ = yaml.Marshal(pair.Given)
	want, _ = yaml.Marshal(pair.Want)
	return given, want
}

func compare(t *testing.T, want []byte, obj any) {
	t.Helper()
	got, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	var a, b map[string]any
	yaml.Unmarshal(want, &a)
	yaml.Unmarshal(got, &b)
	delete(b, "status")
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx":                           corev1.PullAlways,
		"nginx:latest":                    corev1.PullAlways,
		"nginx:1.27":                      corev1.PullIfNotPresent,
		"localhost:5000/nginx":            corev1.PullAlways,
		"localhost:5000/nginx:1":          corev1.PullIfNotPresent,
		"nginx@sha256:0123":               corev1.PullIfNotPresent,
		"nginx:latest@sha256:0123":        corev1.PullAlways,
		"registry.example/a/b:v1@sha256:": corev1.PullIfNotPresent,
		"":                                corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%q: got %s, want %s", image, got, want)
		}
	}
}

func TestPairsOfOldAndNewFields(t *testing.T) {
	node := &corev1.Node{Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24"}}
	Apply(node)
	if len(node.Spec.PodCIDRs) != 1 || node.Spec.PodCIDRs[0] != node.Spec.PodCIDR {
		t.Errorf("podCIDRs %v does not follow podCIDR", node.Spec.PodCIDRs)
	}
	pod := &corev1.Pod{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "fd00::1"}}}}
	Apply(pod)
	if pod.Status.PodIP != "10.0.0.1" || len(pod.Status.PodIPs) != 2 {
		t.Errorf("podIP %q, podIPs %v", pod.Status.PodIP, pod.Status.PodIPs)
	}
	pod.Status.PodIP = "10.0.0.2" // an old client changes the field it knows
	Apply(pod)
	if len(pod.Status.PodIPs) != 1 || pod.Status.PodIPs[0].IP != "10.0.0.2" {
		t.Errorf("podIPs %v does not follow podIP", pod.Status.PodIPs)
	}
}

func BenchmarkApplyPod(b *testing.B) {
	given := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "a:1", Ports: make([]corev1.ContainerPort, 3)}}}}
	for b.Loop() {
		Apply(given)
	}
}
