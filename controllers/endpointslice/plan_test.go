package endpointslice

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func service(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "web", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.5", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

// pod makes a ready pod with the address 10.0.0.<n>.
func pod(n int, change ...func(*corev1.Pod)) *corev1.Pod {
	ip := fmt.Sprintf("10.0.%d.%d", n/250, n%250)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("p", n), UID: types.UID(fmt.Sprint("u", n))},
		Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{
			Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
		}}},
		Status: corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func notReady(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }
func deleting(p *corev1.Pod) { now := metav1.Now(); p.DeletionTimestamp = &now }
func port(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = n }
}

func noZone(string) string { return "" }

// show prints groups: ports, then each endpoint with r(eady) s(erving) t(erminating).
func show(groups map[string]*group) string {
	var lines []string
	for _, g := range groups {
		var b strings.Builder
		b.WriteString(string(g.addressType))
		for _, p := range g.ports {
			fmt.Fprintf(&b, " %s=%d/%s", *p.Name, *p.Port, *p.Protocol)
		}
		b.WriteString(":")
		for _, e := range g.endpoints {
			b.WriteString(" " + e.Addresses[0] + "/")
			for flag, on := range map[string]*bool{"r": e.Conditions.Ready} {
				if *on {
					b.WriteString(flag)
				}
			}
			if *e.Conditions.Serving {
				b.WriteString("s")
			}
			if *e.Conditions.Terminating {
				b.WriteString("t")
			}
		}
		lines = append(lines, b.String())
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

func TestGroups(t *testing.T) {
	for _, test := range []struct {
		name    string
		service *corev1.Service
		pods    []*corev1.Pod
		want    string
	}{
		{"conditions", service(), []*corev1.Pod{pod(1), pod(2, notReady), pod(3, deleting), pod(4, deleting, notReady)},
			"IPv4 http=8080/TCP: 10.0.0.1/rs 10.0.0.2/ 10.0.0.3/st 10.0.0.4/t"},
		{"not ready ones published as ready", service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }),
			[]*corev1.Pod{pod(1, notReady), pod(2, deleting)}, "IPv4 http=8080/TCP: 10.0.0.1/r 10.0.0.2/rst"},
		{"a named port with two numbers", service(), []*corev1.Pod{pod(1), pod(2, port(9090))},
			"IPv4 http=8080/TCP: 10.0.0.1/rs; IPv4 http=9090/TCP: 10.0.0.2/rs"},
		{"a name that a pod does not know", service(), []*corev1.Pod{pod(1, func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil })}, ""},
		{"of another protocol", service(func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }), []*corev1.Pod{pod(1)}, ""},
		{"a number", service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(53) }), []*corev1.Pod{pod(1)}, "IPv4 http=53/TCP: 10.0.0.1/rs"},
		{"a sidecar's port", service(), []*corev1.Pod{pod(1, func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.InitContainers, p.Spec.Containers = []corev1.Container{p.Spec.Containers[0]}, []corev1.Container{{}}
			p.Spec.InitContainers[0].RestartPolicy = &always
		})}, "IPv4 http=8080/TCP: 10.0.0.1/rs"},
		{"headless without ports", service(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.Ports = "None", nil }), []*corev1.Pod{pod(1)}, "IPv4: 10.0.0.1/rs"},
		{"no address yet, or finished", service(), []*corev1.Pod{
			pod(1, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil }),
			pod(2, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		}, ""},
		{"two families", service(func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{"IPv4", "IPv6"} }),
			[]*corev1.Pod{pod(1, func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"}) })},
			"IPv4 http=8080/TCP: 10.0.0.1/rs; IPv6 http=8080/TCP: fd00::1/rs"},
	} {
		if got := show(makeGroups(test.service, test.pods, noZone)); got != test.want {
			t.Errorf("%s:\ngot  %s\nwant %s", test.name, got, test.want)
		}
	}
}

func TestEndpointDetails(t *testing.T) {
	p := pod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = "db-0", "web" })
	e := makeEndpoint(service(), p, []string{"10.0.0.1"}, func(node string) string { return "zone-of-" + node })
	if *e.NodeName != "n1" || *e.Zone != "zone-of-n1" || *e.Hostname != "db-0" || e.TargetRef.Name != "p1" || e.TargetRef.Kind != "Pod" {
		t.Errorf("%+v", e)
	}
}

// apply carries a plan out on a list of slices and says how much it wrote.
func apply(existing []*discoveryv1.EndpointSlice, p plan) ([]*discoveryv1.EndpointSlice, string) {
	for _, s := range p.update {
		i := slices.IndexFunc(existing, func(e *discoveryv1.EndpointSlice) bool { return e.Name == s.Name })
		existing[i] = s
	}
	existing = slices.DeleteFunc(existing, func(e *discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(p.remove, func(s *discoveryv1.EndpointSlice) bool { return s.Name == e.Name })
	})
	return append(existing, p.create...), fmt.Sprintf("+%d ~%d -%d", len(p.create), len(p.update), len(p.remove))
}

