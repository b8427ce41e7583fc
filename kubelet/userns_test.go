package kubelet

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A pod keeps its range over restarts of the kubelet, shares it with no other,
// and is never given the host's users, whatever the file says.
func TestUserNamespaceRanges(t *testing.T) {
	dir, yes, no := t.TempDir(), true, false
	k := &Kubelet{cfg: Config{RootDir: dir}, volumes: &volumes{metrics: newMetrics(), rootDir: dir}, node: &nodeReporter{}}
	pod := func(uid string) *corev1.Pod {
		if err := os.MkdirAll(k.volumes.podDir(types.UID(uid)), 0o750); err != nil {
			t.Fatal(err)
		}
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid)}, Spec: corev1.PodSpec{HostUsers: &no}}
	}
	if _, err := k.userNamespace(pod("a"), ""); err == nil {
		t.Error("a runtime without user namespaces must be an error")
	}
	k.node.handlers = []corev1.NodeRuntimeHandler{{Features: &corev1.NodeRuntimeHandlerFeatures{UserNamespaces: &yes}}}
	first := func(uid string) uint32 {
		t.Helper()
		ns, err := k.userNamespace(pod(uid), "")
		if err != nil {
			t.Fatal(err)
		}
		return ns.Uids[0].HostId
	}
	if a, b, again := first("a"), first("b"), first("a"); a != 65536 || b != 131072 || again != a {
		t.Errorf("ranges from %d, %d and again %d", a, b, again)
	}
	if err := os.RemoveAll(k.volumes.podDir("a")); err != nil {
		t.Fatal(err)
	}
	if c := first("c"); c != 65536 {
		t.Errorf("a freed range is not used again: %d", c)
	}
	for _, text := range []string{"", "{}", `{"uidMappings":[{"hostId":0,"length":65536}],"gidMappings":[{"hostId":0,"length":65536}]}`,
		`{"uidMappings":[{"hostId":65536,"length":65536}],"gidMappings":[{"hostId":131072,"length":65536}]}`} {
		if err := os.WriteFile(filepath.Join(k.volumes.podDir("b"), usernsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if ns, err := k.userNamespace(pod("b"), ""); err == nil {
			t.Errorf("%q is a range: %v", text, ns)
		}
	}
	host := pod("b")
	host.Spec.HostUsers = nil
	if ns, err := k.userNamespace(host, ""); ns != nil || err != nil {
		t.Errorf("the host's: %v, %v", ns, err)
	}
}
