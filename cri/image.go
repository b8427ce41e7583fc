package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageService answers the CRI's ImageService.
//
// containerd knows images as names that point at manifests. The CRI knows them
// as ids (the digest of the image's config) which have names. So we list the
// names and group them by what they point at; the second step never changes
// for a given manifest digest and is remembered.
type imageService struct {
	runtimeapi.UnimplementedImageServiceServer
	cfg    Config
	daemon *daemon

	mu    sync.Mutex // guards what follows
	facts map[digest.Digest]*imageFacts
	root  string // see mountpoint
}

func newImageService(cfg Config, daemon *daemon) *imageService {
	return &imageService{cfg: cfg, daemon: daemon, facts: map[digest.Digest]*imageFacts{}}
}

// imageFacts is what an image's content says: immutable, keyed by digest.
type imageFacts struct {
	id       string
	size     uint64
	diffIDs  []digest.Digest
	platform ocispec.Platform
	config   ocispec.ImageConfig

	once     sync.Mutex // guards accounts
	accounts *accounts
}

// imageInfo is an image as the CRI sees it.
type imageInfo struct {
	*imageFacts
	names   []string // containerd's references, sorted
	tags    []string
	digests []string
	pinned  bool
}

const (
	// pinnedLabel keeps an image from the kubelet's garbage collection. The
	// name is containerd's, so that its tools can pin for us.
	pinnedLabel = "io.cri-containerd.pinned"
	// maxImageConfig bounds what we read of a stranger's image into memory.
	maxImageConfig = 8 << 20
)

// list groups all references by image id. Content that is incomplete or for
// another platform cannot be run and is left out.
func (s *imageService) list(ctx context.Context) ([]*imageInfo, error) {
	records, err := s.daemon.ImageService().List(ctx)
	if err != nil {
		return nil, err
	}
	byID, seen := map[string]*imageInfo{}, map[digest.Digest]*imageFacts{}
	for _, record := range records {
		facts, err := s.describe(ctx, record)
		if err != nil {
			continue
		}
		seen[record.Target.Digest] = facts
		info := byID[facts.id]
		if info == nil {
			info = &imageInfo{imageFacts: facts}
			byID[facts.id] = info
		}
		info.addName(record.Name, record.Target.Digest)
		info.pinned = info.pinned || record.Labels[pinnedLabel] == "pinned" || record.Name == s.cfg.PauseImage
	}
	s.mu.Lock()
	s.facts = seen // forget images that are gone
	s.mu.Unlock()

	list := make([]*imageInfo, 0, len(byID))
	for _, info := range byID {
		sort.Strings(info.names)
		sort.Strings(info.tags)
		sort.Strings(info.digests)
		list = append(list, info)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].id < list[j].id })
	return list, nil
}

// addName sorts a reference into tags and digests. An image that was imported
// under a tag has a repo digest as well: its manifest's, which is known.
func (i *imageInfo) addName(name string, target digest.Digest) {
	i.names = append(i.names, name)
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return // e.g. an alias "sha256:…" which containerd's own CRI made
	}
	if _, byDigest := named.(reference.Digested); !byDigest {
		i.tags = append(i.tags, named.String())
	}
	repoDigest := named.Name() + "@" + target.String()
	if !slices.Contains(i.digests, repoDigest) {
		i.digests = append(i.digests, repoDigest)
	}
}

// describe reads manifest and config, once per digest.
func (s *imageService) describe(ctx context.Context, record images.Image) (*imageFacts, error) {
	s.mu.Lock()
	facts, known := s.facts[record.Target.Digest]
	s.mu.Unlock()
	if known {
		return facts, nil
	}
	blobs := s.daemon.ContentStore()
	manifest, err := images.Manifest(ctx, blobs, record.Target, platforms.Default())
	if err != nil {
		return nil, err
	}
	if manifest.Config.Size > maxImageConfig {
		return nil, fmt.Errorf("image config of %d bytes: %w", manifest.Config.Size, errdefs.ErrInvalidArgument)
	}
	data, err := content.ReadBlob(ctx, blobs, manifest.Config)
	if err != nil {
		return nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	facts = &imageFacts{
		id: manifest.Config.Digest.String(), diffIDs: config.RootFS.DiffIDs, platform: config.Platform, config: config.Config,
		size: uint64(record.Target.Size + manifest.Config.Size),
	}
	for _, layer := range manifest.Layers {
		facts.size += uint64(layer.Size)
	}
	s.mu.Lock()
	s.facts[record.Target.Digest] = facts
	s.mu.Unlock()
	return facts, nil
}

// resolve finds an image by id, unique prefix of an id, tag or repo digest.
func (s *imageService) resolve(ctx context.Context, ref string) (*imageInfo, error) {
	if ref == "" {
		return nil, fmt.Errorf("no image is given: %w", errdefs.ErrInvalidArgument)
	}
	list, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	name := ref
	if named, err := reference.ParseDockerRef(ref); err == nil {
		name = named.String()
	}
	var byPrefix []*imageInfo
	for _, info := range list {
		if info.id == ref || slices.Contains(info.tags, name) || slices.Contains(info.digests, name) {
			return info, nil
		}
		if hex := strings.TrimPrefix(info.id, "sha256:"); len(ref) >= 7 && strings.HasPrefix(hex, strings.TrimPrefix(ref, "sha256:")) {
			byPrefix = append(byPrefix, info)
		}
	}
	if len(byPrefix) == 1 {
		return byPrefix[0], nil
	}
	return nil, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
}

// ListImages filters by what resolve takes, or by a repository: a name without
// a tag stands for all of them.
func (s *imageService) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	list, err := s.list(ctx)
	if ref := r.GetFilter().GetImage().GetImage(); ref != "" && err == nil {
		var one *imageInfo
		one, err = s.resolve(ctx, ref)
		err = ignoreNotFound(err)
		list = slices.DeleteFunc(list, func(i *imageInfo) bool { return (one == nil || i.id != one.id) && !i.inRepository(ref) })
	}
	response := &runtimeapi.ListImagesResponse{}
	for _, info := range list {
		response.Images = append(response.Images, info.toCRI())
	}
	return response, err
}

