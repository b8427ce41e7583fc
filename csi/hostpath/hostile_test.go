package hostpath

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// What the specification says of requests that are wrong in one thing, or that come again differently.
func TestWrongRequests(t *testing.T) {
	p := newPlugin(t)
	source, target := p.create("source", false, 2<<20), p.path("pods", "a")
	between := func(required, limit int64) *csi.CapacityRange {
		return &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}
	}
	for what, c := range map[string]struct {
		change func(*csi.CreateVolumeRequest)
		want   codes.Code
	}{
		"less than nothing":           {func(r *csi.CreateVolumeRequest) { r.CapacityRange = between(-1, 0) }, codes.InvalidArgument},
		"up to less than nothing":     {func(r *csi.CreateVolumeRequest) { r.CapacityRange = between(0, -1) }, codes.InvalidArgument},
		"more than the limit":         {func(r *csi.CreateVolumeRequest) { r.CapacityRange = between(2, 1) }, codes.InvalidArgument},
		"all there is":                {func(r *csi.CreateVolumeRequest) { r.CapacityRange = between(math.MaxInt64, 0) }, codes.OutOfRange},
		"no capability":               {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = nil }, codes.InvalidArgument},
		"an empty one":                {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = &csi.VolumeCapability{} }, codes.InvalidArgument},
		"no access mode":              {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessMode = nil }, codes.InvalidArgument},
		"an access mode that is none": {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0].AccessMode.Mode = 99 }, codes.InvalidArgument},
		"directory and device": {func(r *csi.CreateVolumeRequest) {
			r.VolumeCapabilities = append(r.VolumeCapabilities, p.capability(true, writer))
		}, codes.InvalidArgument},
		"a mount option that is none": {func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities[0] = p.capability(false, writer, "password=x") }, codes.InvalidArgument},
		"a copy of nothing":           {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = &csi.VolumeContentSource{} }, codes.InvalidArgument},
		"a copy of what is not there": {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = ofVolume("nothing") }, codes.NotFound},
		"a copy that is smaller": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource, r.CapacityRange = ofVolume(source), between(1<<20, 0)
		}, codes.OutOfRange},
		"a copy with too low a limit": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource, r.CapacityRange = ofVolume(source), between(0, 1<<20)
		}, codes.OutOfRange},
		"a device of a directory": {func(r *csi.CreateVolumeRequest) {
			r.VolumeContentSource, r.VolumeCapabilities[0] = ofVolume(source), p.capability(true, writer)
		}, codes.InvalidArgument},
		"a kind when there are none":   {func(r *csi.CreateVolumeRequest) { r.Parameters = map[string]string{kindParameter: "x"} }, codes.InvalidArgument},
		"of a snapshot that is not":    {func(r *csi.CreateVolumeRequest) { r.VolumeContentSource = ofSnapshot("nothing") }, codes.NotFound},
		"larger under the same name":   {func(r *csi.CreateVolumeRequest) { r.Name, r.CapacityRange = "source", between(3<<20, 0) }, codes.AlreadyExists},
		"nonsense under the same name": {func(r *csi.CreateVolumeRequest) { r.Name, r.CapacityRange = "source", between(-1, 0) }, codes.InvalidArgument},
		"the same under the same name": {func(r *csi.CreateVolumeRequest) { r.Name, r.CapacityRange = "source", between(1<<20, 2<<20) }, codes.OK},
	} {
		request := p.createRequest("x", false, 1<<20)
		c.change(request)
		_, err := p.CreateVolume(p.ctx(), request, patiently)
		p.refused("create: "+what, err, c.want)
	}
	for asked, want := range map[*csi.CapacityRange]codes.Code{nil: codes.InvalidArgument, between(-1, 0): codes.InvalidArgument, between(4<<20, 3<<20): codes.InvalidArgument,
		between(0, 1<<20): codes.OutOfRange, between(1<<41, 0): codes.OutOfRange, between(1<<20, 0): codes.OK} {
		reply, err := p.ControllerExpandVolume(p.ctx(), &csi.ControllerExpandVolumeRequest{VolumeId: source, CapacityRange: asked})
		if p.refused(fmt.Sprint("expand to ", asked), err, want); err == nil && reply.GetCapacityBytes() != 2<<20 {
			t.Errorf("it shrank: %v", reply)
		}
	}
	// The same call in another way.
	attach := &csi.ControllerPublishVolumeRequest{VolumeId: source, NodeId: "node-0", VolumeCapability: p.capability(false, writer)}
	stage := &csi.NodeStageVolumeRequest{VolumeId: source, StagingTargetPath: p.path("staging"), VolumeCapability: p.capability(false, writer, "noatime")}
	publish := &csi.NodePublishVolumeRequest{VolumeId: source, StagingTargetPath: p.path("staging") + "//", TargetPath: target + "/", VolumeCapability: p.capability(false, writer)}
	calls := []struct {
		what string
		call func() error
		can  *csi.VolumeCapability
	}{
		{"attach", func() error { _, err := p.ControllerPublishVolume(p.ctx(), attach); return err }, attach.VolumeCapability},
		{"stage", func() error { _, err := p.NodeStageVolume(p.ctx(), stage); return err }, stage.VolumeCapability},
		{"publish", func() error { _, err := p.NodePublishVolume(p.ctx(), publish); return err }, publish.VolumeCapability},
	}
	for _, one := range calls {
		p.must(one.call())
		p.must(one.call())
		one.can.GetMount().FsType = "ext4"
		p.refused(one.what+" with another file system", one.call(), codes.AlreadyExists)
		one.can.GetMount().FsType, one.can.GetMount().MountFlags = "", []string{"nodev"}
		p.refused(one.what+" with other options", one.call(), codes.AlreadyExists)
	}
	publish.StagingTargetPath, publish.TargetPath = "", p.path("pods", "b")
	p.refused("publish without a staging path", calls[2].call(), codes.FailedPrecondition)
	p.withdraw(source, p.path("pods", ".", "a"))
	p.clean()
}

func ofVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

func ofSnapshot(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

// TestHostileRequests makes every call of every service with anything in each field: what is right, what is not and what
// means harm. Each is answered, with a code that says what is wrong; the driver stays what it is; what it says of itself
// in its log has no secret; and all that came of it can be taken back.
func TestHostileRequests(t *testing.T) {
	asRoot(t)
	seed := uint64(time.Now().UnixNano())
	h := &hostile{plugin: newPlugin(t, func(c *Config) { c.MaxVolumeSize = 16 << 20 }), random: rand.New(rand.NewPCG(seed, 0))}
	p := h.plugin
	p.must(os.Symlink("/etc", p.path("pods", "link")))
	h.words = []string{"", "x", "first", "..", "../../etc", "a/b", strings.Repeat("a", 128), strings.Repeat("ü", 65), "a\x00b", "after:", "node-0", "1", "true", ephemeralKey, kindParameter, TopologyKey,
		p.path("staging"), p.path("pods", "a"), p.path("pods", "b") + "/", p.path("pods", "link"), p.path("pods") + "/../a", "/", "pods/a", "/" + strings.Repeat("p/", 4096)}
	volumes := []string{p.create("first", false, 1<<20), p.staged("second", false, 1<<20), p.staged("third", true, 1<<20)}
	snapshot, err := p.CreateSnapshot(p.ctx(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: volumes[0]})
	p.must(err)
	of := func(words ...string) (values []protoreflect.Value) {
		for _, word := range words {
			values = append(values, protoreflect.ValueOfString(word))
		}
		return values
	}
	h.right = map[string][]protoreflect.Value{"volume_id": of(volumes...), "source_volume_id": of(volumes...), "source_volume_ids": of(volumes...), "snapshot_id": of(snapshot.GetSnapshot().GetSnapshotId()),
		"name": of("first", "second", "x", "y"), "node_id": of("node-0"), "staging_target_path": of(p.path("staging")), "target_path": of(p.path("pods", "a"), p.path("pods", "b")),
		"volume_path": of(p.path("pods", "a"), p.path("staging")), "fs_type": of(""), "mount_flags": of("noatime"), "starting_token": of(""),
		"mode": {protoreflect.ValueOfEnum(1), protoreflect.ValueOfEnum(5), protoreflect.ValueOfEnum(7)}, "required_bytes": {protoreflect.ValueOfInt64(1 << 20)}, "limit_bytes": {protoreflect.ValueOfInt64(0)}}
	h.words = append(h.words, volumes...)
	services := csi.File_csi_proto.Services()
	counts := map[codes.Code]int{}
	for range 60 {
		for i := range services.Len() {
			methods := services.Get(i).Methods()
			for j := range methods.Len() {
				method := methods.Get(j)
				if method.IsStreamingServer() || strings.HasPrefix(string(services.Get(i).Name()), "SnapshotMetadata") {
					continue
				}
				request, reply := message(t, method.Input()), message(t, method.Output())
				h.fill(request.ProtoReflect(), 0)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				err := p.conn.Invoke(ctx, "/"+string(services.Get(i).FullName())+"/"+string(method.Name()), request, reply)
				cancel()
				code := status.Code(err)
				counts[code]++
				if code == codes.Internal && strings.Contains(err.Error(), "invalid UTF-8") {
					continue // our own side refuses to send it
				}
				if !allowed[code] && code != codes.Unimplemented && code != codes.ResourceExhausted && (code != codes.Internal || !strings.Contains(err.Error(), "no such file or directory")) {
					t.Errorf("seed %d: %s of %v: %v", seed, method.FullName(), request, err)
				}
			}
		}
	}
	t.Logf("answers: %v", counts)
	if log, err := os.ReadFile(p.path("log")); err != nil || strings.Contains(string(log), hunted) || !strings.Contains(string(log), stripped) {
		t.Errorf("a secret is in the log, or none was sent: %v", err)
	}
	h.takeBack()
	p.must(os.Remove(p.path("pods", "link")))
	p.clean()
}

// hunted is the value of every secret.
const hunted = "correct-horse-battery-staple"

type hostile struct {
	*plugin
	random *rand.Rand
	words  []string
	right  map[string][]protoreflect.Value // by field, what may be meant
}

func message(t *testing.T, descriptor protoreflect.MessageDescriptor) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// fill puts something into most fields.
func (h *hostile) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch {
		case h.random.IntN(5) == 0 || depth > 4:
		case field.IsMap():
			value := h.word()
			if isSecret(field) {
				value = hunted
			}
			if field.MapValue().Kind() == protoreflect.StringKind {
				m.Mutable(field).Map().Set(protoreflect.ValueOfString(h.word()).MapKey(), protoreflect.ValueOfString(value))
			}
		case field.IsList():
			for range h.random.IntN(3) {
				list := m.Mutable(field).List()
				if field.Kind() == protoreflect.MessageKind {
					h.fill(list.AppendMutable().Message(), depth+1)
				} else {
					list.Append(h.scalar(field))
				}
			}
		case field.Kind() == protoreflect.MessageKind:
			h.fill(m.Mutable(field).Message(), depth+1)
		default:
			m.Set(field, h.scalar(field))
		}
	}
}

