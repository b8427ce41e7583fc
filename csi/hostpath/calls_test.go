package hostpath

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Every identifier of every call: what could be a path, is too long or is missing never gets as far as being looked for.
func TestBadIdentifiers(t *testing.T) {
	p := newPlugin(t)
	victim := p.path("victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	mount, target := p.capability(false, writer), p.path("pods", "a")
	fromSnapshot := func(id string) *csi.CreateVolumeRequest {
		r := p.createRequest("x", false, 1<<20)
		r.VolumeContentSource = ofSnapshot(id)
		return r
	}
	ephemeral := map[string]string{ephemeralKey: "true"}
	calls := map[string]func(ctx context.Context, id string) error{
		"CreateVolume name": func(ctx context.Context, id string) error {
			_, err := p.CreateVolume(ctx, p.createRequest(id, false, 1))
			return err
		},
		"CreateVolume of volume": func(_ context.Context, id string) error { _, err := p.copyOf("x", false, 1, id, ""); return err },
		"CreateVolume of snap": func(ctx context.Context, id string) error {
			_, err := p.CreateVolume(ctx, fromSnapshot(id))
			return err
		},
		"DeleteVolume":        func(ctx context.Context, id string) error { return p.remove(id) },
		"ControllerPublish":   func(ctx context.Context, id string) error { return p.attach(id, false) },
		"ControllerUnpublish": func(ctx context.Context, id string) error { return p.detach(id) },
		"Validate": func(ctx context.Context, id string) error {
			_, err := p.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{mount}})
			return err
		},
		"ControllerGetVolume": func(ctx context.Context, id string) error {
			_, err := p.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
			return err
		},
		"ControllerExpand": func(ctx context.Context, id string) error {
			_, err := p.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{}})
			return err
		},
		"ControllerModify": func(ctx context.Context, id string) error {
			_, err := p.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: ephemeral})
			return err
		},
		"CreateSnapshot name": func(ctx context.Context, id string) error {
			_, err := p.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: id, SourceVolumeId: "x"})
			return err
		},
		"CreateSnapshot": func(ctx context.Context, id string) error {
			_, err := p.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "x", SourceVolumeId: id})
			return err
		},
		"DeleteSnapshot": func(ctx context.Context, id string) error {
			_, err := p.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
			return err
		},
		"GetSnapshot": func(ctx context.Context, id string) error {
			_, err := p.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: id})
			return err
		},
		"group of": func(ctx context.Context, id string) error {
			_, err := p.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "x", SourceVolumeIds: []string{id}})
			return err
		},
		"group name": func(ctx context.Context, id string) error {
			_, err := p.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: id, SourceVolumeIds: []string{"x"}})
			return err
		},
		"group delete": func(ctx context.Context, id string) error {
			_, err := p.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id})
			return err
		},
		"group get": func(ctx context.Context, id string) error {
			_, err := p.GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: id})
			return err
		},
		"NodeStage":   func(ctx context.Context, id string) error { return p.stage(id, false) },
		"NodeUnstage": func(ctx context.Context, id string) error { return p.unstage(id) },
		"NodePublish": func(ctx context.Context, id string) error { return p.publish(id, target, false) },
		"NodePublish (ephemeral)": func(ctx context.Context, id string) error {
			r := p.publishRequest(id, target, false)
			r.VolumeContext = ephemeral
			_, err := p.NodePublishVolume(ctx, r)
			return err
		},
		"NodeUnpublish": func(ctx context.Context, id string) error { return p.unpublish(id, target) },
		"NodeGetVolumeStats": func(ctx context.Context, id string) error {
			_, err := p.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
			return err
		},
		"NodeExpand": func(ctx context.Context, id string) error {
			_, err := p.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: target})
			return err
		},
	}
	p.create("first", false, 1) // the driver is up, and there is a state
	for _, id := range []string{"../../victim", "a/../../victim", "..", ".", "", "/etc", "a/b", "a/", "a\x00b", "a\x7fb", "a\u0085", strings.Repeat("a", 129)} {
		for what, call := range calls {
			if !strings.HasSuffix(what, " name") || id != "a/b" && id != "a/" { // which names may be
				p.refused(what+" "+id, call(p.ctx(), id), codes.InvalidArgument)
			}
		}
	}
	if data, err := os.ReadFile(victim); err != nil || string(data) != "precious" {
		t.Errorf("the victim: %q %v", data, err)
	}
	for _, path := range []string{"", "pods/a", p.path("pods") + "/../a", "/"} {
		p.refused("publish at "+path, p.publish("x", path, false), codes.InvalidArgument)
		p.refused("unpublish at "+path, p.unpublish("x", path), codes.InvalidArgument)
	}
	// The longest that is right, and what is no path after all.
	for _, name := range []string{strings.Repeat("n", 128), "..a", "a b: ü", "a/b", "a\tb\r\n"} {
		p.must(p.remove(p.create(name, false, 1)))
	}
}

