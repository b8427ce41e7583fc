package kubelet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
)

// privately runs a test in a mount namespace of its own: whatever it mounts is
// gone with its thread.
func privately(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Errorf("a mount namespace needs root: %v", err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		test(t)
	}()
	<-done
}

// fakeObjects answers from maps; what is not there is NotFound, and everything
// fails while away is set.
type fakeObjects struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
	volumes    map[string]*corev1.PersistentVolume // by claim
	away       error
}

func (f *fakeObjects) configMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if cm := f.configMaps[name]; cm != nil && f.away == nil {
		return cm, nil
	}
	return nil, errors.Join(f.away, apierrors.NewNotFound(corev1.Resource("configmap"), name))
}

func (f *fakeObjects) claimed(_ context.Context, _, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	if volume := f.volumes[name]; volume != nil {
		size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
		return &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{Capacity: size}}, volume, nil
	}
	return nil, nil, errors.New("PVC is not bound")
}

func (f *fakeObjects) secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if s := f.secrets[name]; s != nil && f.away == nil {
		return s, nil
	}
	return nil, errors.Join(f.away, apierrors.NewNotFound(corev1.Resource("secret"), name))
}

func testVolumes(t *testing.T) (*volumes, *fakeObjects) {
	objects := &fakeObjects{
		configMaps: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"a": "1", "b": "2"}}},
		secrets:    map[string]*corev1.Secret{"s": {Data: map[string][]byte{"password": []byte("x")}}}}
	v := &volumes{metrics: newMetrics(), rootDir: t.TempDir(), objects: objects, tokens: &tokens{}, defaultTmpfsBytes: 1 << 20}
	v.csi = &csiVolumes{rootDir: v.rootDir, nodeName: "node-0", objects: objects, log: discard}
	return v, objects
}

func podWith(sources map[string]corev1.VolumeSource) podFacts {
	pod := &corev1.Pod{}
	pod.Name, pod.Namespace, pod.UID = "p", "default", "uid-1"
	pod.Labels = map[string]string{"app": "web"}
	for name, source := range sources {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	}
	return podFacts{pod: pod}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(raw)
}

func TestVolumesFromTheAPI(t *testing.T) {
	privately(t, func(t *testing.T) {
		v, objects := testVolumes(t)
		mode, group := int32(0o400), int64(2000)
		f := podWith(map[string]corev1.VolumeSource{
			"cm":   {ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}},
			"s":    {Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: &mode}},
			"info": {DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "x/labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		})
		f.pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
		mounted, err := v.setUp(t.Context(), f)
		if err != nil {
			t.Error(err)
			return
		}
		if got := read(t, mounted["cm"].path+"/a") + read(t, mounted["s"].path+"/password") + read(t, mounted["info"].path+"/x/labels"); got != `1xapp="web"` {
			t.Errorf("content: %s", got)
		}
		info, err := os.Stat(mounted["s"].path + "/password")
		if err != nil || info.Mode().Perm() != 0o440 {
			t.Errorf("the secret's mode: %v, %v", info.Mode(), err)
		}
		var stat unix.Stat_t
		if err := unix.Stat(mounted["s"].path+"/password", &stat); err != nil || stat.Gid != 2000 {
			t.Errorf("the secret's group: %d, %v", stat.Gid, err)
		}
		if mounts, _ := mountsBelow(v.podDir("uid-1")); len(mounts) != 2 {
			t.Errorf("mounts: %v; want a tmpfs for the secret and one for the pod's facts", mounts)
		}

		// Nothing changed: nothing is written. Something did: all at once.
		before, _ := os.Readlink(mounted["cm"].path + "/..data")
		if _, err := v.setUp(t.Context(), f); err != nil {
			t.Error(err)
		}
		if now, _ := os.Readlink(mounted["cm"].path + "/..data"); now != before {
			t.Error("an unchanged volume was written again")
		}
		objects.configMaps["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": "3"}}
		if _, err := v.setUp(t.Context(), f); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(mounted["cm"].path + "/b"); read(t, mounted["cm"].path+"/a") != "3" || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after a change: b: %v", err)
		}
		if entries, _ := os.ReadDir(mounted["cm"].path); len(entries) != 3 {
			t.Errorf("entries: %v; want a, ..data and one directory", entries)
		}

		// The API server is away: what there is stays.
		objects.away = errors.New("connection refused")
		if _, err := v.setUp(t.Context(), f); err != nil {
			t.Errorf("refresh without an API server: %v", err)
		}
		if err := v.tearDown(t.Context(), "uid-1", true); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(v.podDir("uid-1")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after tear down: %v", err)
		}
		if _, err := v.setUp(t.Context(), f); err == nil {
			t.Error("a new volume without an API server: no error")
		}
		if err := v.tearDown(t.Context(), "uid-1", true); err != nil {
			t.Error(err)
		}
	})
}

