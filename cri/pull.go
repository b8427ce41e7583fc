package cri

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PullImage fetches and unpacks an image. Its answer is the image's id, which
// the kubelet hands back to CreateContainer.
func (s *imageService) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	named, err := reference.ParseDockerRef(r.GetImage().GetImage())
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "parse image reference %q: %v", r.GetImage().GetImage(), err)
	}
	image, err := s.daemon.Pull(ctx, named.String(),
		containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: s.registries(ctx, r.GetAuth())})),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(s.cfg.Snapshotter))
	if err != nil {
		return nil, fmt.Errorf("pull image %q: %w", named, err)
	}
	// A tag may move at the next pull. A second name by digest keeps what was
	// pulled under it now, until RemoveImage takes all names away.
	byDigest := images.Image{Name: named.Name() + "@" + image.Target().Digest.String(), Target: image.Target()}
	if _, err := s.daemon.ImageService().Create(ctx, byDigest); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, err
	}
	facts, err := s.describe(ctx, image.Metadata())
	if err != nil {
		return nil, fmt.Errorf("pull image %q: %w", named, err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: facts.id}, nil
}

// registries says where to find a host's images: at the host, or where
// HOST/hosts.toml below one of the configured directories sends us, the format
// of containerd's own mirrors. It is read anew for every pull.
func (s *imageService) registries(ctx context.Context, auth *runtimeapi.AuthConfig) docker.RegistryHosts {
	return dockerconfig.ConfigureHosts(ctx, dockerconfig.HostOptions{
		Credentials: credentials(auth),
		HostDir: func(host string) (string, error) {
			for _, root := range s.cfg.RegistryConfigDirs {
				if dir, err := dockerconfig.HostDirFromRoot(root)(host); dir != "" || err != nil && !errdefs.IsNotFound(err) {
					return dir, err
				}
			}
			return "", nil // plain HTTP is for localhost alone
		},
	})
}

// credentials answers a registry's challenge from what the kubelet found in
// the pod's pull secrets: name and password, the two joined in base64, or a
// token. They are only shown to the host they were meant for.
func credentials(auth *runtimeapi.AuthConfig) func(host string) (string, string, error) {
	return func(host string) (string, string, error) {
		if auth == nil || !forHost(auth.GetServerAddress(), host) {
			return "", "", nil
		}
		switch {
		case auth.GetUsername() != "":
			return auth.GetUsername(), auth.GetPassword(), nil
		case auth.GetIdentityToken() != "":
			return "", auth.GetIdentityToken(), nil
		case auth.GetAuth() != "":
			decoded, err := base64.StdEncoding.DecodeString(auth.GetAuth())
			user, password, ok := strings.Cut(string(decoded), ":")
			if err != nil || !ok {
				return "", "", fmt.Errorf("registry credentials are not base64 of user:password: %w", errdefs.ErrInvalidArgument)
			}
			return user, strings.TrimRight(password, "\x00"), nil
		}
		return "", "", nil
	}
}

// forHost compares a server address, which may be a URL or empty, with a host.
func forHost(address, host string) bool {
	if address == "" {
		return true
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	server, err := url.Parse(address)
	if err != nil {
		return false
	}
	// The hub answers under another name than it is called by.
	return server.Host == host || (strings.HasSuffix("."+server.Host, ".docker.io") && host == "registry-1.docker.io")
}
