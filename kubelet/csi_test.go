package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"tinykube/client"
)

// fakeRegistrar is a driver's registrar, and the driver as far as it is asked
// to register.
type fakeRegistrar struct {
	registration.UnimplementedRegistrationServer
	csi.UnimplementedNodeServer
	info     registration.PluginInfo
	answered chan *registration.RegistrationStatus
	server   *grpc.Server
}

func (f *fakeRegistrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: f.info.Type, Name: f.info.Name, Endpoint: f.info.Endpoint, SupportedVersions: f.info.SupportedVersions}, nil
}

func (f *fakeRegistrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	f.answered <- status
	return &registration.RegistrationStatusResponse{}, nil
}

func (f *fakeRegistrar) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: "id-of-node", MaxVolumesPerNode: 5}, nil
}

// serveRegistrar makes a socket; with registers unset it is the driver's own.
func serveRegistrar(t *testing.T, path string, registers bool, info *registration.PluginInfo) *fakeRegistrar {
	t.Helper()
	f := &fakeRegistrar{answered: make(chan *registration.RegistrationStatus, 100), server: grpc.NewServer()}
	f.info.Type, f.info.Name, f.info.Endpoint, f.info.SupportedVersions = info.Type, info.Name, info.Endpoint, info.SupportedVersions
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if registers {
		registration.RegisterRegistrationServer(f.server, f)
	}
	csi.RegisterNodeServer(f.server, f)
	go func() { _ = f.server.Serve(listener) }()
	t.Cleanup(f.server.Stop)
	return f
}

func (f *fakeRegistrar) status(t *testing.T) *registration.RegistrationStatus {
	t.Helper()
	select {
	case status := <-f.answered:
		return status
	case <-time.After(time.Minute):
		t.Fatal("the registrar was told nothing")
		return nil
	}
}

// recordedDrivers is what the API would know.
type recordedDrivers struct {
	mu   sync.Mutex
	have []storagev1.CSINodeDriver
}

func (r *recordedDrivers) install(_ context.Context, d csiDriver) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.have = withDriver(r.have, d)
	return nil
}

func (r *recordedDrivers) uninstall(_ context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.have = withoutDriver(r.have, name)
	return nil
}