func addresses(existing []*discoveryv1.EndpointSlice) []string {
	var list []string
	for _, s := range existing {
		for _, e := range s.Endpoints {
			list = append(list, e.Addresses[0])
		}
	}
	slices.Sort(list)
	return list
}

// TestPacking follows a Service through changes: each writes as little as it
// can, everything is there once, and doing it again writes nothing.
func TestPacking(t *testing.T) {
	s := service()
	var pods []*corev1.Pod
	var existing []*discoveryv1.EndpointSlice
	const most = 100
	step := func(name, wantWrites string, wantSlices int) {
		t.Helper()
		groups := makeGroups(s, pods, noZone)
		var writes string
		existing, writes = apply(existing, makePlan(s, groups, existing, most))
		if writes != wantWrites || len(existing) != wantSlices {
			t.Errorf("%s: writes %s and %d slices, want %s and %d", name, writes, len(existing), wantWrites, wantSlices)
		}
		var want []string
		for _, g := range groups {
			for _, e := range g.endpoints {
				want = append(want, e.Addresses[0])
			}
		}
		slices.Sort(want)
		if got := addresses(existing); !slices.Equal(got, want) {
			t.Errorf("%s: %d addresses, want %d", name, len(got), len(want))
		}
		for _, slice := range existing {
			if len(slice.Endpoints) > most {
				t.Errorf("%s: %d endpoints in one slice", name, len(slice.Endpoints))
			}
		}
		if _, again := apply(slices.Clone(existing), makePlan(s, groups, existing, most)); again != "+0 ~0 -0" {
			t.Errorf("%s: doing it again writes %s", name, again)
		}
	}
	step("no pods", "+1 ~0 -0", 1)
	pods = append(pods, pod(1))
	step("the first pod takes over the empty slice", "+1 ~0 -1", 1)
	for n := range 249 {
		pods = append(pods, pod(n+2))
	}
	step("250 pods", "+2 ~1 -0", 3)
	notReady(pods[120])
	pods[120] = pods[120].DeepCopy()
	step("one changes: one slice", "+0 ~1 -0", 3)
	pods = slices.Delete(pods, 30, 31)
	step("one goes: one slice", "+0 ~1 -0", 3)
	pods = append(pods, pod(400))
	step("one comes: one slice with room", "+0 ~1 -0", 3)
	pods[0] = pod(401)
	step("one replaced: the slice it was in", "+0 ~1 -0", 3)
	s = service(func(s *corev1.Service) { s.Labels["new"] = "label" })
	step("a label of the Service", "+0 ~3 -0", 3)
	for i := range pods {
		pods[i] = pods[i].DeepCopy()
		port(9999)(pods[i])
	}
	step("all ports change", "+3 ~0 -3", 3)
	pods = pods[:0]
	step("all go: one empty slice is kept", "+0 ~1 -2", 1)
	if labels := existing[0].Labels; !maps.Equal(labels, map[string]string{
		"team": "a", "new": "label", discoveryv1.LabelServiceName: "web", discoveryv1.LabelManagedBy: managedBy,
	}) {
		t.Errorf("labels %v", labels)
	}
}

func TestEndpointsObject(t *testing.T) {
	pods := []*corev1.Pod{pod(2), pod(1), pod(3, notReady), pod(4, deleting), pod(5, port(9090))}
	e := makeEndpoints(service(func(s *corev1.Service) { s.Spec.ClusterIP = "None" }), pods)
	var got []string
	for _, subset := range e.Subsets {
		for _, a := range subset.Addresses {
			got = append(got, fmt.Sprintf("%s:%d", a.IP, subset.Ports[0].Port))
		}
		for _, a := range subset.NotReadyAddresses {
			got = append(got, fmt.Sprintf("(%s:%d)", a.IP, subset.Ports[0].Port))
		}
	}
	if want := []string{"10.0.0.1:8080", "10.0.0.2:8080", "(10.0.0.3:8080)", "10.0.0.5:9090"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if _, headless := e.Labels[corev1.IsHeadlessService]; !headless || e.Labels["team"] != "a" {
		t.Errorf("labels %v", e.Labels)
	}
	pods = nil
	for n := range 1200 {
		pods = append(pods, pod(n))
	}
	e = makeEndpoints(service(), pods)
	if len(e.Subsets[0].Addresses) != maxAddresses || e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("%d addresses, annotations %v", len(e.Subsets[0].Addresses), e.Annotations)
	}
}
