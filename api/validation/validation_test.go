package validation

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"tinykube/api/defaults"
)

// kind decodes, defaults and checks documents of one Go type.
type kind func(t *testing.T, now, before []byte) field.ErrorList

func of[T any](create func(*T) field.ErrorList, update func(now, before *T) field.ErrorList) kind {
	return func(t *testing.T, now, before []byte) field.ErrorList {
		t.Helper()
		obj := decode[T](t, now)
		if before == nil {
			return create(obj)
		}
		return update(obj, decode[T](t, before))
	}
}

func decode[T any](t *testing.T, data []byte) *T {
	t.Helper()
	obj := new(T)
	if err := yaml.UnmarshalStrict(data, obj); err != nil {
		t.Fatalf("%v in:\n%s", err, data)
	}
	defaults.Apply(obj)
	return obj
}

var kinds = map[string]kind{
	"pod":           of(Pod, PodUpdate),
	"resize":        of(Pod, PodResizeUpdate),
	"service":       of(Service, ServiceUpdate),
	"deployment":    of(Deployment, DeploymentUpdate),
	"daemonset":     of(DaemonSet, DaemonSetUpdate),
	"statefulset":   of(StatefulSet, StatefulSetUpdate),
	"job":           of(Job, JobUpdate),
	"cronjob":       of(CronJob, CronJobUpdate),
	"configmap":     of(ConfigMap, ConfigMapUpdate),
	"secret":        of(Secret, SecretUpdate),
	"node":          of(Node, NodeUpdate),
	"quota":         of(ResourceQuota, ResourceQuotaUpdate),
	"limitrange":    of(LimitRange, nil),
	"claim":         of(PersistentVolumeClaim, PersistentVolumeClaimUpdate),
	"volume":        of(PersistentVolume, PersistentVolumeUpdate),
	"storageclass":  of(StorageClass, StorageClassUpdate),
	"ingress":       of(Ingress, nil),
	"networkpolicy": of(NetworkPolicy, nil),
	"endpointslice": of(EndpointSlice, EndpointSliceUpdate),
	"role":          of(Role, nil),
	"rolebinding":   of(RoleBinding, RoleBindingUpdate),
	"autoscaler":    of(HorizontalPodAutoscaler, nil),
	"budget":        of(PodDisruptionBudget, nil),
}

// The types that the table above names, so that a reader sees them.
var _ = []any{
	appsv1.Deployment{}, autoscalingv2.HorizontalPodAutoscaler{}, batchv1.Job{}, corev1.Pod{}, discoveryv1.EndpointSlice{},
	networkingv1.Ingress{}, policyv1.PodDisruptionBudget{}, rbacv1.Role{}, storagev1.StorageClass{},
}

// TestMessages reads testdata/messages.yaml: for each kind a good object, and
// changes of it with what upstream answers to each.
func TestMessages(t *testing.T) {
	data, err := os.ReadFile("testdata/messages.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file map[string]struct {
		Good  map[string]any
		Cases []struct {
			Name   string
			Change map[string]any // merged into the good object
			Update bool           // as a change of the good object
			Want   []string
		}
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		t.Fatal(err)
	}
	for name, set := range file {
		check := kinds[name]
		if check == nil {
			t.Errorf("no kind %q", name)
			continue
		}
		good, _ := yaml.Marshal(set.Good)
		if errs := check(t, good, nil); len(errs) > 0 {
			t.Errorf("%s: the good one is refused: %v", name, errs)
		}
		for _, c := range set.Cases {
			changed, _ := yaml.Marshal(merge(set.Good, c.Change))
			var before []byte
			if c.Update {
				before = good
			}
			var got []string
			for _, e := range check(t, changed, before) {
				text, _, _ := strings.Cut(e.Error(), "\n") // without diffs
				got = append(got, text)
			}
			if diff := cmp.Diff(c.Want, got); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, c.Name, diff)
			}
		}
	}
}

// merge returns base with change in it; lists are merged by index, so that a
// case can say only what it changes.
func merge(base, change any) any {
	switch change := change.(type) {
	case map[string]any:
		b, ok := base.(map[string]any)
		if !ok {
			return change
		}
		out := map[string]any{}
		for k, v := range b {
			out[k] = v
		}
		for k, v := range change {
			if v == nil {
				delete(out, k)
			} else {
				out[k] = merge(out[k], v)
			}
		}
		return out
	case []any:
		b, ok := base.([]any)
		if !ok {
			return change
		}
		out := append([]any{}, b...)
		for i, v := range change {
			if i < len(out) {
				out[i] = merge(out[i], v)
			} else {
				out = append(out, v)
			}
		}
		return out
	}
	return change
}

func TestCronSchedule(t *testing.T) {
	for _, good := range []string{"* * * * *", "*/5 0-6 1,15 jan-mar mon", "0 3 * * ?", "@daily", "@every 1h30m", "5/10 * * * SUN", "0 0 31 12 6"} {
		if err := CronSchedule(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"* * * *":       "expected exactly 5 fields, found 4: [* * * *]",
		"60 * * * *":    "end of range (60) above maximum (59): 60",
		"* * 0 * *":     "beginning of range (0) below minimum (1): 0",
		"* 7-3 * * *":   "beginning of range (7) beyond end of range (3): 7-3",
		"*/0 * * * *":   "step of range should be a positive number: */0",
		"x * * * *":     `failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax`,
		"1-2-3 * * * *": "too many hyphens: 1-2-3",
		"@sometimes":    "unrecognized descriptor: @sometimes",
	} {
		if err := CronSchedule(bad); err == nil || err.Error() != want {
			t.Errorf("%q: got %v, want %s", bad, err, want)
		}
	}
}

// FuzzPod: whatever decodes is judged, never crashed on.
func FuzzPod(f *testing.F) {
	f.Add([]byte(`{"spec":{"containers":[{"name":"a","image":"b","ports":[{}],"env":[{}],"livenessProbe":{}}],"volumes":[{}]}}`))
	f.Add([]byte(`{"spec":{"affinity":{"nodeAffinity":{},"podAffinity":{}},"tolerations":[{}],"initContainers":[{}],"dnsConfig":{}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := &corev1.Pod{}
		if yaml.Unmarshal(data, p) != nil {
			return
		}
		defaults.Apply(p)
		Pod(p)
		PodUpdate(p, p.DeepCopy())
	})
}