func TestEmptyDirs(t *testing.T) {
	privately(t, func(t *testing.T) {
		v, _ := testVolumes(t)
		limit := resource.MustParse("64Ki")
		f := podWith(map[string]corev1.VolumeSource{"disk": {EmptyDir: &corev1.EmptyDirVolumeSource{}},
			"memory": {EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &limit}}})
		mounted, err := v.setUp(t.Context(), f)
		if err != nil {
			t.Error(err)
			return
		}
		if err := os.WriteFile(mounted["disk"].path+"/f", []byte("kept"), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.WriteFile(mounted["memory"].path+"/f", make([]byte, 100<<10), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("more than the size limit: %v", err)
		}
		if _, err := v.setUp(t.Context(), f); err != nil || read(t, mounted["disk"].path+"/f") != "kept" {
			t.Errorf("after another set up: %v", err)
		}
		if mounts, _ := mountsBelow(v.rootDir); len(mounts) != 1 {
			t.Errorf("mounts: %v", mounts)
		}
		if err := v.tearDown(t.Context(), "uid-1", true); err != nil {
			t.Error(err)
		}
	})
}

// TestTearDownSparesWhatIsNotOurs is about subPaths of hostPaths: their binds
// lie in the pod's directory, and what they show is the user's.
func TestTearDownSparesWhatIsNotOurs(t *testing.T) {
	privately(t, func(t *testing.T) {
		v, _ := testVolumes(t)
		data := t.TempDir()
		if err := os.WriteFile(data+"/precious", []byte("x"), 0o600); err != nil {
			t.Error(err)
		}
		for i := range 3 { // as many lives of the container
			target := filepath.Join(v.podDir("uid-1"), "volume-subpaths/v/c/0")
			if err := bindSubPath(filepath.Dir(data), filepath.Base(data), target); err != nil {
				t.Errorf("life %d: %v", i, err)
				return
			}
			read(t, target+"/precious")
		}
		if mounts, _ := mountsBelow(v.rootDir); len(mounts) != 1 {
			t.Errorf("mounts: %v, want one", mounts)
		}
		if err := v.tearDown(t.Context(), "uid-1", true); err != nil {
			t.Error(err)
		}
		read(t, data+"/precious")
	})
}

