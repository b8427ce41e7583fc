package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	sandboxes "github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// This file is everything we ask of containerd about containers, in the words
// of its services and not of its client's helpers, because the helpers hide
// what we want to show. containerd knows three nouns:
//
//	container   a record: spec, snapshot, runtime, labels, extensions. Inert.
//	snapshot    its writable filesystem, a layer above the image's
//	task        the process tree, kept by a shim that outlives containerd
//
// and our own state is two JSON extensions of the record.
const (
	// namespace is containerd's, and shared with every other CRI tool.
	namespace = "k8s.io"
	runtime   = "io.containerd.runc.v2"

	recordExtension = "tinykube.cri.record"
	statusExtension = "tinykube.cri.status"

	// Labels are for people and for filters: `ctr -n k8s.io containers ls`.
	kindLabel     = "tinykube.cri/kind"
	kindSandbox   = "sandbox"
	kindContainer = "container"
	kindView      = "view" // a lease; or a snapshot, see mountImage
	podLabel      = "tinykube.cri/sandbox"
	// containerLabel is on an image volume's snapshot.
	containerLabel = "tinykube.cri/container"
)

type daemon struct {
	*containerd.Client
	snapshotter   string
	systemdCgroup bool
}

// newDaemon makes a client that connects when first used, and again after
// containerd was restarted.
func newDaemon(cfg Config) (*daemon, error) {
	client, err := containerd.New(cfg.Containerd,
		containerd.WithDefaultNamespace(namespace),
		containerd.WithTimeout(time.Second)) // the longest pause between two dials
	if err != nil {
		return nil, fmt.Errorf("containerd client: %w", err)
	}
	return &daemon{Client: client, snapshotter: cfg.Snapshotter, systemdCgroup: cfg.CgroupDriver == "systemd"}, nil
}

// extension wraps a value as the opaque bytes that containerd stores for us.
func extension(value any) (typeurl.Any, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: "tinykube.cri/json", Value: data}, nil
}

func readExtension(c containers.Container, name string, into any) error {
	ext, ok := c.Extensions[name]
	if !ok {
		return fmt.Errorf("extension %s: %w", name, errdefs.ErrNotFound)
	}
	return json.Unmarshal(ext.GetValue(), into)
}

// create writes the record. The snapshot is named after the container and made
// after it: containerd's garbage collector then always sees an owner.
//
// A container's record names its pod, and containerd's own list of sandboxes
// has the pod: then the container's task goes to the shim that pause has, and
// no program is started only to say which one that is.
//
// Upstream: containerd@v2.4 core/runtime/v2 ShimManager.Start
func (d *daemon) create(ctx context.Context, id, image string, labels map[string]string, spec *specs.Spec, userns *userNamespace, record any) error {
	specAny, err := typeurl.MarshalAny(spec)
	if err != nil {
		return err
	}
	recordAny, err := extension(record)
	if err != nil {
		return err
	}
	uid, gid := userns.root()
	runtimeOptions, err := typeurl.MarshalAny(&options.Options{SystemdCgroup: d.systemdCgroup, IoUid: uid, IoGid: gid})
	if err != nil {
		return err
	}
	c := containers.Container{
		ID: id, Image: image, Labels: labels, Spec: specAny,
		Runtime:     containers.RuntimeInfo{Name: runtime, Options: runtimeOptions},
		Snapshotter: d.snapshotter, SnapshotKey: id,
		Extensions: map[string]typeurl.Any{recordExtension: recordAny},
	}
	isPause := labels[kindLabel] == kindSandbox
	if !isPause {
		c.SandboxID = labels[podLabel]
	}
	if _, err := d.ContainerService().Create(ctx, c); err != nil || !isPause {
		return err
	}
	_, err = d.SandboxStore().Create(ctx, sandboxes.Sandbox{ID: id, Runtime: sandboxes.RuntimeOpts{Name: runtime}})
	return err
}

// update replaces one extension in one transaction, durable when it returns.
func (d *daemon) update(ctx context.Context, id, name string, value any) error {
	ext, err := extension(value)
	if err != nil {
		return err
	}
	_, err = d.ContainerService().Update(ctx,
		containers.Container{ID: id, Extensions: map[string]typeurl.Any{name: ext}}, "extensions."+name)
	return err
}

