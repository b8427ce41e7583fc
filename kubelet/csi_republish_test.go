package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// publishedTo is a driver that remembers what it was told last.
type publishedTo struct {
	csi.UnimplementedNodeServer
	calls   atomic.Int32
	last    atomic.Pointer[csi.NodePublishVolumeRequest]
	refuses atomic.Bool
}

func (p *publishedTo) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return &csi.NodeGetCapabilitiesResponse{}, nil
}

func (p *publishedTo) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	p.calls.Add(1)
	p.last.Store(r)
	if p.refuses.Load() {
		return nil, errors.New("not now")
	}
	return &csi.NodePublishVolumeResponse{}, os.MkdirAll(r.TargetPath, 0o755)
}

// TestRepublish: a driver that wants to hear of its volumes again and again is
// told at each look at the pod, each time with a token that is good; and what it
// answers then takes nothing from the pod.
func TestRepublish(t *testing.T) {
	dir, err := os.MkdirTemp("", "csi") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := net.Listen("unix", dir+"/csi.sock")
	if err != nil {
		t.Fatal(err)
	}
	driver, server := &publishedTo{}, grpc.NewServer()
	csi.RegisterNodeServer(server, driver)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)

	var issued atomic.Int32
	authority := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var request authenticationv1.TokenRequest
		if err := json.NewDecoder(r.Body).Decode(&request); err != nil || r.URL.Path != "/api/v1/namespaces/default/serviceaccounts/app/token" ||
			request.Spec.BoundObjectRef.UID != "pod" || fmt.Sprint(request.Spec.Audiences, *request.Spec.ExpirationSeconds) != "[vault] 600" {
			t.Errorf("%s: %+v %v", r.URL.Path, request.Spec, err)
		}
		request.Status = authenticationv1.TokenRequestStatus{Token: fmt.Sprint("token-", issued.Add(1)), ExpirationTimestamp: metav1.NewTime(time.Now().Add(10 * time.Minute))}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(request)
	}))
	t.Cleanup(authority.Close)
	api, err := client.New(&client.Config{Host: authority.URL})
	if err != nil {
		t.Fatal(err)
	}

	yes, seconds := true, int64(600)
	b := &csiBench{t: t, dir: dir, driver: &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{RequiresRepublish: &yes, PodInfoOnMount: &yes,
		TokenRequests:        []storagev1.TokenRequest{{Audience: "vault", ExpirationSeconds: &seconds}},
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}}}}
	b.restartKubelet()
	b.volumes.csi.endpoint = func(string) (string, bool) { return dir + "/csi.sock", true }
	tokens := &tokens{client: api, issued: map[tokenKey]issuedToken{}}
	b.volumes.csi.tokens = tokens
	f := podWith(map[string]corev1.VolumeSource{"data": {CSI: &corev1.CSIVolumeSource{Driver: testDriver}}})
	f.pod.UID, f.pod.Namespace, f.pod.Spec.ServiceAccountName = "pod", "default", "app"

	told := func(what string, calls int32, token string) {
		t.Helper()
		b.setUp(f)
		last := driver.last.Load()
		var got map[string]authenticationv1.TokenRequestStatus
		_ = json.Unmarshal([]byte(last.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"]), &got)
		if driver.calls.Load() != calls || got["vault"].Token != token || last.VolumeContext["csi.storage.k8s.io/pod.uid"] != "pod" {
			t.Errorf("%s: %d calls, the last with %v; want %d, with %q", what, driver.calls.Load(), last.VolumeContext, calls, token)
		}
	}
	privately(t, func(t *testing.T) {
		told("at first", 1, "token-1")
		target := filepath.Join(b.volumes.rootDir, "pods/pod/volumes/kubernetes.io~csi/data/mount")
		if err := unix.Mount("none", target, "tmpfs", 0, ""); err != nil { // in the driver's stead, which is not in this namespace
			t.Error(err)
			return
		}
		told("again", 2, "token-1")
		for key, token := range tokens.issued {
			token.issuedAt = token.issuedAt.Add(-time.Hour)
			tokens.issued[key] = token
		}
		told("when the token is old", 3, "token-2")
		driver.refuses.Store(true)
		told("when the driver refuses", 4, "token-2") // setUp would tell of an error
		driver.refuses.Store(false)
		b.driver.Spec.ServiceAccountTokenInSecrets = &yes
		told("as a secret", 5, "")
		if driver.last.Load().Secrets["csi.storage.k8s.io/serviceAccount.tokens"] == "" {
			t.Error("the token is not among the secrets")
		}
		b.driver.Spec.RequiresRepublish = nil
		told("a driver that does not ask for it", 5, "")
	})
}