// A target path is the kubelet's to choose and somebody else's to have spoiled.
func TestTargetPaths(t *testing.T) {
	asRoot(t)
	p := newPlugin(t)
	volume, disk := p.staged("directory", false, 1<<20), ""
	pods := p.path("pods")
	at := func(name string) string { return filepath.Join(pods, name) }
	p.must(os.Mkdir(at("empty"), 0o755))
	p.must(os.Mkdir(at("full"), 0o755))
	p.must(os.WriteFile(at("full/file"), []byte("mine"), 0o644))
	p.must(os.WriteFile(at("emptyfile"), nil, 0o644))
	p.must(os.Symlink("/etc", at("link")))
	p.must(os.Symlink(at("nowhere"), at("dangling")))
	tmpfs(t, at("busy"), "")

	p.must(p.publish(volume, at("empty"), false))
	for name, want := range map[string]codes.Code{"full": codes.FailedPrecondition, "emptyfile": codes.InvalidArgument, "link": codes.InvalidArgument,
		"dangling": codes.InvalidArgument, "busy": codes.FailedPrecondition, "missing/parent": codes.Internal} {
		p.refused(name, p.publish(volume, at(name), false), want)
		p.must(p.unpublish(volume, at(name)))
	}
	if data, err := os.ReadFile(at("full/file")); err != nil || string(data) != "mine" {
		t.Errorf("what was there is not any more: %q %v", data, err)
	}
	if mounts, err := mountsUnder(pods); err != nil || len(mounts) != 2 {
		t.Errorf("mounts: %v %v", mounts, err)
	}
	readOnly := p.publishRequest(volume, at("empty"), false)
	readOnly.Readonly = true
	_, err := p.NodePublishVolume(p.ctx(), readOnly)
	p.refused("the same, but read-only", err, codes.AlreadyExists)
	readOnly.TargetPath, readOnly.VolumeCapability = at("ro"), p.capability(false, writer, "noexec", "noatime")
	_, err = p.NodePublishVolume(p.ctx(), readOnly)
	p.must(err)
	if err := os.WriteFile(at("ro/file"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a write to a read-only volume: %v", err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(at("ro"), &s); err != nil || s.Flags&unix.ST_NOEXEC == 0 || s.Flags&unix.ST_NOATIME == 0 {
		t.Errorf("mount options: %x %v", s.Flags, err)
	}
	readOnly.VolumeCapability = p.capability(false, writer, "usrquota")
	_, err = p.NodePublishVolume(p.ctx(), readOnly)
	p.refused("an option that cannot be kept", err, codes.InvalidArgument)

	// Somebody still reads: it stays, and goes when asked again.
	reading, err := os.Open(at("ro"))
	p.must(err)
	if err := p.unpublish(volume, at("ro")); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "busy") {
		t.Errorf("what is busy: %v", err)
	}
	p.must(reading.Close())
	p.must(p.unpublish(volume, at("ro")))
	readOnly.VolumeCapability = p.capability(false, writer)
	_, err = p.NodePublishVolume(p.ctx(), readOnly)
	p.must(err)

	// A mount on top of the volume is not ours to take away.
	p.must(unix.Mount("tmpfs", at("ro"), "tmpfs", 0, ""))
	if err := p.unpublish(volume, at("ro")); err == nil {
		t.Error("something else's mount was taken away")
	}
	p.must(unix.Unmount(at("ro"), 0))
	p.refused("unstaging what is published", p.unstage(volume), codes.FailedPrecondition)
	p.refused("deleting what is published", p.remove(volume), codes.FailedPrecondition)
	p.withdraw(volume, at("empty"), at("ro"))

	disk = p.staged("disk", true, 1<<20)
	p.must(p.publish(disk, at("emptyfile"), true))
	p.must(os.Mkdir(at("dir"), 0o755))
	p.refused("a device at a directory", p.publish(disk, at("dir"), true), codes.InvalidArgument)
	p.refused("a device as a directory", p.publish(disk, at("x"), false), codes.InvalidArgument)
	p.withdraw(disk, at("emptyfile"))
	p.must(unix.Unmount(at("busy"), 0))
	for _, name := range []string{"full", "link", "dangling", "busy", "dir"} {
		p.must(os.RemoveAll(at(name)))
	}
	p.clean()
}

