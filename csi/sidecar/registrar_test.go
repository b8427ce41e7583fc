package sidecar

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"tinykube/csi/hostpath"
	"tinykube/internal/testenv"
)

// driverAlone runs a driver without a cluster and returns its socket.
func driverAlone(t *testing.T) (socket string, stop func()) {
	dir := t.TempDir()
	socket = filepath.Join(dir, "csi.sock")
	d, err := hostpath.New(hostpath.Config{Endpoint: "unix://" + socket, Name: driverName, NodeID: "n", StateDir: filepath.Join(dir, "data"), MaxVolumeSize: 1 << 20}, testenv.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	return socket, together(t, d.Run)
}

// TestRegistrar: what the kubelet is told, and what becomes of its answer.
func TestRegistrar(t *testing.T) {
	socket, _ := driverAlone(t)
	for _, taken := range []bool{true, false} {
		r := &Registrar{Address: socket, Timeout: time.Minute, KubeletPath: "/var/lib/kubelet/plugins/csi-hostpath/csi.sock", Directory: t.TempDir()}
		path := filepath.Join(r.Directory, driverName+"-reg.sock")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx, testenv.Logger(t)) }()
		connection, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		kubelet := registration.NewRegistrationClient(connection)
		info, err := kubelet.GetInfo(t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true))
		if err != nil || info.Type != "CSIPlugin" || info.Name != driverName || info.Endpoint != r.KubeletPath || len(info.SupportedVersions) != 1 {
			t.Errorf("%+v, %v", info, err)
		}
		status := &registration.RegistrationStatus{PluginRegistered: taken, Error: "no room"}
		if _, err := kubelet.NotifyRegistrationStatus(t.Context(), status); err != nil {
			t.Error(err)
		}
		connection.Close()
		if taken {
			cancel() // else it would go on
		}
		if err := <-ended; taken != (err == nil) || err != nil && !strings.Contains(err.Error(), "no room") {
			t.Errorf("taken %v: it ended with %v", taken, err)
		}
		cancel()
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("the socket is left: %v", err)
		}
	}
	occupied := &Registrar{Address: socket, Timeout: time.Minute, KubeletPath: "/x", Directory: t.TempDir()}
	if err := os.WriteFile(filepath.Join(occupied.Directory, driverName+"-reg.sock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := occupied.Run(t.Context(), testenv.Logger(t)); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in its place: %v", err)
	}
}

// TestHealth: a driver that is gone is told of.
func TestHealth(t *testing.T) {
	socket, stop := driverAlone(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	health, err := Health(ctx, socket, 10*time.Second, testenv.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func() int {
		answer := httptest.NewRecorder()
		health.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		return answer.Code
	}
	for deadline := time.Now().Add(time.Minute); ask() != http.StatusOK; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the driver is never well")
		}
	}
	stop()
	if code := ask(); code != http.StatusInternalServerError {
		t.Errorf("%d without a driver", code)
	}
}