func (h *hostile) word() string { return h.words[h.random.IntN(len(h.words))] }

func (h *hostile) scalar(field protoreflect.FieldDescriptor) protoreflect.Value {
	numbers := []int64{0, 1, -1, 4096, 1 << 20, 3 << 20, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}
	number := numbers[h.random.IntN(len(numbers))]
	if right := h.right[string(field.Name())]; len(right) > 0 && h.random.IntN(4) > 0 { // or nothing else would be looked at
		return right[h.random.IntN(len(right))]
	}
	switch field.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(h.word())
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number > 0)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(h.random.IntN(10) - 1))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(number)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(h.word()))
	}
	h.t.Fatalf("what is a %s?", field.Kind())
	return protoreflect.Value{}
}

// takeBack undoes everything that the driver has recorded.
func (h *hostile) takeBack() {
	raw, err := os.ReadFile(h.path("state", "state.json"))
	h.must(err)
	var left records
	h.must(json.Unmarshal(raw, &left))
	for id, volume := range left.Volumes {
		for _, target := range slices.Sorted(maps.Keys(volume.Published)) {
			h.must(h.unpublish(id, target))
		}
		if volume.Ephemeral {
			continue
		}
		if volume.Staged != nil {
			_, err := h.NodeUnstageVolume(h.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: volume.Staged.Path})
			h.must(err)
		}
		h.must(h.detach(id))
		h.must(h.remove(id))
	}
	for id := range left.Groups {
		_, err := h.DeleteVolumeGroupSnapshot(h.ctx(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id})
		h.must(err)
	}
	for id, snapshot := range left.Snapshots {
		if snapshot.Group == "" {
			_, err := h.DeleteSnapshot(h.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: id})
			h.must(err)
		}
	}
}