// The order of calls is the CO's duty; a call out of order says so.
func TestOrder(t *testing.T) {
	p := newPlugin(t)
	id, target := p.create("v", false, 1<<20), p.path("pods", "a")
	p.refused("stage before attach", p.stage(id, false), codes.FailedPrecondition)
	p.refused("publish before stage", p.publish(id, target, false), codes.FailedPrecondition)
	p.must(p.attach(id, false))
	_, err := p.ControllerPublishVolume(p.ctx(), &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: "node-0", VolumeCapability: p.capability(false, writer), Readonly: true})
	p.refused("attach differently", err, codes.AlreadyExists)
	_, err = p.ControllerPublishVolume(p.ctx(), &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: "node-9", VolumeCapability: p.capability(false, writer)})
	p.refused("attach elsewhere", err, codes.NotFound)
	p.must(p.stage(id, false))
	p.refused("stage as another thing", p.stage(id, true), codes.InvalidArgument)
	_, err = p.NodeStageVolume(p.ctx(), &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: p.path("elsewhere"), VolumeCapability: p.capability(false, writer)})
	p.refused("stage elsewhere as well", err, codes.FailedPrecondition)
	p.refused("delete what is staged", p.remove(id), codes.FailedPrecondition)
	p.must(p.detach(id)) // as from a node that is lost
	p.refused("unstage the unknown", p.unstage("unknown"), codes.NotFound)
	ofPod := "csi-" + strings.Repeat("0123456789abcdef", 4)
	p.must(p.unpublish(ofPod, target)) // gone, with its target, in an earlier call
	p.refused("unpublish the unknown", p.unpublish("unknown", target), codes.NotFound)
	p.must(os.Mkdir(target, 0o755))
	p.refused("unpublish a pod's, whose target is there", p.unpublish(ofPod, target), codes.NotFound)
	p.must(os.Remove(target))
	p.must(p.unpublish(id, target)) // where it never was
	p.withdraw(id)
	p.clean()
}

// A volume of one pod comes with NodePublishVolume and goes with NodeUnpublishVolume.
func TestEphemeral(t *testing.T) {
	p := newPlugin(t)
	target := p.path("pods", "a")
	request := &csi.NodePublishVolumeRequest{VolumeId: "csi-" + strings.Repeat("0123456789abcdef", 4), TargetPath: target, VolumeCapability: p.capability(false, writer),
		VolumeContext: map[string]string{ephemeralKey: "true"}}
	for range 3 {
		_, err := p.NodePublishVolume(p.ctx(), request, patiently)
		p.must(err)
		p.restart()
	}
	p.must(os.WriteFile(filepath.Join(target, "file"), []byte("x"), 0o644))
	list, err := p.ListVolumes(p.ctx(), &csi.ListVolumesRequest{}, patiently)
	if p.must(err); len(list.GetEntries()) > 0 {
		t.Errorf("it is listed: %v", list)
	}
	persistent := p.publishRequest(request.VolumeId, target, false)
	_, err = p.NodePublishVolume(p.ctx(), persistent)
	p.refused("as a persistent one", err, codes.InvalidArgument)
	for range 3 {
		p.must(p.unpublish(request.VolumeId, target))
		p.restart()
	}
	// One that cannot be published is not there afterwards.
	p.must(os.Symlink("/etc", target))
	_, err = p.NodePublishVolume(p.ctx(), request, patiently)
	p.refused("at a link", err, codes.InvalidArgument)
	p.must(os.Remove(target))
	p.clean()
}

