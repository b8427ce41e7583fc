package cri

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

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
	// The client's own lease would stay for a day when the caller gives up.
	leased, release, err := s.daemon.lease(ctx)
	if err != nil {
		return nil, err
	}
	image, err := s.daemon.Pull(leased, named.String(),
		containerd.WithResolver(docker.NewResolver(docker.ResolverOptions{Hosts: s.registries(ctx, r.GetAuth())})),
		containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(s.cfg.Snapshotter))
	if err := errors.Join(err, release()); err != nil {
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
		UpdateClient: func(client *http.Client) error {
			client.Transport = impatient{client.Transport, pullPatience}
			return nil
		},
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

const pullPatience = 5 * time.Minute

// impatient gives up a registry from which nothing has come for so long: a
// pull has no deadline, since nobody knows how large an image is.
//
// Upstream: containerd@v2.4 image_pull_progress_timeout
type impatient struct {
	http.RoundTripper
	patience time.Duration
}

// impatientBody waits anew for each piece.
type impatientBody struct {
	io.ReadCloser
	timer    *time.Timer
	patience time.Duration
	ctx      context.Context
}

func (i impatient) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, giveUp := context.WithCancelCause(r.Context())
	silence := fmt.Errorf("%s: nothing has come for %s: %w", r.URL.Host, i.patience, errdefs.ErrUnavailable)
	body := &impatientBody{timer: time.AfterFunc(i.patience, func() { giveUp(silence) }), patience: i.patience, ctx: ctx}
	response, err := i.RoundTripper.RoundTrip(r.WithContext(ctx))
	body.timer.Stop()
	if err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	body.ReadCloser, response.Body = response.Body, body
	return response, nil
}

func (b *impatientBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.patience)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && err != io.EOF {
		err = cmp.Or(context.Cause(b.ctx), err)
	}
	return n, err
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
