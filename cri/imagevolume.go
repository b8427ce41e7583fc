package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// An image volume shows an image's files in a container, read-only: a second
// snapshot of that image beside the container's own, without a writable layer.
//
//	<state>/containers/<id>/images/<n>   snapshot <id>-image-<n>, a view
//
// The snapshot is labelled as one that containerd must not collect, and with its
// container, by which recovery finds those that nobody has any more.
//
// Upstream: containerd@v2.4 internal/cri/server/container_image_mount.go

// errImageVolume is a word that the kubelet looks for and shows as the reason.
//
// Upstream: cri-api pkg/errors ErrImageVolumeMountFailed
var errImageVolume = errors.New("ImageVolumeMountFailed")

func (s *Server) imageVolumes(id string) string { return filepath.Join(s.containerState(id), "images") }

func imageVolumeKey(id, n string) string { return id + "-image-" + n }

// mountImage mounts the image that m names and answers where. It tells m which
// image that was, since a tag may mean another one tomorrow.
func (s *Server) mountImage(ctx context.Context, id string, n int, m *runtimeapi.Mount) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("mount %s: %w: %w", m.GetContainerPath(), errImageVolume, err)
	}
	if m.GetHostPath() != "" || !m.GetReadonly() {
		return fail(fmt.Errorf("an image volume has no host path and is read-only: %w", errdefs.ErrInvalidArgument))
	}
	image, err := s.images.resolve(ctx, m.GetImage().GetImage())
	if err != nil {
		return fail(err)
	}
	m.Image.ImageRef = image.id
	number := strconv.Itoa(n)
	target := filepath.Join(s.imageVolumes(id), number)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fail(err)
	}
	mounts, err := s.daemon.view(ctx, imageVolumeKey(id, number), image, snapshots.WithLabels(map[string]string{
		"containerd.io/gc.root": "image volume", kindLabel: kindView, containerLabel: id}))
	if err != nil {
		return fail(err)
	}
	if err := mount.All(mounts, target); err != nil {
		return fail(err)
	}
	if sub := m.GetImageSubPath(); sub != "" {
		// Nobody can change the image between this look and the mount.
		dir, err := os.OpenInRoot(target, sub)
		if err != nil {
			return fail(fmt.Errorf("subPath: %w: %w", err, errdefs.ErrInvalidArgument))
		}
		defer dir.Close()
		if info, err := dir.Stat(); err != nil || !info.IsDir() {
			return fail(fmt.Errorf("subPath %q is not a directory: %w", sub, errdefs.ErrInvalidArgument))
		}
		target = filepath.Join(target, sub)
	}
	return target, nil
}

// unmountImages undoes mountImage for all of a container's.
func (s *Server) unmountImages(ctx context.Context, id string) error {
	entries, err := os.ReadDir(s.imageVolumes(id))
	if os.IsNotExist(err) {
		return nil
	}
	for _, entry := range entries {
		err = errors.Join(err, unmount(filepath.Join(s.imageVolumes(id), entry.Name())),
			ignoreNotFound(s.daemon.SnapshotService(s.cfg.Snapshotter).Remove(ctx, imageVolumeKey(id, entry.Name()))))
	}
	return err
}

// removeLeftoverViews removes the views of containers that are no more.
func (s *Server) removeLeftoverViews(ctx context.Context) error {
	service := s.daemon.SnapshotService(s.cfg.Snapshotter)
	var leftover []string
	err := service.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if _, err := s.containers.get(info.Labels[containerLabel]); err != nil {
			leftover = append(leftover, info.Name)
		}
		return nil
	}, fmt.Sprintf("labels.%q==%s,labels.%q", kindLabel, kindView, containerLabel))
	for _, key := range leftover {
		s.report("remove leftover view", key, service.Remove(ctx, key))
	}
	return err
}
