package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/image"
	"tinykube/internal/nstest"
)

// testImages pulls from a registry on loopback.
func (m *machine) testImages(t *testing.T) {
	server := httptest.NewServer(registry.New())
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	var pulled []string
	for _, tag := range []string{"one", "two"} {
		img, err := random.Image(1024, 2)
		if err != nil {
			t.Fatal(err)
		}
		push(t, server.URL, tag, img)
		ref := host + "/demo:" + tag
		r, err := m.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		if err != nil {
			t.Fatal(err)
		}
		pulled = append(pulled, r.GetImageRef())
		manifest, _ := img.Digest()
		for _, by := range []string{r.GetImageRef(), ref, host + "/demo@" + manifest.String(), r.GetImageRef()[7:19]} {
			status, err := m.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: by}})
			if err != nil || status.GetImage().GetId() != r.GetImageRef() || len(status.GetImage().GetRepoTags()) != 1 || len(status.GetImage().GetRepoDigests()) != 1 {
				t.Errorf("by %s: %v, %v", by, status.GetImage(), err)
			}
		}
	}
	for filter, want := range map[string]int{"": 4, host + "/demo": 2, host + "/demo:two": 1, pulled[0][7:19]: 1, host + "/other": 0, "demo": 0} {
		list, err := m.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: filter}}})
		if err != nil || len(list.GetImages()) != want {
			t.Errorf("images of %q: %v, %v", filter, list.GetImages(), err)
		}
	}
	for _, id := range pulled {
		for range 2 {
			if _, err := m.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id}}); err != nil {
				t.Error(err)
			}
		}
	}
	list, err := m.images.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 2 {
		t.Errorf("images left: %v, %v", list.GetImages(), err)
	}
	for _, i := range list.GetImages() {
		if pause := slices.Contains(i.GetRepoTags(), image.Pause); i.GetPinned() != pause {
			t.Errorf("pinned: %v", i)
		}
	}
	fs, err := m.images.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(fs.GetImageFilesystems()) != 1 || fs.GetImageFilesystems()[0].GetUsedBytes().GetValue() == 0 || fs.GetImageFilesystems()[0].GetFsId().GetMountpoint() == "" {
		t.Errorf("file systems: %v, %v", fs, err)
	}
	if _, err := m.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: host + "/none:x"}}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("an image that does not exist: %v", err)
	}
	if _, err := m.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "a b"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad name: %v", err)
	}
}

