package swap

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// speedRounds is how many claims are measured, one after the other.
const speedRounds = 10

// TestSpeedOfClaims measures how long a pod with a new claim takes until it
// runs, beside what the driver itself needs for its calls, and beside a pod
// without a claim; with our sidecars and, if $CSI_SIDECARS is given, with the
// real ones. make bench prints it.
func TestSpeedOfClaims(t *testing.T) {
	c := up(t)
	s := c.prepareCSI("", os.Getenv("CSI_SIDECARS"))
	cfg, err := client.LoadKubeconfig(filepath.Join(c.dir, "admin.conf"))
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{"ours": {}}
	if os.Getenv("CSI_SIDECARS") != "" {
		rows["kubernetes-csi's"] = []string{"node-driver-registrar", "liveness-probe", "csi-attacher", "csi-provisioner", "csi-resizer", "csi-snapshotter"}
	}
	fmt.Printf("%-20s %14s %14s %16s %18s   (medians of %d, ms)\n", "sidecars", "claim bound", "pod running", "driver's calls", "pod without claim", speedRounds)
	for _, name := range []string{"ours", "kubernetes-csi's"} {
		real, wanted := rows[name]
		if !wanted {
			continue
		}
		s.deploy(real)
		var bound, running, calls, plain []time.Duration
		for i := range speedRounds {
			plain = append(plain, timePod(t, api, fmt.Sprint("plain-", i), "", nil))
			var b time.Duration
			since := time.Now()
			running = append(running, timePod(t, api, fmt.Sprint("user-", i), fmt.Sprint("claim-", i), &b))
			bound, calls = append(bound, b), append(calls, s.driversCalls(since))
		}
		s.run("", "kubectl", "delete", "pvc", "--all", "--timeout=120s")
		s.run("", "kubectl", "wait", "--for=delete", "pv", "--all", "--timeout=120s")
		s.remove()
		fmt.Printf("%-20s %14.0f %14.0f %16.1f %18.0f\n", name, median(bound), median(running), median(calls), median(plain))
	}
}

func median(of []time.Duration) float64 {
	slices.Sort(of)
	return float64(of[len(of)/2].Microseconds()) / 1000
}

// timePod makes a pod, with a new claim if that has a name, and tells when it
// runs; bound is when the claim was.
func timePod(t *testing.T, api *client.Client, name, claim string, bound *time.Duration) (running time.Duration) {
	t.Helper()
	ctx, class, grace := t.Context(), "csi-hostpath-sc", int64(0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{Name: "c", Image: "tinykube.local/pause:3.10"}}}}
	started := time.Now()
	if claim != "" {
		if _, err := client.For(api, client.PersistentVolumeClaims).Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: claim},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}}}}); err != nil {
			t.Fatal(err)
		}
		pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	}
	if _, err := client.For(api, client.Pods).Create(ctx, pod); err != nil {
		t.Fatal(err)
	}
	if claim != "" {
		follow(t, api, client.PersistentVolumeClaims, claim, func(now *corev1.PersistentVolumeClaim) bool { return now.Status.Phase == corev1.ClaimBound })
		*bound = time.Since(started)
	}
	follow(t, api, client.Pods, name, func(now *corev1.Pod) bool { return now.Status.Phase == corev1.PodRunning })
	running = time.Since(started)
	if err := client.For(api, client.Pods).Delete(ctx, "default", name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, name+" is gone", func(ctx context.Context) (bool, error) {
		_, err := client.For(api, client.Pods).Get(ctx, "default", name)
		return err != nil, nil
	})
	return running
}

// follow waits by a watch, which costs the measured machine nothing, until an
// object is as wanted; the watch begins with what there is.
func follow[T client.Object](t *testing.T, api *client.Client, kind client.Kind[T], name string, wanted func(T) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w, err := client.For(api, kind).Watch(ctx, "default", metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for event := range w.Events {
		if event.Status != nil {
			t.Fatalf("the watch of %s %s: %s", kind.Plural, name, event.Status.Message)
		}
		if wanted(event.Object) {
			return
		}
	}
	t.Fatalf("%s %s is not as it should be within %s", kind.Plural, name, patience)
}

var callDuration = regexp.MustCompile(`(?m)^(\S+) .* Answered method=(\S+) .*duration=(\S+)$`)

// takesBack are the calls that a deleted pod causes.
var takesBack = regexp.MustCompile("Unpublish|Unstage|Delete")

// driversCalls adds up what our driver says of the calls that came since then,
// before the pod was deleted: those that bring a volume to a pod.
func (s *csiSwap) driversCalls(since time.Time) (sum time.Duration) {
	s.t.Helper()
	out := s.run("", "kubectl", "logs", "csi-hostpathplugin-0", "-c", "hostpath", "--timestamps", "--since-time="+since.UTC().Format(time.RFC3339))
	found := false
	for _, call := range callDuration.FindAllStringSubmatch(out, -1) {
		at, err1 := time.Parse(time.RFC3339Nano, call[1])
		took, err2 := time.ParseDuration(call[3])
		if err1 != nil || err2 != nil {
			s.t.Fatalf("%v: %v %v", call, err1, err2)
		}
		found = true
		if at.After(since) && !takesBack.MatchString(call[2]) {
			sum += took
		}
	}
	if !found {
		s.t.Fatalf("the driver says nothing of its calls:\n%s", out)
	}
	return sum
}
