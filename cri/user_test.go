package cri

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResolveUser(t *testing.T) {
	image := &accounts{
		passwd: []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n# no:x:1:1\nbroken\nhuge:x:4294967296:0::/:\n1000:x:7:7::/:\n"),
		group:  []byte("root:x:0:\nweb:x:34:\ndata:x:50:other,web\nlog:x:51:web\n"),
	}
	number := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	for name, c := range map[string]struct {
		image string
		sc    *runtimeapi.LinuxContainerSecurityContext
		want  specs.User
		fails bool
	}{
		"nothing said":           {"", nil, specs.User{AdditionalGids: []uint32{0}}, false},
		"the image's name":       {"web", nil, specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50, 51}}, false},
		"the image's pair":       {"web:data", nil, specs.User{UID: 33, GID: 50, AdditionalGids: []uint32{50, 51}}, false},
		"a stranger's number":    {"1234", nil, specs.User{UID: 1234, AdditionalGids: []uint32{0}}, false},
		"a name of digits":       {"1000", nil, specs.User{UID: 7, GID: 7, AdditionalGids: []uint32{7}}, false},
		"no such name":           {"ghost", nil, specs.User{}, true},
		"no such group":          {"web:ghosts", nil, specs.User{}, true},
		"a number past the end":  {"4294967296", nil, specs.User{}, true},
		"an entry past the end":  {"huge", nil, specs.User{}, true},
		"a negative number":      {"-1", nil, specs.User{}, true},
		"the pod's number":       {"web", &runtimeapi.LinuxContainerSecurityContext{RunAsUser: number(0)}, specs.User{AdditionalGids: []uint32{0}}, false},
		"the pod's name":         {"", &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "web", RunAsGroup: number(9)}, specs.User{UID: 33, GID: 9, AdditionalGids: []uint32{9, 50, 51}}, false},
		"a group without a user": {"", &runtimeapi.LinuxContainerSecurityContext{RunAsGroup: number(9)}, specs.User{}, true},
		"merged groups": {"web", &runtimeapi.LinuxContainerSecurityContext{SupplementalGroups: []int64{50, 7}},
			specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{7, 34, 50, 51}}, false},
		"strict groups": {"web", &runtimeapi.LinuxContainerSecurityContext{SupplementalGroups: []int64{7},
			SupplementalGroupsPolicy: runtimeapi.SupplementalGroupsPolicy_Strict}, specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{7, 34}}, false},
	} {
		got, err := resolveUser(c.image, c.sc, image)
		if (err != nil) != c.fails {
			t.Errorf("%s: error %v, want one: %v", name, err, c.fails)
		}
		if diff := cmp.Diff(c.want, got); err == nil && diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// An image is a stranger's: its links must not lead out of it, nor its files
// block us or fill our memory.
func TestReadInRoot(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside, []byte("secret"), 0o644))
	must(os.MkdirAll(filepath.Join(root, "store"), 0o755))
	must(os.WriteFile(filepath.Join(root, "store/passwd"), []byte("inside"), 0o644))
	must(os.Symlink("/store/passwd", filepath.Join(root, "absolute")))
	must(os.Symlink(outside, filepath.Join(root, "escape")))
	must(os.Symlink(strings.Repeat("../", 30)+outside, filepath.Join(root, "climb")))
	must(os.WriteFile(filepath.Join(root, "huge"), make([]byte, maxAccountFile+1), 0o644))

	for path, want := range map[string]string{"/absolute": "inside", "/missing": "", "/store/passwd/below": "", "/escape": "", "/climb": ""} {
		if got, err := readInRoot(root, path); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"/huge", "/store"} {
		if _, err := readInRoot(root, path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add("root:x:0:0::/:\n", "root:x:0:a,b\n", "root")
	f.Add(":::\n", "::::,", "0")
	f.Fuzz(func(t *testing.T, passwd, group, who string) {
		user, err := resolveUser(who, nil, &accounts{passwd: []byte(passwd), group: []byte(group)})
		if err == nil && (int32(user.UID) < 0 || int32(user.GID) < 0) {
			t.Errorf("%q became %d:%d", who, user.UID, user.GID)
		}
	})
}