// testMirror pulls an image of a registry that nobody reaches from its mirror,
// which lets in only those who know the password.
func (m *machine) testMirror(t *testing.T) {
	stored := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); r.Method == http.MethodGet && (user != "me" || password != "secret") {
			w.Header().Set("WWW-Authenticate", `Basic realm="mirror"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		stored.ServeHTTP(w, r)
	}))
	defer server.Close()
	img, err := random.Image(1024, 1)
	if err != nil {
		t.Fatal(err)
	}
	push(t, server.URL, "v1", img)
	const dir = "/run/certs.d/registry.example"
	hosts := fmt.Sprintf("server = \"https://registry.example\"\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", server.URL)
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/hosts.toml", []byte(hosts), 0o644)); err != nil {
		t.Fatal(err)
	}
	request := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "registry.example/demo:v1"}, Auth: &runtimeapi.AuthConfig{Username: "me", Password: "wrong"}}
	if _, err := m.images.PullImage(t.Context(), request); err == nil {
		t.Error("pulled with a wrong password")
	}
	request.Auth.Password = "secret"
	pulled, err := m.images.PullImage(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: pulled.GetImageRef()}}); err != nil {
		t.Error(err)
	}
}

// testPullGivenUp: who gives up in the middle of a layer leaves nothing, and may
// try again.
func (m *machine) testPullGivenUp(t *testing.T) {
	stored := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var whole atomic.Bool
	half := make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if whole.Load() || r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			stored.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		stored.ServeHTTP(answer, r)
		maps.Copy(w.Header(), answer.Header())
		w.Write(answer.Body.Bytes()[:answer.Body.Len()/2])
		w.(http.Flusher).Flush()
		half <- struct{}{}
		<-r.Context().Done()
	}))
	defer server.Close()
	img, err := random.Image(1024, 2)
	if err != nil {
		t.Fatal(err)
	}
	push(t, server.URL, "big", img)
	request := &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: strings.TrimPrefix(server.URL, "http://") + "/demo:big"}}
	ctx, giveUp := context.WithCancel(t.Context())
	go func() { <-half; giveUp() }()
	if _, err := m.images.PullImage(ctx, request); status.Code(err) != codes.Canceled {
		t.Errorf("a pull that was given up: %v", err)
	}
	nstest.Eventually(t, "nothing is left of it", func() bool {
		leased, err1 := m.client.LeasesService().List(t.Context())
		begun, err2 := m.client.ContentStore().ListStatuses(t.Context())
		return err1 == nil && err2 == nil && len(leased)+len(begun) == 0
	})
	whole.Store(true)
	pulled, err := m.images.PullImage(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: pulled.GetImageRef()}}); err != nil {
		t.Error(err)
	}
}

// A registry that falls silent, before its answer or in it, is given up.
func TestSilentRegistry(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begins" {
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("something"))
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}))
	defer server.Close()
	client := &http.Client{Transport: impatient{http.DefaultTransport, 100 * time.Millisecond}}
	for _, path := range []string{"/", "/begins"} {
		response, err := client.Get(server.URL + path)
		if err == nil {
			_, err = io.ReadAll(response.Body)
			response.Body.Close()
		}
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "nothing has come for 100ms") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// push stores an image as demo:tag, blobs before the manifest that names them.
func push(t *testing.T, url, tag string, img v1.Image) {
	t.Helper()
	put := func(path, mediaType string, content []byte) {
		t.Helper()
		request, err := http.NewRequest(http.MethodPut, url+path, bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", mediaType)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusCreated {
			t.Fatalf("%s: %s", path, response.Status)
		}
	}
	config, err1 := img.RawConfigFile()
	manifest, err2 := img.RawManifest()
	layers, err3 := img.Layers()
	mediaType, err4 := img.MediaType()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	blobs := [][]byte{config}
	for _, layer := range layers {
		reader, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		blob, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, blob)
	}
	for i, blob := range blobs {
		put(fmt.Sprintf("/v2/demo/blobs/uploads/%d?digest=%s", i, digest.FromBytes(blob)), "application/octet-stream", blob)
	}
	put("/v2/demo/manifests/"+tag, string(mediaType), manifest)
}

func TestCredentials(t *testing.T) {
	for name, c := range map[string]struct {
		auth           *runtimeapi.AuthConfig
		host           string
		user, password string
	}{
		"none":               {nil, "a.io", "", ""},
		"a pair":             {&runtimeapi.AuthConfig{Username: "me", Password: "pw"}, "a.io", "me", "pw"},
		"the pair in one":    {&runtimeapi.AuthConfig{Auth: "bWU6cHc="}, "a.io", "me", "pw"},
		"a token":            {&runtimeapi.AuthConfig{IdentityToken: "tok"}, "a.io", "", "tok"},
		"for this host":      {&runtimeapi.AuthConfig{Username: "me", Password: "pw", ServerAddress: "https://a.io/v2/"}, "a.io", "me", "pw"},
		"for another":        {&runtimeapi.AuthConfig{Username: "me", Password: "pw", ServerAddress: "b.io"}, "a.io", "", ""},
		"for the hub":        {&runtimeapi.AuthConfig{Username: "me", Password: "pw", ServerAddress: "https://index.docker.io/v1/"}, "registry-1.docker.io", "me", "pw"},
		"for a lookalike":    {&runtimeapi.AuthConfig{Username: "me", Password: "pw", ServerAddress: "evil-docker.io"}, "registry-1.docker.io", "", ""},
		"for its own suffix": {&runtimeapi.AuthConfig{Username: "me", Password: "pw", ServerAddress: "a.io.evil.io"}, "a.io", "", ""},
	} {
		if user, password, err := credentials(c.auth)(c.host); err != nil || user != c.user || password != c.password {
			t.Errorf("%s: %q %q, %v", name, user, password, err)
		}
	}
}
