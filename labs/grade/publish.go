package grade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// publish judges the driver of lab 23 as a kubelet would use it. Each check has
// a volume and a target path of its own.
var publish = suite{
	programs: []string{"csi-hostpath"},
	open:     func(_ context.Context, b *bench) error { return b.startPlugin() },
	checks: []Check{
		{Name: shown, Points: 2, run: withVolume("shown", (*volume).shown),
			Hint: "the target path is not there yet: nothing was done, and it may be (false, nil)"},
		{Name: "said again, it is done once", Points: 2, Needs: []string{shown}, run: withVolume("again", repeated),
			Hint: "source is mounted at target: (true, nil)"},
		{Name: "said again after the driver was killed, it is done once", Points: 2, Needs: []string{shown}, run: withVolume("killed", killed),
			Hint: "what a process remembers dies with it; mountedAt asks the kernel"},
		{Name: "a record is not a mount: after a reboot it is mounted again", Points: 2, Needs: []string{shown}, run: withVolume("reboot", rebooted),
			Hint: "volume.Published says what was meant to be, not what is"},
		{Name: "a directory that an interrupted call left empty is used", Points: 1, Needs: []string{shown}, run: withVolume("empty", leftEmpty),
			Hint: "checkEmpty"},
		{Name: "the same, but read-only, is another thing: ALREADY_EXISTS", Points: 2, Needs: []string{shown}, run: withVolume("other", otherwise),
			Hint: "volume.Published[target] is how it was published"},
		{Name: "a link is refused, and neither followed nor removed: INVALID_ARGUMENT", Points: 2, Needs: []string{shown}, run: withVolume("link", spoiled("link", codes.InvalidArgument)),
			Hint: "os.Lstat; os.Stat would tell of what the link leads to"},
		{Name: "what somebody else has mounted there stays: FAILED_PRECONDITION", Points: 2, Needs: []string{shown}, run: withVolume("busy", busy),
			Hint: "sameFile(source, target)"},
		{Name: "a mount hides nothing: FAILED_PRECONDITION", Points: 1, Needs: []string{shown}, run: withVolume("full", spoiled("full", codes.FailedPrecondition)),
			Hint: "checkEmpty"},
		{Name: "what is no directory is refused: INVALID_ARGUMENT", Points: 1, Needs: []string{shown}, run: withVolume("file", spoiled("file", codes.InvalidArgument)),
			Hint: "checkEmpty"},
	},
}

const shown = "a volume is shown to its pod"

// plugin is the reader's driver. It lives in a mount namespace that a shell
// holds, which starts it again when it dies: mounts must survive the driver as
// they do on a node.
type plugin struct {
	dir    string
	holder *exec.Cmd
}

const holding = `while :; do "$@" > /dev/null 2> "$0.log" & echo $! > "$0"; wait $!; done`

func (b *bench) startPlugin() error {
	p := &plugin{dir: filepath.Join(b.scratch, "csi")}
	for _, sub := range []string{"pods", "staging"} {
		if err := os.MkdirAll(filepath.Join(p.dir, sub), 0o755); err != nil {
			return err
		}
	}
	p.holder = exec.Command("sh", "-c", holding, p.path("driver"), filepath.Join(b.bin, "csi-hostpath"),
		"--endpoint="+p.path("s"), "--statedir="+p.path("data"), "--nodeid=here")
	// Unsharing, and not cloning, is what makes Go cut the namespace off from the machine's.
	p.holder.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		p.holder.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		p.holder.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		p.holder.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if err := p.holder.Start(); err != nil {
		return fmt.Errorf("a mount namespace of our own: %w", err)
	}
	b.plugin = p
	b.closers = append(b.closers, func() {
		_ = syscall.Kill(-p.holder.Process.Pid, syscall.SIGKILL) // with the driver
		_ = p.holder.Wait()
	})
	return nil
}

func (p *plugin) path(name string) string { return filepath.Join(p.dir, name) }

// seen is a path as the driver sees it, with its mounts.
func (p *plugin) seen(path string) string {
	return filepath.Join("/proc", strconv.Itoa(p.holder.Process.Pid), "root", path)
}

// say makes calls on a connection of their own, once somebody answers.
func (p *plugin) say(call func(csi.ControllerClient, csi.NodeClient) error) error {
	quick := grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: poll, Multiplier: 1, MaxDelay: poll}, MinConnectTimeout: time.Second}
	conn, err := grpc.NewClient("unix://"+p.path("s"), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(quick), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		return err
	}
	defer conn.Close()
	return call(csi.NewControllerClient(conn), csi.NewNodeClient(conn))
}

// volume is what a check works with: staged, and not yet published.
type volume struct {
	*plugin
	id, target string
}

var capability = &csi.VolumeCapability{
	AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
	AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
}