func (r *recordedDrivers) names() (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.have {
		out = append(out, d.Name)
	}
	slices.Sort(out)
	return out
}

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !true(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

// TestRegistration: one good registrar among traps, its restart and its end.
func TestRegistration(t *testing.T) {
	dir, err := os.MkdirTemp("", "reg") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	good := &registration.PluginInfo{Type: registration.CSIPlugin, Name: "good.example.com", SupportedVersions: []string{"1.0.0"}}
	api := &recordedDrivers{}
	p := &pluginRegistry{dir: dir, watch: true, log: discard, install: api.install, uninstall: api.uninstall,
		changed: make(chan struct{}, 1), sockets: map[string]*pluginSocket{}}
	// The traps: a socket that nobody has open, a file, the driver's own socket,
	// a hidden one, and plugins that are of another kind or too old.
	stale, err := net.Listen("unix", dir+"/stale.sock")
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	stale.Close()
	if err := os.WriteFile(dir+"/file.sock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	serveRegistrar(t, dir+"/driver.sock", false, good)
	serveRegistrar(t, dir+"/.hidden.sock", true, good)
	serveRegistrar(t, dir+"/.dir/hidden.sock", true, good)
	device := serveRegistrar(t, dir+"/device.sock", true, &registration.PluginInfo{Type: "DevicePlugin", Name: "gpu"})
	old := serveRegistrar(t, dir+"/old.sock", true, &registration.PluginInfo{Type: registration.CSIPlugin, Name: "old.example.com", SupportedVersions: []string{"0.3.0"}})
	escape := serveRegistrar(t, dir+"/escape.sock", true, &registration.PluginInfo{Type: registration.CSIPlugin, Name: "../../etc", SupportedVersions: []string{"1.0.0"}})
	first := serveRegistrar(t, dir+"/below/good-reg.sock", true, good)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx) }()
	if s := first.status(t); !s.PluginRegistered {
		t.Errorf("the good one: %v", s)
	}
	for f, want := range map[*fakeRegistrar]string{device: "no handler registered for plugin type: DevicePlugin", old: "None of the versions specified", escape: "is not a CSI driver's name"} {
		if s := f.status(t); s.PluginRegistered || !strings.Contains(s.Error, want) {
			t.Errorf("%s: %v, want %q", f.info.Name, s, want)
		}
	}
	if endpoint, found := p.endpoint(good.Name); !found || endpoint != dir+"/below/good-reg.sock" || !slices.Equal(api.names(), []string{good.Name}) {
		t.Errorf("endpoint %q %v, CSINode %v", endpoint, found, api.names())
	}
	// The registrar is started anew, at the same path: it is told again.
	first.server.Stop()
	if s := serveRegistrar(t, dir+"/below/good-reg.sock", true, good).status(t); !s.PluginRegistered {
		t.Errorf("the second time: %v", s)
	}
	// A second socket for the driver; it stays registered as long as one is there.
	serveRegistrar(t, dir+"/second.sock", true, good).status(t)
	if err := os.Remove(dir + "/below/good-reg.sock"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other socket serves", func() bool { e, _ := p.endpoint(good.Name); return e == dir+"/second.sock" })
	if err := os.Remove(dir + "/second.sock"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the driver is gone", func() bool { return len(api.names()) == 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLabelPatch(t *testing.T) {
	node := &corev1.Node{}
	node.Labels = map[string]string{"zone": "a"}
	for name, test := range map[string]struct {
		id       string
		topology map[string]string
		before   string
		want     string
	}{
		"new":     {"n", map[string]string{"zone": "a", "rack": "1"}, "", `{"metadata":{"annotations":{"csi.volume.kubernetes.io/nodeid":"{\"d\":\"n\"}"},"labels":{"rack":"1"}}}`},
		"same":    {"n", map[string]string{"zone": "a"}, `{"d":"n"}`, ""},
		"moved":   {"n", map[string]string{"zone": "b"}, "", `detected topology value collision: driver reported "zone":"b" but existing label is "zone":"a"`},
		"another": {"n", nil, `{"e":"n"}`, `{"metadata":{"annotations":{"csi.volume.kubernetes.io/nodeid":"{\"d\":\"n\",\"e\":\"n\"}"},"labels":{}}}`},
		"last":    {"", nil, `{"d":"n"}`, `{"metadata":{"annotations":{"csi.volume.kubernetes.io/nodeid":null},"labels":{}}}`},
	} {
		node.Annotations = map[string]string{annotationDriverNode: test.before}
		got, err := labelPatch(node, "d", test.id, test.topology)
		if text := string(got); text != test.want && (err == nil || err.Error() != test.want) {
			t.Errorf("%s: %s %v, want %s", name, text, err, test.want)
		}
	}
}

func TestWithDriver(t *testing.T) {
	list := withDriver(nil, csiDriver{name: "a", nodeID: "n", maxVolumes: 1 << 40, topology: map[string]string{"z": "", "k": ""}})
	if len(list) != 1 || *list[0].Allocatable.Count != 1<<31-1 || !slices.Equal(list[0].TopologyKeys, []string{"k", "z"}) {
		t.Errorf("%+v", list)
	}
	list = withDriver(withDriver(list, csiDriver{name: "b", nodeID: "n"}), csiDriver{name: "a", nodeID: "m"})
	if len(list) != 2 || list[1].NodeID != "m" || list[1].Allocatable != nil {
		t.Errorf("%+v", list)
	}
	if list = withoutDriver(list, "a"); len(list) != 1 || list[0].Name != "b" {
		t.Errorf("%+v", list)
	}
}

func TestCSIAccessModes(t *testing.T) {
	for _, test := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		finer bool
		want  csi.VolumeCapability_AccessMode_Mode
	}{
		{corev1.ReadWriteOnce, false, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		{corev1.ReadWriteOnce, true, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
		{corev1.ReadWriteOncePod, false, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		{corev1.ReadWriteOncePod, true, csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
		{corev1.ReadOnlyMany, true, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		{corev1.ReadWriteMany, true, csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
	} {
		if got := accessMode(test.mode, test.finer); got != test.want {
			t.Errorf("%s, finer %v: %s, want %s", test.mode, test.finer, got, test.want)
		}
	}
}

// TestFSGroupPolicy: whose files become the group's.
func TestFSGroupPolicy(t *testing.T) {
	group := int64(1)
	for _, test := range []struct {
		policy   storagev1.FSGroupPolicy
		fsType   string
		mode     corev1.PersistentVolumeAccessMode
		readOnly bool
		want     bool
	}{
		{"", "ext4", corev1.ReadWriteOnce, false, true},
		{"", "", corev1.ReadWriteOnce, false, false},
		{"", "nfs", corev1.ReadWriteMany, false, false},
		{storagev1.FileFSGroupPolicy, "", corev1.ReadWriteMany, false, true},
		{storagev1.FileFSGroupPolicy, "", corev1.ReadWriteMany, true, false},
		{storagev1.NoneFSGroupPolicy, "ext4", corev1.ReadWriteOnce, false, false},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{FSGroup: &group}}}
		w := csiVolume{pod: pod, fsType: test.fsType, readOnly: test.readOnly, persistent: &corev1.PersistentVolume{
			Spec: corev1.PersistentVolumeSpec{AccessModes: []corev1.PersistentVolumeAccessMode{test.mode}}}}
		driver := &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{FSGroupPolicy: &test.policy}}
		if got := w.ownsFiles(driver); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// TestGroupStaysInTheVolume: a link in a volume leads nowhere else.
func TestGroupStaysInTheVolume(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Chmod(outside, 0o700), os.Symlink(outside, dir+"/link"), os.Mkdir(dir+"/sub", 0o700),
		os.WriteFile(dir+"/sub/file", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := giveToGroup(dir, os.Getgid(), nil); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{outside: os.ModeDir | 0o700, dir + "/sub": os.ModeDir | os.ModeSetgid | 0o770, dir + "/sub/file": 0o660} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, want %v", path, info.Mode(), want)
		}
	}
}

// TestCSINode: what a registered driver is to the API server.
func TestCSINode(t *testing.T) {
	c := newCluster(t)
	csiNodes := client.For(c.client, client.CSINodes)
	path := filepath.Join(c.cfg.RootDir, "plugins_registry", "d.sock")
	serveRegistrar(t, path, true, &registration.PluginInfo{Type: registration.CSIPlugin, Name: "d.example.com", SupportedVersions: []string{"1.0.0"}})
	c.eventually("the driver is in the CSINode", func() error {
		node, err := csiNodes.Get(t.Context(), "", "node-0")
		if err != nil {
			return err
		}
		if d := node.Spec.Drivers; len(d) != 1 || d[0].Name != "d.example.com" || d[0].NodeID != "id-of-node" || d[0].Allocatable == nil || *d[0].Allocatable.Count != 5 {
			return fmt.Errorf("drivers: %+v", d)
		}
		return nil
	})
	node, err := client.For(c.client, client.Nodes).Get(t.Context(), "", "node-0")
	if err != nil || node.Annotations[annotationDriverNode] != `{"d.example.com":"id-of-node"}` {
		t.Errorf("annotations: %v %v", node.Annotations, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	c.eventually("it is out again", func() error {
		node, err := csiNodes.Get(t.Context(), "", "node-0")
		if err == nil && len(node.Spec.Drivers) > 0 {
			err = fmt.Errorf("drivers: %+v", node.Spec.Drivers)
		}
		return err
	})
}
