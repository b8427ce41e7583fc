package hostpath

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// A disk that is full: nothing is promised that does not fit, nothing is left of the attempt, and room can still be made.
func TestDiskFull(t *testing.T) {
	asRoot(t)
	p := newPlugin(t)
	p.kill()
	tmpfs(t, p.path("state"), "size=8m")
	p.start()
	source := p.staged("source", false, 1<<20)
	target := p.path("pods", "a")
	p.must(p.publish(source, target, false))
	p.must(os.WriteFile(filepath.Join(target, "data"), make([]byte, 5<<20), 0o644))
	exhausted := func() {
		t.Helper()
		_, err := p.CreateVolume(p.ctx(), p.createRequest("block", true, 64<<20))
		p.refused("a block volume", err, codes.ResourceExhausted)
		_, err = p.copyOf("clone", false, 1<<30, source, "")
		p.refused("a clone", err, codes.ResourceExhausted)
		_, err = p.CreateSnapshot(p.ctx(), &csi.CreateSnapshotRequest{Name: "snapshot", SourceVolumeId: source})
		p.refused("a snapshot", err, codes.ResourceExhausted)
		if left, err := os.ReadDir(p.path("state", volumesDir)); err != nil || len(left) != 1 {
			t.Errorf("volumes: %v %v", left, err)
		}
		if left, err := os.ReadDir(p.path("state", snapshotsDir)); err != nil || len(left) != 0 {
			t.Errorf("snapshots: %v %v", left, err)
		}
	}
	exhausted()
	small := p.staged("small", true, 1<<20)
	_, err := p.ControllerExpandVolume(p.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: small, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 << 20}})
	p.refused("to grow", err, codes.ResourceExhausted)
	p.withdraw(small)

	// Not a byte is left, not even for the state.
	if err := os.WriteFile(filepath.Join(target, "more"), make([]byte, 8<<20), 0o644); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	exhausted()
	p.refused("to write the state", p.unpublish(source, target), codes.ResourceExhausted)
	p.must(os.Remove(p.path("state", volumesDir, source, "more")))
	p.withdraw(source, target)
	p.clean()
}

// A copy has everything that was in a volume and nothing that was not.
func TestCopies(t *testing.T) {
	asRoot(t)
	p := newPlugin(t)
	source := p.create("source", false, 1<<20)
	at := func(id string, names ...string) string {
		return filepath.Join(append([]string{p.path("state", volumesDir, id)}, names...)...)
	}
	p.must(os.MkdirAll(at(source, "dir", "sub"), 0o755))
	p.must(os.WriteFile(at(source, "dir", "file"), []byte("text"), 0o640))
	p.must(os.Chown(at(source, "dir", "file"), 1000, 2000))
	p.must(os.Chmod(at(source, "dir", "sub"), 0o500))
	p.must(os.Link(at(source, "dir", "file"), at(source, "hard")))
	p.must(os.Symlink("/etc/passwd", at(source, "passwd")))
	p.must(os.Symlink("/etc", at(source, "etc")))
	p.must(unix.Mkfifo(at(source, "fifo"), 0o600))
	p.must(os.WriteFile(at(source, "sparse"), []byte("begin"), 0o600))
	p.must(os.Truncate(at(source, "sparse"), 64<<20))

	snapshot, err := p.CreateSnapshot(p.ctx(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: source})
	p.must(err)
	snapshotID := snapshot.GetSnapshot().GetSnapshotId()
	clone, err := p.copyOf("clone", false, 1<<20, source, "")
	p.must(err)
	p.must(os.WriteFile(at(source, "dir", "file"), []byte("changed later"), 0o640))
	p.must(p.remove(source)) // copies are no part of what they are of
	restored, err := p.copyOf("restored", false, 2<<20, "", snapshotID)
	p.must(err)
	for _, id := range []string{clone, restored} {
		var file, hard, sparse, sub unix.Stat_t
		p.must(errors.Join(unix.Lstat(at(id, "dir", "file"), &file), unix.Lstat(at(id, "hard"), &hard), unix.Lstat(at(id, "sparse"), &sparse), unix.Lstat(at(id, "dir", "sub"), &sub)))
		if data, _ := os.ReadFile(at(id, "hard")); string(data) != "text" || file.Ino != hard.Ino || file.Uid != 1000 || file.Gid != 2000 || file.Mode&0o7777 != 0o640 {
			t.Errorf("file: %q %+v %+v", data, file, hard)
		}
		if sub.Mode&0o7777 != 0o500 {
			t.Errorf("sub: %o", sub.Mode)
		}
		if sparse.Size != 64<<20 || sparse.Blocks > 1024 {
			t.Errorf("sparse: %d bytes in %d blocks", sparse.Size, sparse.Blocks)
		}
		for name, want := range map[string]string{"passwd": "/etc/passwd", "etc": "/etc"} {
			if link, err := os.Readlink(at(id, name)); err != nil || link != want {
				t.Errorf("%s: %s %v", name, link, err)
			}
		}
		if info, err := os.Lstat(at(id, "fifo")); err != nil || info.Mode().Type() != os.ModeNamedPipe {
			t.Errorf("fifo: %v %v", info, err)
		}
	}
	_, err = p.copyOf("clone", false, 1<<20, restored, "")
	p.refused("another source under the same name", err, codes.AlreadyExists)
	_, err = p.copyOf("x", true, 1<<20, clone, "")
	p.refused("a device of a directory", err, codes.InvalidArgument)
	_, err = p.copyOf("x", false, 4096, clone, "")
	p.refused("smaller than its source", err, codes.OutOfRange)
	for range 2 {
		_, err = p.DeleteSnapshot(p.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: snapshotID})
		p.must(err)
	}
	p.must(errors.Join(p.remove(clone), p.remove(restored)))
	p.clean()
}