// stage makes a volume and prepares it.
func (p *plugin) stage(ctx context.Context, name string) (*volume, error) {
	v := &volume{plugin: p, target: p.path("pods/" + name)}
	return v, p.say(func(c csi.ControllerClient, n csi.NodeClient) error {
		made, err := c.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: name, VolumeCapabilities: []*csi.VolumeCapability{capability}})
		if err != nil {
			return err
		}
		v.id = made.GetVolume().GetVolumeId()
		_, err = n.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: v.id, StagingTargetPath: p.path("staging"), VolumeCapability: capability})
		return err
	})
}

func withVolume(name string, check func(*volume, context.Context) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		v, err := b.plugin.stage(ctx, name)
		if err != nil {
			return err
		}
		return check(v, ctx)
	}
}

// publish says NodePublishVolume.
func (v *volume) publish(ctx context.Context, target string, readOnly bool) error {
	return v.say(func(_ csi.ControllerClient, n csi.NodeClient) error {
		_, err := n.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{VolumeId: v.id, StagingTargetPath: v.path("staging"), TargetPath: target,
			VolumeCapability: capability, Readonly: readOnly})
		return err
	})
}

// shown publishes the volume, and writes to it as the pod would.
func (v *volume) shown(ctx context.Context) error {
	if err := v.publish(ctx, v.target, false); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(v.seen(v.target), "file"), []byte("text"), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(v.path("data/volumes/" + v.id + "/file")); err != nil {
		return fmt.Errorf("what the pod writes does not get to the volume: %w", err)
	}
	return v.mounts(1)
}

// mounts counts what is mounted at the target.
func (v *volume) mounts(want int) error {
	table, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(v.holder.Process.Pid), "mountinfo"))
	if err != nil {
		return err
	}
	if got := strings.Count(string(table), " "+v.target+" "); got != want {
		return fmt.Errorf("%d mounts at %s, and there should be %d", got, v.target, want)
	}
	return nil
}

func repeated(v *volume, ctx context.Context) error {
	for i := range 3 {
		if err := v.shown(ctx); err != nil {
			return fmt.Errorf("time %d: %w", i+1, err)
		}
	}
	return nil
}

func killed(v *volume, ctx context.Context) error {
	if err := v.shown(ctx); err != nil {
		return err
	}
	text, err := os.ReadFile(v.path("driver"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	return v.shown(ctx)
}

// rebooted takes the mount away, and leaves the record.
func rebooted(v *volume, ctx context.Context) error {
	if err := v.shown(ctx); err != nil {
		return err
	}
	args := []string{"-t", strconv.Itoa(v.holder.Process.Pid), "-m", "umount", v.target}
	if os.Geteuid() != 0 {
		args = append([]string{"-U", "--preserve-credentials"}, args...)
	}
	if out, err := exec.CommandContext(ctx, "nsenter", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("umount: %w: %s", err, out)
	}
	return v.shown(ctx)
}

func leftEmpty(v *volume, ctx context.Context) error {
	if err := os.Mkdir(v.target, 0o755); err != nil {
		return err
	}
	return v.shown(ctx)
}

func otherwise(v *volume, ctx context.Context) error {
	if err := v.shown(ctx); err != nil {
		return err
	}
	if err := refusedWith(v.publish(ctx, v.target, true), codes.AlreadyExists); err != nil {
		return err
	}
	return v.mounts(1)
}

// busy publishes where another volume is.
func busy(v *volume, ctx context.Context) error {
	if err := v.shown(ctx); err != nil {
		return err
	}
	other, err := v.stage(ctx, "busy-other")
	if err != nil {
		return err
	}
	if err := refusedWith(other.publish(ctx, v.target, false), codes.FailedPrecondition); err != nil {
		return err
	}
	return v.shown(ctx)
}

// spoiled publishes at a path where there is something already, which must be
// there afterwards as well. At another path all is well.
func spoiled(kind string, want codes.Code) func(*volume, context.Context) error {
	return func(v *volume, ctx context.Context) error {
		if err := v.shown(ctx); err != nil {
			return err
		}
		target := v.target + "-spoiled"
		inside := filepath.Join(target, "precious")
		var err error
		switch kind {
		case "link":
			elsewhere := v.path("elsewhere")
			if err = os.Mkdir(elsewhere, 0o755); err == nil {
				inside, err = target, os.Symlink(elsewhere, target)
			}
		case "full":
			if err = os.Mkdir(target, 0o755); err == nil {
				err = os.WriteFile(inside, nil, 0o644)
			}
		case "file":
			inside, err = target, os.WriteFile(target, nil, 0o644)
		}
		if err != nil {
			return err
		}
		if err := refusedWith(v.publish(ctx, target, false), want); err != nil {
			return err
		}
		if _, err := os.Lstat(v.seen(inside)); err != nil {
			return fmt.Errorf("what was there is not any more: %w", err)
		}
		return nil
	}
}

func refusedWith(err error, want codes.Code) error {
	if got := status.Code(err); got != want {
		return fmt.Errorf("the answer is %v (%v), and should be %v", got, err, want)
	}
	return nil
}