// Capacity is counted by kind, also when everybody asks at once.
func TestCapacityAndTopology(t *testing.T) {
	p := newPlugin(t, func(c *Config) {
		c.Capacity = map[string]resource.Quantity{"fast": resource.MustParse("3Mi"), "slow": resource.MustParse("100Mi")}
	})
	request := func(name, kind string) *csi.CreateVolumeRequest {
		r := p.createRequest(name, false, 1<<20)
		r.Parameters = map[string]string{kindParameter: kind}
		return r
	}
	results := make(chan error)
	for i := range 10 {
		go func() {
			_, err := p.CreateVolume(p.ctx(), request(string(rune('a'+i)), "fast"), patiently)
			results <- err
		}()
	}
	count := map[codes.Code]int{}
	for range 10 {
		count[status.Code(<-results)]++
	}
	if count[codes.OK] != 3 || count[codes.ResourceExhausted] != 7 {
		t.Errorf("3 of 10 volumes fit: %v", count)
	}
	capacity, err := p.GetCapacity(p.ctx(), &csi.GetCapacityRequest{Parameters: map[string]string{kindParameter: "fast"}})
	if p.must(err); capacity.GetAvailableCapacity() != 0 {
		t.Errorf("capacity: %v", capacity)
	}
	_, err = p.CreateVolume(p.ctx(), request("x", "none"))
	p.refused("an unknown kind", err, codes.ResourceExhausted)
	anywhere, err := p.CreateVolume(p.ctx(), p.createRequest("x", false, 50<<20))
	p.must(err)
	_, err = p.ControllerExpandVolume(p.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: anywhere.GetVolume().GetVolumeId(), CapacityRange: &csi.CapacityRange{RequiredBytes: 101 << 20}})
	p.refused("to grow beyond what there is", err, codes.OutOfRange)

	away := request("y", "slow")
	away.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{TopologyKey: "node-9"}}}}
	_, err = p.CreateVolume(p.ctx(), away)
	p.refused("on another node", err, codes.ResourceExhausted)
	away.AccessibilityRequirements.Requisite = append(away.AccessibilityRequirements.Requisite, &csi.Topology{Segments: map[string]string{TopologyKey: "node-0"}})
	_, err = p.CreateVolume(p.ctx(), away)
	p.must(err)
}

// Pages go on where the last one ended, also if what it ended with is gone.
func TestPages(t *testing.T) {
	p := newPlugin(t)
	want := map[string]bool{}
	for _, name := range strings.Split("abcdefg", "") {
		want[p.create(name, false, 1)] = true
	}
	token := ""
	for pages := 0; ; pages++ {
		reply, err := p.ListVolumes(p.ctx(), &csi.ListVolumesRequest{MaxEntries: 2, StartingToken: token})
		p.must(err)
		for _, entry := range reply.GetEntries() {
			id := entry.GetVolume().GetVolumeId()
			if !want[id] {
				t.Errorf("%s comes twice, or should not come", id)
			}
			delete(want, id)
			p.must(p.remove(id))
		}
		if token = reply.GetNextToken(); token == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	for _, token := range []string{"1", "after:", "x"} {
		_, err := p.ListVolumes(p.ctx(), &csi.ListVolumesRequest{StartingToken: token})
		p.refused("token "+token, err, codes.Aborted)
	}
	_, err := p.ListVolumes(p.ctx(), &csi.ListVolumesRequest{MaxEntries: -1})
	p.refused("less than nothing", err, codes.InvalidArgument)
	p.clean()
}
