package hostpath

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// chaos is a CO that does anything at any time. What it remembers is what a CO may rely on.
type chaos struct {
	*plugin
	random  *rand.Rand
	volumes map[string]string // ID by name
	steps   []string          // what was done, for the reader of a failure
}

// TestKilledBetweenAndDuringCalls makes random calls in random order, right and wrong, each repeated now and then, and
// kills the driver between and during them. Whatever happens: no call fails in a way that is not the caller's doing, what
// is said to be published is, with its data in it; and in the end everything can be taken back, without a rest.
func TestKilledBetweenAndDuringCalls(t *testing.T) {
	asRoot(t)
	for _, seed := range []uint64{1, uint64(time.Now().UnixNano())} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			c := &chaos{plugin: newPlugin(t), random: rand.New(rand.NewPCG(seed, 0)), volumes: map[string]string{}}
			for range 300 {
				c.step()
			}
			c.restart()
			c.takeBack()
			c.clean()
			if t.Failed() {
				t.Logf("steps: %q", c.steps)
			}
		})
	}
}

// allowed are the answers that a wrong call may get, beside those of a driver that was killed.
var allowed = map[codes.Code]bool{codes.OK: true, codes.NotFound: true, codes.FailedPrecondition: true, codes.InvalidArgument: true,
	codes.AlreadyExists: true, codes.OutOfRange: true, codes.Aborted: true}

// step makes a call, and in one of four cases kills the driver meanwhile or after it.
func (c *chaos) step() {
	name := fmt.Sprint("volume-", c.random.IntN(3))
	block := name == "volume-0"
	target := c.path("pods", fmt.Sprint(c.random.IntN(2)))
	what, call := c.call(name, target, block)
	killed := c.random.IntN(4) == 0
	c.steps = append(c.steps, fmt.Sprintf("%s %s %s %v", what, name, filepath.Base(target), killed))
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() { done <- call(ctx) }()
	if killed {
		// A call takes from some hundred microseconds to some milliseconds; all instants of it are wanted.
		after := time.NewTimer(time.Duration(c.random.IntN(4000)) * time.Microsecond)
		select {
		case <-after.C:
		case err := <-done:
			done <- err
		}
		c.restart()
	}
	err := <-done
	if killed && (status.Code(err) == codes.Unavailable || status.Code(err) == codes.Canceled) {
		return // nobody knows whether it was done
	}
	if !allowed[status.Code(err)] {
		c.t.Errorf("step %d, %s: %v", len(c.steps), what, err)
	}
	if what == "publish" && err == nil {
		c.checkPublished(name, target, block)
	}
}

// call picks what to do.
func (c *chaos) call(name, target string, block bool) (string, func(context.Context) error) {
	id := c.volumes[name]
	if id == "" {
		return "create", func(ctx context.Context) error {
			reply, err := c.CreateVolume(ctx, c.createRequest(name, block, 1<<20), patiently)
			if err == nil {
				c.volumes[name] = reply.GetVolume().GetVolumeId()
			}
			return err
		}
	}
	// Twice is more often: a volume that is published has been through all the others.
	calls := []string{"publish", "publish", "publish", "stage", "stage", "attach", "unpublish", "unstage", "detach", "delete", "snapshot", "clone", "expand"}
	switch what := calls[c.random.IntN(len(calls))]; what {
	case "publish":
		return what, func(context.Context) error { return c.publish(id, target, block) }
	case "stage":
		return what, func(context.Context) error { return c.stage(id, block) }
	case "attach":
		return what, func(context.Context) error { return c.attach(id, block) }
	case "unpublish":
		return what, func(context.Context) error { return c.unpublish(id, target) }
	case "unstage":
		return what, func(context.Context) error { return c.unstage(id) }
	case "detach":
		return what, func(context.Context) error { return c.detach(id) }
	case "snapshot":
		return what, func(ctx context.Context) error {
			_, err := c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "of-" + name, SourceVolumeId: id}, patiently)
			return err
		}
	case "clone":
		return what, func(context.Context) error { _, err := c.copyOf("clone-of-"+name, block, 1<<30, id, ""); return err }
	case "expand":
		size := int64(1+c.random.IntN(4)) << 20
		return what, func(ctx context.Context) error {
			_, err := c.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: size}}, patiently)
			return err
		}
	}
	return "delete", func(context.Context) error {
		err := c.remove(id)
		if err == nil {
			delete(c.volumes, name)
		}
		return err
	}
}

