package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// secretReader has one pull secret per name, each with a password of its own.
type secretReader struct {
	objectReader
	passwords map[string]string
}

func (r secretReader) secret(_ context.Context, namespace, name string) (*corev1.Secret, error) {
	s := &corev1.Secret{Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"reg.example":{"username":"u","password":"` + r.passwords[name] + `"}}}`)}}
	s.Namespace, s.Name, s.UID = namespace, name, types.UID("uid-"+name)
	return s, nil
}

func TestPulledImages(t *testing.T) {
	const image, id = "reg.example/app:1", "sha256:abc"
	dir := t.TempDir()
	k := &Kubelet{objects: secretReader{passwords: map[string]string{"mine": "a", "renamed": "a", "other": "b"}},
		pulled: &pullRecords{dir: dir, policy: kubeletv1beta1.NeverVerifyPreloadedImages, pulling: map[string]int{}}}
	credentials := func(names ...string) []pullCredential {
		pod := &corev1.Pod{}
		pod.Namespace = "ns"
		for _, name := range names {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
		}
		return k.pullCredentials(t.Context(), pod, image)
	}
	expect := func(want bool, why string, names ...string) {
		t.Helper()
		if got := k.pulled.mayUse(image, id, func() []pullCredential { return credentials(names...) }); got != want {
			t.Errorf("%s: %v, want %v", why, got, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect(true, "it was there before the kubelet")
	must(k.pulled.begin(image))
	expect(false, "it is being pulled, nobody knows by whom", "mine")
	must(k.pulled.end(image, id, credentials("mine")[0].secret))
	expect(true, "its own secret", "mine")
	expect(false, "no secret")
	expect(false, "another's secret", "other")
	expect(true, "another's of the same content", "other", "renamed")
	k.objects.(secretReader).passwords["renamed"] = "c"
	expect(true, "now known by its name too", "renamed")

	must(k.pulled.begin(image))
	must(k.pulled.end(image, "", nil)) // failed: nothing changes
	expect(false, "no secret, after a pull that failed")
	must(k.pulled.begin(image))
	must(k.pulled.end(image, id, nil))
	expect(true, "the registry gives it to anybody")

	k.pulled.prune([]*runtimeapi.Image{{Id: "another"}}, time.Now().Add(time.Minute))
	if left, _ := filepath.Glob(dir + "/*/*"); len(left) > 0 {
		t.Errorf("left after the image went: %v", left)
	}
}

// An image that is there for others is, for a pod that may not use it, not there.
func TestPulledByAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.manifest("one", "  containers: [{name: a, image: app:1}]\n")
		n.start()
		settle(2 * time.Second)
		n.expectRunning("a")
		raw, err := os.ReadFile(n.kubelet.pulled.file("pulled", "app:1"))
		if err != nil || !strings.Contains(string(raw), `"credentialMapping":{"app":{"nodePodsAccessible":true}}`) {
			t.Fatalf("record: %s %v", raw, err)
		}
		theirs := strings.Replace(string(raw), `"nodePodsAccessible":true`, `"kubernetesSecrets":[{"uid":"1","namespace":"n","name":"s","credentialHash":"h"}]`, 1)
		if err := os.WriteFile(n.kubelet.pulled.file("pulled", "app:1"), []byte(theirs), 0o600); err != nil {
			t.Fatal(err)
		}
		n.manifest("two", "  containers: [{name: b, image: app:1, imagePullPolicy: Never}]\n")
		settle(25 * time.Second)
		if s := n.container("two", "b"); s.State.Waiting == nil || s.State.Waiting.Reason != reasonErrImageNever {
			t.Errorf("status: %+v", s)
		}
		n.stop()
	})
}

// A kubelet that dies during a pull leaves no image to anybody.
func TestPulledAfterCrash(t *testing.T) {
	const image, id = "reg.example/app:1", "sha256:abc"
	r := &pullRecords{dir: t.TempDir(), policy: kubeletv1beta1.NeverVerifyPreloadedImages, pulling: map[string]int{}}
	if err := r.begin(image); err != nil {
		t.Fatal(err)
	}
	r.pulling = map[string]int{}
	if err := r.restore([]*runtimeapi.Image{{Id: id, RepoTags: []string{image}}}); err != nil {
		t.Fatal(err)
	}
	if r.mayUse(image, id, func() []pullCredential { return nil }) {
		t.Error("it may be used without asking the registry")
	}
	if _, err := os.Stat(r.file("pulling", image)); err == nil {
		t.Error("the intent is left")
	}
}

func TestPullPolicies(t *testing.T) {
	for policy, want := range map[kubeletv1beta1.ImagePullCredentialsVerificationPolicy][3]bool{ // unlisted, listed, pulled by us
		kubeletv1beta1.NeverVerify:                  {false, false, false},
		kubeletv1beta1.NeverVerifyPreloadedImages:   {false, false, true},
		kubeletv1beta1.NeverVerifyAllowlistedImages: {true, false, true},
		kubeletv1beta1.AlwaysVerify:                 {true, true, true},
	} {
		r := &pullRecords{policy: policy, allow: []string{"reg.example/base", "reg.example/team/*"}}
		got := [3]bool{r.mustVerify("other/x:1", false), r.mustVerify("reg.example/team/x@sha256:1", false) || r.mustVerify("reg.example/base:1", false), r.mustVerify("reg.example/basement", true)}
		if got != want {
			t.Errorf("%s: must verify %v, want %v", policy, got, want)
		}
	}
	for pattern, good := range map[string]bool{"reg.example/a": true, "reg.example/*": true, "reg.example:5000/a": true, "": false, " a": false,
		"a:1": false, "a@sha256:1": false, "*": false, "/*": false, "a/*/b": false} {
		if (badPattern(pattern) == "") != good {
			t.Errorf("pattern %q: %q", pattern, badPattern(pattern))
		}
	}
}

// An image can be a volume: it is pulled as its own policy says, and its
// container waits for it as for its own.
func TestImageVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.runtime.Missing["data:1"] = true
		const spec = "  volumes: [{name: v, image: {reference: \"data:1\", pullPolicy: IfNotPresent}}]\n" +
			"  containers:\n  - {name: a, image: app:1, volumeMounts: [{name: v, mountPath: /v, subPath: etc}]}\n  - {name: b, image: app:1}\n"
		n.manifest("web", spec)
		n.start()
		settle(time.Second)
		n.expectRunning("b") // which does not mount it
		if s := n.container("web", "a"); s.State.Waiting == nil || s.State.Waiting.Reason != reasonErrImagePull && s.State.Waiting.Reason != reasonImageBackOff {
			t.Errorf("without its volume: %+v", s)
		}
		n.runtime.Load("data:1")
		settle(30 * time.Second)
		n.expectRunning("a", "b")
		for _, c := range n.runtime.Containers() {
			answer, err := n.runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(answer.Status.Mounts, func(m *runtimeapi.Mount) bool { return m.ContainerPath == "/v" })
			switch m := answer.Status.Mounts; {
			case c.Metadata.Name == "b" && i >= 0:
				t.Errorf("b has %v", m[i])
			case c.Metadata.Name == "a" && (i < 0 || m[i].Image.GetImage() != "data:1" || m[i].ImageSubPath != "etc" || !m[i].Readonly || m[i].HostPath != ""):
				t.Errorf("a has %v", m)
			}
		}
		n.stop()
	})
}

func TestSubPath(t *testing.T) {
	env := map[string]string{"A": "a", "UP": "..", "EMPTY": ""}
	for expr, want := range map[string]string{"x/$(A)": "x/a", "$(B)/$(EMPTY)": "missing value for B, EMPTY", "$(UP)/x": "unable to provision SubPath `../x`: must not contain '..'",
		"/$(A)": "error SubPath `/a` must not be an absolute path", "$$(B)": "$(B)"} {
		got, err := expandSubPath(corev1.VolumeMount{SubPathExpr: expr}, env)
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}