// spec reads the OCI spec of a container.
func (d *daemon) spec(ctx context.Context, id string) (*specs.Spec, error) {
	record, err := d.ContainerService().Get(ctx, id)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{}
	return spec, json.Unmarshal(record.Spec.GetValue(), spec)
}

// updateSpec is update for the OCI spec, so that a restart would find it.
func (d *daemon) updateSpec(ctx context.Context, id string, change func(*specs.Spec)) error {
	spec, err := d.spec(ctx, id)
	if err != nil {
		return err
	}
	change(spec)
	changed, err := typeurl.MarshalAny(spec)
	if err != nil {
		return err
	}
	_, err = d.ContainerService().Update(ctx, containers.Container{ID: id, Spec: changed}, "spec")
	return err
}

// prepare makes the writable layer on top of an image.
func (d *daemon) prepare(ctx context.Context, id string, img *imageInfo, options ...snapshots.Opt) error {
	return d.onLayers(ctx, img, func(parent string) error {
		_, err := d.SnapshotService(d.snapshotter).Prepare(ctx, id, parent, options...)
		return err
	})
}

// view is prepare without a writable layer.
func (d *daemon) view(ctx context.Context, key string, img *imageInfo, options ...snapshots.Opt) (mounts []mount.Mount, err error) {
	err = d.onLayers(ctx, img, func(parent string) (err error) {
		mounts, err = d.SnapshotService(d.snapshotter).View(ctx, key, parent, options...)
		return err
	})
	return mounts, err
}

// onLayers builds upon an image's layers, which are unpacked first if nobody has.
func (d *daemon) onLayers(ctx context.Context, img *imageInfo, build func(parent string) error) error {
	parent := identity.ChainID(img.diffIDs).String()
	err := build(parent)
	if errdefs.IsNotFound(err) {
		if err = d.unpack(ctx, img); err == nil {
			err = build(parent)
		}
	}
	return err
}

func (d *daemon) unpack(ctx context.Context, img *imageInfo) error {
	image, err := d.GetImage(ctx, img.names[0])
	if err != nil {
		return err
	}
	ctx, release, err := d.lease(ctx)
	if err != nil {
		return err
	}
	return errors.Join(image.Unpack(ctx, d.snapshotter), release())
}

// lease keeps what is made in its context from containerd's garbage collector
// until it is released, which also works when the caller has given up. Recover
// removes one that we did not come to release.
func (d *daemon) lease(ctx context.Context) (context.Context, func() error, error) {
	leased, release, err := d.WithLease(ctx, leases.WithRandomID(), leases.WithExpiration(24*time.Hour),
		leases.WithLabels(map[string]string{kindLabel: kindView}))
	return leased, func() error {
		ctx, cancel := detach(ctx)
		defer cancel()
		return release(ctx)
	}, err
}

// discardSandbox is discard for what create has made of a pod.
func (d *daemon) discardSandbox(ctx context.Context, id string) error {
	if err := ignoreNotFound(d.SandboxStore().Delete(ctx, id)); err != nil {
		return err
	}
	return d.discard(ctx, id)
}

// discard removes the snapshot and the record, in the order that leaves the
// record for the next attempt if something fails.
func (d *daemon) discard(ctx context.Context, id string) error {
	if err := ignoreNotFound(d.SnapshotService(d.snapshotter).Remove(ctx, id)); err != nil {
		return err
	}
	return ignoreNotFound(d.ContainerService().Delete(ctx, id))
}

// ioPaths names the FIFOs which the shim opens; empty ones are /dev/null.
type ioPaths struct {
	stdin, stdout, stderr string
	terminal              bool
}