// checkPublished writes to what was published and reads it where the volume lies.
func (c *chaos) checkPublished(name, target string, block bool) {
	source, path := c.path("state", volumesDir, c.volumes[name]), target
	if !block {
		source, path = filepath.Join(source, "mark"), filepath.Join(target, "mark")
	}
	mark := fmt.Sprintf("%-4096s", fmt.Sprint("step ", len(c.steps)))
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_SYNC, 0o600)
	if err == nil {
		_, err = file.WriteString(mark)
		file.Close()
	}
	if err != nil {
		c.t.Errorf("step %d: write to what is published: %v", len(c.steps), err)
		return
	}
	if data, err := os.ReadFile(source); err != nil || len(data) < len(mark) || string(data[:len(mark)]) != mark {
		c.t.Errorf("step %d: what was published at %s is not %s: %v", len(c.steps), target, source, err)
	}
}

// takeBack is the orderly end: every call twice, as a CO does that was killed itself.
func (c *chaos) takeBack() {
	list, err := c.ListVolumes(c.ctx(), &csi.ListVolumesRequest{}, patiently)
	c.must(err)
	snapshots, err := c.ListSnapshots(c.ctx(), &csi.ListSnapshotsRequest{}, patiently)
	c.must(err)
	for range 2 {
		for _, entry := range list.GetEntries() {
			id := entry.GetVolume().GetVolumeId()
			for _, target := range []string{"0", "1"} {
				if err := c.unpublish(id, c.path("pods", target)); status.Code(err) != codes.NotFound {
					c.must(err)
				}
			}
			if err := c.unstage(id); status.Code(err) != codes.NotFound {
				c.must(err)
			}
			c.must(c.detach(id))
			c.must(c.remove(id))
		}
		for _, entry := range snapshots.GetEntries() {
			_, err := c.DeleteSnapshot(c.ctx(), &csi.DeleteSnapshotRequest{SnapshotId: entry.GetSnapshot().GetSnapshotId()})
			c.must(err)
		}
	}
}

// Twenty callers say the same at once: all are answered alike, and it was done once.
func TestConcurrentCalls(t *testing.T) {
	asRoot(t)
	p := newPlugin(t)
	target := p.path("pods", "a")
	together := func(what string, call func() error) {
		t.Helper()
		var group sync.WaitGroup
		for range 20 {
			group.Go(func() {
				if err := call(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		group.Wait()
	}
	for _, block := range []bool{false, true} {
		id := p.create("shared", block, 1<<20)
		together("create", func() error {
			reply, err := p.CreateVolume(p.ctx(), p.createRequest("shared", block, 1<<20))
			if err == nil && reply.GetVolume().GetVolumeId() != id {
				err = fmt.Errorf("another volume of the same name: %v", reply)
			}
			return err
		})
		together("attach", func() error { return p.attach(id, block) })
		together("stage", func() error { return p.stage(id, block) })
		together("publish", func() error { return p.publish(id, target, block) })
		if mounts, _ := mountsUnder(target); len(mounts) != 1 {
			t.Errorf("%d mounts at the target", len(mounts))
		}
		if loops := p.loops(); block && len(loops) != 1 {
			t.Errorf("loop devices: %v", loops)
		}
		together("unpublish", func() error { return p.unpublish(id, target) })
		together("unstage", func() error { return p.unstage(id) })
		together("detach", func() error { return p.detach(id) })
		together("delete", func() error { return p.remove(id) })
	}
	p.clean()
}

// What a reboot takes, mounts and loop devices, comes back when the CO repeats its calls.
func TestRepeatedAfterTheKernelForgot(t *testing.T) {
	asRoot(t)
	p := newPlugin(t)
	target := p.path("pods", "a")
	id := p.staged("disk", true, 1<<20)
	p.must(p.publish(id, target, true))
	p.kill()
	device, err := findLoop(p.path("state", volumesDir, id))
	p.must(err)
	p.must(unbind(device, target))
	p.must(detachLoop(p.path("state", volumesDir, id)))
	p.start()
	p.must(p.stage(id, true))
	p.must(p.publish(id, target, true))
	if mounted, err := mountedAt(target); err != nil || !mounted {
		t.Errorf("published, but nothing is mounted: %v", err)
	}
	// Somebody has taken the device away under a pod: what is left can still be taken back.
	p.must(detachLoop(p.path("state", volumesDir, id)))
	p.withdraw(id, target)
	p.clean()
}