func TestSubPathStaysInItsVolume(t *testing.T) {
	privately(t, func(t *testing.T) {
		volume, outside := t.TempDir(), t.TempDir()
		target := filepath.Join(t.TempDir(), "target")
		for name, to := range map[string]string{"absolute": outside, "climbing": "../../../../../../etc", "proc": "/proc/self/root"} {
			if err := os.Symlink(to, filepath.Join(volume, name)); err != nil {
				t.Error(err)
			}
		}
		if err := os.MkdirAll(volume+"/real/dir", 0o755); err != nil {
			t.Error(err)
		}
		if err := os.Symlink("real/dir", volume+"/inside"); err != nil {
			t.Error(err)
		}
		for _, path := range []string{"absolute", "absolute/new", "climbing", "proc/etc", "../x", "/etc", "a/../../b"} {
			if err := bindSubPath(volume, path, target); err == nil {
				t.Errorf("%s: no error", path)
				unmount(target)
			}
		}
		if entries, _ := os.ReadDir(outside); len(entries) > 0 {
			t.Errorf("made outside: %v", entries)
		}
		for _, path := range []string{"inside", "real/dir", "new/one"} {
			if err := bindSubPath(volume, path, target); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		unmount(target)
	})
}

// A container of the pod swaps the path for a link while another one is started
// with it as its subPath: it gets the path, or nothing, and never the host's.
func TestSubPathIsNotRaced(t *testing.T) {
	privately(t, func(t *testing.T) {
		volume, outside := t.TempDir(), t.TempDir()
		target := filepath.Join(t.TempDir(), "target")
		err := errors.Join(os.Mkdir(volume+"/a", 0o755), os.WriteFile(volume+"/a/mine", nil, 0o600), os.WriteFile(outside+"/precious", nil, 0o600),
			os.Symlink(outside, volume+"/b"))
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		swapped := make(chan int)
		go func() { // joined below
			n := 0
			for ; ctx.Err() == nil; n++ {
				_ = unix.Renameat2(unix.AT_FDCWD, volume+"/a", unix.AT_FDCWD, volume+"/b", unix.RENAME_EXCHANGE)
			}
			swapped <- n
		}()
		var got, refused int
		for deadline := time.Now().Add(30 * time.Second); (got < 200 || refused < 200) && time.Now().Before(deadline); {
			if bindSubPath(volume, "a", target) != nil {
				refused++
				continue
			}
			got++
			if _, err := os.Stat(target + "/mine"); err != nil {
				t.Errorf("something else than the volume's is there: %v", err)
			}
			unmount(target)
		}
		cancel()
		if n := <-swapped; got == 0 || refused == 0 || n == 0 {
			t.Errorf("no race: %d binds, %d refused, %d swaps", got, refused, n)
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
			t.Errorf("outside: %v, %v", entries, err)
		}
	})
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path string
		kind corev1.HostPathType
		want string
	}{
		{dir, corev1.HostPathDirectory, ""},
		{file, corev1.HostPathDirectory, "is not a directory"},
		{dir + "/new/dir", corev1.HostPathDirectoryOrCreate, ""},
		{file, corev1.HostPathFile, ""},
		{dir + "/none", corev1.HostPathFile, "is not a file"},
		{dir + "/made", corev1.HostPathFileOrCreate, ""},
		{file, corev1.HostPathSocket, "is not a socket file"},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{"/dev/null", corev1.HostPathBlockDev, "is not a block device"},
		{dir + "/whatever", corev1.HostPathUnset, ""},
	} {
		err := setUpHostPath(&corev1.HostPathVolumeSource{Path: test.path, Type: &test.kind})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s as %s: %v, want %q", test.path, test.kind, err, test.want)
		}
	}
}

func TestUnsupportedVolumeSaysSo(t *testing.T) {
	v, _ := testVolumes(t)
	_, err := v.setUp(t.Context(), podWith(map[string]corev1.VolumeSource{"data": {NFS: &corev1.NFSVolumeSource{Server: "x", Path: "/"}}}))
	if want := `MountVolume.SetUp failed for volume "data" : this kind of volume is not supported yet`; fmt.Sprint(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestClaims: a bound volume is a folder of the node; what is not bound, or of
// another kind, says so.
func TestClaims(t *testing.T) {
	v, objects := testVolumes(t)
	dir := t.TempDir()
	objects.volumes = map[string]*corev1.PersistentVolume{
		"host":  {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}}}},
		"local": {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}}},
		"lost":  {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir + "/none"}}}},
		"nfs":   {Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{}}}},
	}
	for claim, want := range map[string]string{"host": "", "local": "", "lost": "is not a directory", "nfs": "not supported yet", "none": "error processing PVC default/none: PVC is not bound"} {
		pod := podWith(map[string]corev1.VolumeSource{"data": {PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim, ReadOnly: true}}})
		pod.pod.Namespace = "default"
		mounted, err := v.setUp(t.Context(), pod)
		switch {
		case want == "" && (err != nil || mounted["data"] != mountedVolume{path: dir, readOnly: true}):
			t.Errorf("%s: %v %v", claim, mounted, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", claim, err, want)
		}
	}
}

func TestPathsOfVolumeFiles(t *testing.T) {
	for _, path := range []string{"../x", "/x", "a/../../x", "..data", "..x"} {
		if clean, err := localPath(path); err == nil {
			t.Errorf("%q is allowed as %q", path, clean)
		}
	}
}