func (i *imageInfo) inRepository(ref string) bool {
	named, err := reference.ParseNormalizedNamed(ref)
	return err == nil && reference.IsNameOnly(named) &&
		slices.ContainsFunc(i.digests, func(d string) bool { return strings.HasPrefix(d, named.Name()+"@") })
}

func (s *imageService) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	info, err := s.resolve(ctx, r.GetImage().GetImage())
	if err != nil {
		return &runtimeapi.ImageStatusResponse{}, ignoreNotFound(err)
	}
	response := &runtimeapi.ImageStatusResponse{Image: info.toCRI()}
	if r.GetVerbose() {
		response.Info = infoJSON(map[string]any{"chainID": identity.ChainID(info.diffIDs), "imageSpec": ocispec.Image{
			Platform: info.platform, Config: info.config, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: info.diffIDs}}})
	}
	return response, nil
}

// RemoveImage removes every name of the image; containerd then collects the
// content. Containers keep the snapshots they run on.
func (s *imageService) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	info, err := s.resolve(ctx, r.GetImage().GetImage())
	if err != nil {
		return &runtimeapi.RemoveImageResponse{}, ignoreNotFound(err)
	}
	for i, name := range info.names {
		var options []images.DeleteOpt
		if i == len(info.names)-1 {
			options = append(options, images.SynchronousDelete())
		}
		if err := ignoreNotFound(s.daemon.ImageService().Delete(ctx, name, options...)); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// ImageFsInfo says where images are and how much room their layers take.
func (s *imageService) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	usage := &runtimeapi.FilesystemUsage{Timestamp: now(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.mountpoint(ctx)}}
	var bytes, inodes uint64
	service := s.daemon.SnapshotService(s.cfg.Snapshotter)
	err := service.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			return nil // a container's layer: counted by its own statistics
		}
		used, err := service.Usage(ctx, info.Name)
		bytes, inodes = bytes+uint64(used.Size), inodes+uint64(used.Inodes)
		return ignoreNotFound(err)
	})
	usage.UsedBytes, usage.InodesUsed = &runtimeapi.UInt64Value{Value: bytes}, &runtimeapi.UInt64Value{Value: inodes}
	filesystems := []*runtimeapi.FilesystemUsage{usage}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: filesystems, ContainerFilesystems: filesystems}, err
}

// mountpoint is the snapshotter's directory, which only containerd knows.
func (s *imageService) mountpoint(ctx context.Context) string {
	s.mu.Lock()
	root := s.root
	s.mu.Unlock()
	if root != "" {
		return root
	}
	plugins, err := s.daemon.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1,id=="+s.cfg.Snapshotter)
	if err != nil || len(plugins.GetPlugins()) == 0 {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.root = plugins.GetPlugins()[0].GetExports()["root"]
	return s.root
}

func (i *imageInfo) toCRI() *runtimeapi.Image {
	image := &runtimeapi.Image{
		Id: i.id, RepoTags: i.tags, RepoDigests: i.digests, Size: i.size, Pinned: i.pinned,
		Spec: &runtimeapi.ImageSpec{Image: i.id},
	}
	// "user", "user:group", "1000", "1000:1000": the kubelet wants a number if
	// there is one, to check runAsNonRoot.
	user, _, _ := strings.Cut(i.config.User, ":")
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		image.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		image.Username = user
	}
	return image
}

// ref is what a container reports as the image it runs.
func (i *imageInfo) ref() string {
	if len(i.digests) > 0 {
		return i.digests[0]
	}
	return i.id
}

// readAccounts returns the image's passwd and group files, once per image.
// They are facts about the image, since a container's user is resolved before
// anything has run in it.
func (s *imageService) readAccounts(ctx context.Context, info *imageInfo) (*accounts, error) {
	info.once.Lock()
	defer info.once.Unlock()
	if info.accounts != nil {
		return info.accounts, nil
	}
	var read accounts
	err := s.withRootFS(ctx, info, func(root string) (err error) {
		if read.passwd, err = readInRoot(root, "/etc/passwd"); err != nil {
			return err
		}
		read.group, err = readInRoot(root, "/etc/group")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the image's users: %w", err)
	}
	info.accounts = &read
	return info.accounts, nil
}

// withRootFS shows f the image's filesystem, read-only, at a temporary place.
func (s *imageService) withRootFS(ctx context.Context, info *imageInfo, f func(root string) error) (err error) {
	ctx, release, err := s.daemon.lease(ctx) // or the view may be collected under us
	if err != nil {
		return err
	}
	// Cleanup must happen even when the caller has given up.
	cleanup := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, release()) }()

	root, err := os.MkdirTemp(s.cfg.State, "image-")
	if err != nil {
		return err
	}
	defer os.Remove(root)
	key := filepath.Base(root)
	mounts, err := s.daemon.view(ctx, key, info)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.daemon.SnapshotService(s.cfg.Snapshotter).Remove(cleanup, key)) }()
	if err := mount.All(mounts, root); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount(root)) }()
	return f(root)
}