// A block volume has the size that it says, keeps what is written, and can grow while it is used.
func TestBlock(t *testing.T) {
	asRoot(t)
	p := newPlugin(t)
	target := p.path("pods", "disk")
	id := p.staged("disk", true, 1<<20-1) // rounded up
	p.must(p.publish(id, target, true))
	size := func() int64 {
		t.Helper()
		device, err := os.Open(target)
		p.must(err)
		defer device.Close()
		end, err := device.Seek(0, io.SeekEnd)
		p.must(err)
		return end
	}
	if size() != 1<<20 {
		t.Errorf("%d bytes", size())
	}
	device, err := os.OpenFile(target, os.O_WRONLY|os.O_SYNC, 0)
	p.must(err)
	_, err = device.WriteString("keep this")
	p.must(errors.Join(err, device.Close()))
	grown, err := p.ControllerExpandVolume(p.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 3 << 20}})
	if p.must(err); grown.GetCapacityBytes() != 3<<20 || !grown.GetNodeExpansionRequired() || size() != 1<<20 {
		t.Errorf("grown: %v, the device has %d bytes", grown, size())
	}
	for range 2 {
		_, err = p.NodeExpandVolume(p.ctx(), &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: target, CapacityRange: &csi.CapacityRange{RequiredBytes: 3 << 20}})
		p.must(err)
	}
	if size() != 3<<20 {
		t.Errorf("after it was expanded, the device has %d bytes", size())
	}
	stats, err := p.NodeGetVolumeStats(p.ctx(), &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
	if p.must(err); stats.GetUsage()[0].GetTotal() != 3<<20 {
		t.Errorf("stats: %v", stats)
	}
	clone, err := p.copyOf("clone", true, 4<<20, id, "")
	p.must(err)
	p.must(p.unpublish(id, target))
	p.must(p.unstage(id))
	for id, bytes := range map[string]int{id: 3 << 20, clone: 4 << 20} {
		data, err := os.ReadFile(p.path("state", volumesDir, id))
		if err != nil || len(data) != bytes || !strings.HasPrefix(string(data), "keep this") {
			t.Errorf("%d bytes are left, beginning with %.9q: %v", len(data), data, err)
		}
	}
	_, err = p.ControllerExpandVolume(p.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 1 << 41}})
	p.refused("too big", err, codes.OutOfRange)
	p.must(errors.Join(p.detach(id), p.remove(id), p.remove(clone)))
	p.clean()
}

// Secrets are known by the option that marks them, wherever they are; tokens by their name.
func TestSecretsAreNotLogged(t *testing.T) {
	secrets := map[string]string{"password": "hunter2"}
	for _, text := range []string{
		logged(&csi.CreateVolumeRequest{Name: "name", Secrets: secrets}),
		logged(&csi.NodeStageVolumeRequest{VolumeId: "name", Secrets: secrets}),
		logged(&csi.NodeExpandVolumeRequest{VolumeId: "name", Secrets: secrets}),
		logged(&csi.NodePublishVolumeRequest{VolumeId: "name", VolumeContext: map[string]string{tokensKey: `{"":{"token":"hunter2"}}`}}),
	} {
		if strings.Contains(text, "hunter2") || !strings.Contains(text, stripped) || !strings.Contains(text, "name") {
			t.Errorf("logged: %s", text)
		}
	}
	if secrets["password"] != "hunter2" {
		t.Error("the request itself was changed")
	}
}

// What a driver may find when it starts, and must not make worse.
func TestStart(t *testing.T) {
	p := newPlugin(t)
	p.must(p.remove(p.create("v", false, 1)))
	log := slog.New(slog.DiscardHandler)
	run := func(change func(*Config)) error {
		config := p.config
		change(&config)
		d, err := New(config, log)
		if err != nil {
			return err
		}
		return d.Run(t.Context())
	}
	refused := func(want string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused("used by another driver", run(func(c *Config) { c.Endpoint = "unix://" + p.path("other.sock") }))
	refused("somebody answers there", run(func(c *Config) { c.StateDir = p.path("other") }))
	p.must(os.WriteFile(p.path("file"), []byte("no socket"), 0o600))
	refused("is not a socket", run(func(c *Config) { c.StateDir, c.Endpoint = p.path("other"), p.path("file") }))
	p.must(os.WriteFile(p.path("other", "state.json"), []byte(`{"Volumes":`), 0o600))
	refused("read the driver's state", run(func(c *Config) { c.StateDir, c.Endpoint = p.path("other"), p.path("o.sock") }))
	refused("no node id", run(func(c *Config) { c.NodeID = "" }))

	// What a driver that was killed leaves: half a volume, half a new state, a socket.
	p.kill()
	if _, err := net.Dial("unix", p.path("csi.sock")); err == nil {
		t.Error("somebody still answers")
	}
	p.must(os.MkdirAll(p.path("state", volumesDir, "half", "dir"), 0o755))
	p.must(os.WriteFile(p.path("state", snapshotsDir, "half"), []byte("x"), 0o600))
	p.must(os.WriteFile(p.path("state", "state.json.new"), []byte(`{"Vol`), 0o600))
	p.start()
	p.must(p.remove(p.create("v", false, 1)))
	p.clean()
}
