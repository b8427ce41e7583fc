package hostpath

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"tinykube/internal/nstest"
)

// configVariable makes the test binary a driver: a process of its own, so that it can be killed.
const configVariable = "HOSTPATH_TEST_CONFIG"

// TestMain runs the tests in mount and PID namespaces of their own: no mount and no process outlives them. Loop devices
// are the machine's; plugin.clean looks for them.
func TestMain(m *testing.M) {
	text := os.Getenv(configVariable)
	if text == "" {
		nstest.Main(m)
	}
	var config Config
	err := json.Unmarshal([]byte(text), &config)
	if err == nil {
		var d *Driver
		if d, err = New(config, slog.New(slog.NewTextHandler(os.Stderr, nil))); err == nil {
			err = d.Run(context.Background())
		}
	}
	slog.Error("The driver ended", "err", err)
	os.Exit(1)
}

// plugin is a running driver and what a CO has to do with it.
type plugin struct {
	csi.ControllerClient
	csi.NodeClient
	csi.GroupControllerClient

	t       *testing.T
	dir     string // everything is here: state, socket, staging and target paths
	config  Config
	process *exec.Cmd
	conn    *connection
}

// connection leads to the driver that runs now.
type connection struct {
	atomic.Pointer[grpc.ClientConn]
}

func (c *connection) Invoke(ctx context.Context, method string, request, reply any, options ...grpc.CallOption) error {
	return c.Load().Invoke(ctx, method, request, reply, options...)
}

func (c *connection) NewStream(ctx context.Context, stream *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return c.Load().NewStream(ctx, stream, method, options...)
}

// newPlugin starts a driver that can do everything. change may have its own ideas.
func newPlugin(t *testing.T, change ...func(*Config)) *plugin {
	t.Helper()
	p := &plugin{t: t, dir: t.TempDir()}
	p.config = Config{Endpoint: "unix://" + p.path("csi.sock"), Name: DefaultName, Version: "test", NodeID: "node-0", StateDir: p.path("state"),
		MaxVolumeSize: 1 << 40, Attach: true, Topology: true, Expansion: true, ControllerExpansion: true, NodeExpansion: true, ListSnapshots: true, Modify: true}
	for _, one := range change {
		one(&p.config)
	}
	for _, sub := range []string{"staging", "pods"} {
		if err := os.Mkdir(p.path(sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.conn = &connection{}
	p.ControllerClient, p.NodeClient, p.GroupControllerClient = csi.NewControllerClient(p.conn), csi.NewNodeClient(p.conn), csi.NewGroupControllerClient(p.conn)
	t.Cleanup(func() {
		p.kill()
		if log, err := os.ReadFile(p.path("log")); t.Failed() && err == nil {
			t.Logf("%s", log[max(0, len(log)-3000):])
		}
	})
	p.start()
	return p
}

// asRoot is for tests of what only the machine's root may do: loop devices, files of any owner.
func asRoot(t *testing.T) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err == nil {
		control.Close()
	} else if os.Getenv("TINYKUBE_MUST_RUN") == "" {
		t.Skipf("loop devices are root's: %v", err)
	}
}

func (p *plugin) path(elements ...string) string {
	return filepath.Join(append([]string{p.dir}, elements...)...)
}

func (p *plugin) start() {
	p.t.Helper()
	config, err := json.Marshal(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	log, err := os.OpenFile(p.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.process = exec.Command("/proc/self/exe")
	p.process.Env = append(os.Environ(), configVariable+"="+string(config))
	p.process.Stdout, p.process.Stderr = log, log
	if err := p.process.Start(); err != nil {
		p.t.Fatal(err)
	}
	// Whoever waits for a driver that is just starting should not wait longer than that takes.
	quick := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1, MaxDelay: 10 * time.Millisecond}, MinConnectTimeout: time.Minute}
	conn, err := grpc.NewClient(p.config.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"), grpc.WithConnectParams(quick))
	if err != nil {
		p.t.Fatal(err)
	}
	p.conn.Store(conn)
}

// kill ends the driver as a power cut does.
func (p *plugin) kill() {
	_ = p.process.Process.Kill()
	_ = p.process.Wait()
	if conn := p.conn.Load(); conn != nil {
		conn.Close()
	}
}

func (p *plugin) restart() {
	p.t.Helper()
	p.kill()
	p.start()
}

// ctx is for calls that must be answered, also when the driver is just starting.
func (p *plugin) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	p.t.Cleanup(cancel)
	return ctx
}

var patiently = grpc.WaitForReady(true)

func (p *plugin) capability(block bool, mode csi.VolumeCapability_AccessMode_Mode, flags ...string) *csi.VolumeCapability {
	capability := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode}}
	if block {
		capability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		capability.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{MountFlags: flags}}
	}
	return capability
}

const writer = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER

func (p *plugin) createRequest(name string, block bool, size int64) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{Name: name, VolumeCapabilities: []*csi.VolumeCapability{p.capability(block, writer)},
		CapacityRange: &csi.CapacityRange{RequiredBytes: size}}
}

// create makes a volume; it must work.
func (p *plugin) create(name string, block bool, size int64) string {
	p.t.Helper()
	reply, err := p.CreateVolume(p.ctx(), p.createRequest(name, block, size), patiently)
	p.must(err)
	return reply.GetVolume().GetVolumeId()
}

// copyOf makes a volume of a volume or a snapshot.
func (p *plugin) copyOf(name string, block bool, size int64, volume, snapshot string) (string, error) {
	request := p.createRequest(name, block, size)
	request.VolumeContentSource = ofVolume(volume)
	if snapshot != "" {
		request.VolumeContentSource = ofSnapshot(snapshot)
	}
	reply, err := p.CreateVolume(p.ctx(), request, patiently)
	return reply.GetVolume().GetVolumeId(), err
}

func (p *plugin) attach(id string, block bool) error {
	_, err := p.ControllerPublishVolume(p.ctx(), &csi.ControllerPublishVolumeRequest{VolumeId: id, NodeId: "node-0", VolumeCapability: p.capability(block, writer)}, patiently)
	return err
}

func (p *plugin) detach(id string) error {
	_, err := p.ControllerUnpublishVolume(p.ctx(), &csi.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: "node-0"}, patiently)
	return err
}

func (p *plugin) stage(id string, block bool) error {
	_, err := p.NodeStageVolume(p.ctx(), &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: p.path("staging"), VolumeCapability: p.capability(block, writer)}, patiently)
	return err
}

func (p *plugin) unstage(id string) error {
	_, err := p.NodeUnstageVolume(p.ctx(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: p.path("staging")}, patiently)
	return err
}

func (p *plugin) publishRequest(id, target string, block bool) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{VolumeId: id, StagingTargetPath: p.path("staging"), TargetPath: target, VolumeCapability: p.capability(block, writer)}
}

func (p *plugin) publish(id, target string, block bool) error {
	_, err := p.NodePublishVolume(p.ctx(), p.publishRequest(id, target, block), patiently)
	return err
}

func (p *plugin) unpublish(id, target string) error {
	_, err := p.NodeUnpublishVolume(p.ctx(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}, patiently)
	return err
}

func (p *plugin) remove(id string) error {
	_, err := p.DeleteVolume(p.ctx(), &csi.DeleteVolumeRequest{VolumeId: id}, patiently)
	return err
}

// staged makes a volume that can be published.
func (p *plugin) staged(name string, block bool, size int64) string {
	p.t.Helper()
	id := p.create(name, block, size)
	p.must(p.attach(id, block))
	p.must(p.stage(id, block))
	return id
}

// withdraw takes a volume away from everywhere, and removes it.
func (p *plugin) withdraw(id string, targets ...string) {
	p.t.Helper()
	for _, target := range targets {
		p.must(p.unpublish(id, target))
	}
	p.must(p.unstage(id))
	p.must(p.detach(id))
	p.must(p.remove(id))
}

func (p *plugin) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// refused checks that a call failed as it should.
func (p *plugin) refused(what string, err error, want codes.Code) {
	p.t.Helper()
	if status.Code(err) != want {
		p.t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// clean checks that nothing is left, on disk or in the kernel, and that the state says so too.
func (p *plugin) clean() {
	p.t.Helper()
	for _, sub := range []string{volumesDir, snapshotsDir} {
		if left, err := os.ReadDir(p.path("state", sub)); err != nil || len(left) > 0 {
			p.t.Errorf("left in %s: %v %v", sub, left, err)
		}
	}
	if left, err := os.ReadDir(p.path("pods")); err != nil || len(left) > 0 {
		p.t.Errorf("left of target paths: %v %v", left, err)
	}
	for _, sub := range []string{"pods", "staging", "state/" + volumesDir} {
		if mounts, err := mountsUnder(p.path(sub)); err != nil || len(mounts) > 0 {
			p.t.Errorf("left mounted: %v %v", mounts, err)
		}
	}
	if loops := p.loops(); len(loops) > 0 {
		p.t.Errorf("loop devices are left: %v", loops)
	}
	state, err := os.ReadFile(p.path("state", "state.json"))
	var left records
	if err == nil {
		err = json.Unmarshal(state, &left)
	}
	if err != nil || len(left.Volumes)+len(left.Snapshots)+len(left.Groups) > 0 {
		p.t.Errorf("left in the state: %s %v", state, err)
	}
}

// loops are the machine's loop devices for files of this driver.
func (p *plugin) loops() (ours []string) {
	backings, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, backing := range backings {
		if file, _ := os.ReadFile(backing); strings.HasPrefix(string(file), p.dir) {
			ours = append(ours, backing)
		}
	}
	return ours
}

// tmpfs mounts a small file system, which can be filled.
func tmpfs(t *testing.T, at, options string) {
	t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
}