// createTask lets the shim make the container's namespaces and mounts, stopped
// just before the user's program. A caller who gives up does not interrupt it:
// containerd would leave a shim behind that it does not know.
func (d *daemon) createTask(ctx context.Context, id string, fifos ioPaths) (uint32, error) {
	ctx, cancel := detach(ctx)
	defer cancel()
	mounts, err := d.SnapshotService(d.snapshotter).Mounts(ctx, id)
	if err != nil {
		return 0, err
	}
	request := &tasks.CreateTaskRequest{
		ContainerID: id, Terminal: fifos.terminal,
		Stdin: fifos.stdin, Stdout: fifos.stdout, Stderr: fifos.stderr,
	}
	for _, m := range mounts {
		request.Rootfs = append(request.Rootfs,
			&types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	response, err := d.TaskService().Create(ctx, request)
	return response.GetPid(), errgrpc.ToNative(err)
}

func (d *daemon) startTask(ctx context.Context, id, execID string) error {
	_, err := d.TaskService().Start(ctx, &tasks.StartRequest{ContainerID: id, ExecID: execID})
	return errgrpc.ToNative(err)
}

// kill signals the init process, or one exec'd process, or all of the
// container's. A process that is gone already is not an error.
func (d *daemon) kill(ctx context.Context, id, execID string, signal syscall.Signal, all bool) error {
	_, err := d.TaskService().Kill(ctx,
		&tasks.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(signal), All: all})
	return ignoreNotFound(errgrpc.ToNative(err))
}

// waitTask blocks until a process has ended, which may be long ago.
func (d *daemon) waitTask(ctx context.Context, id, execID string) (uint32, error) {
	response, err := d.TaskService().Wait(ctx, &tasks.WaitRequest{ContainerID: id, ExecID: execID})
	return response.GetExitStatus(), errgrpc.ToNative(err)
}

// task returns the state of a task; NotFound, and no other error, means that
// there is none: a shim has two seconds to answer. What containerd could not
// read it calls unknown, which says nothing about the task either.
//
// Upstream: containerd@v2.4 plugins/services/tasks/local.go getProcessState
func (d *daemon) task(ctx context.Context, id string) (*tasktypes.Process, error) {
	response, err := d.TaskService().Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err == nil && response.GetProcess().GetStatus() == tasktypes.Status_UNKNOWN {
		return nil, fmt.Errorf("the state of task %s: %w", id, errdefs.ErrUnknown)
	}
	return response.GetProcess(), errgrpc.ToNative(err)
}

// listTasks asks every shim, and leaves out those that do not answer.
func (d *daemon) listTasks(ctx context.Context) (map[string]*tasktypes.Process, error) {
	response, err := d.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	byID := map[string]*tasktypes.Process{}
	for _, process := range response.GetTasks() {
		if process.GetStatus() != tasktypes.Status_UNKNOWN {
			byID[process.GetID()] = process
		}
	}
	return byID, nil
}

// deleteTask reaps a stopped task: its cgroup, bundle and, with the pod's last
// one, the shim. The shim may hang up before it has answered; then whether the
// task is still there is the answer.
func (d *daemon) deleteTask(ctx context.Context, id string) error {
	_, err := d.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	if err == nil {
		return nil
	}
	if _, gone := d.task(ctx, id); errdefs.IsNotFound(gone) {
		return nil
	}
	return fmt.Errorf("delete task: %w", errgrpc.ToNative(err))
}

// taskExit is what ends in the status of a container.
type taskExit struct {
	id   string
	code uint32
	at   time.Time
	// unknown: the task is gone and took its exit code along.
	unknown bool
}

// readExit translates an event; those of exec'd processes are not ours.
func readExit(any typeurl.Any) (taskExit, bool) {
	event, err := typeurl.UnmarshalAny(any)
	exit, ok := event.(*eventtypes.TaskExit)
	if err != nil || !ok || exit.ID != exit.ContainerID {
		return taskExit{}, false
	}
	return taskExit{id: exit.ContainerID, code: exit.ExitStatus, at: exit.ExitedAt.AsTime()}, true
}

// updateTask changes the limits of a running container's cgroup.
func (d *daemon) updateTask(ctx context.Context, id string, resources *specs.LinuxResources) error {
	any, err := typeurl.MarshalAnyToProto(resources)
	if err != nil {
		return err
	}
	_, err = d.TaskService().Update(ctx, &tasks.UpdateTaskRequest{ContainerID: id, Resources: any})
	return errgrpc.ToNative(err)
}

// diskUsage walks a container's writable layer.
func (d *daemon) diskUsage(ctx context.Context, id string) (snapshots.Usage, error) {
	return d.SnapshotService(d.snapshotter).Usage(ctx, id)
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
