package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Registrar tells a node's kubelet of a driver: by a socket of its own in a
// directory that the kubelet watches, where the kubelet asks who that is.
//
//	kubelet ── GetInfo ──▶ "a CSI plugin of that name; its own socket is there"
//	kubelet ── NotifyRegistrationStatus ──▶ "it is registered", or why not
//
// Upstream: kubernetes-csi/node-driver-registrar
type Registrar struct {
	Address string        // the driver's socket, as we see it
	Timeout time.Duration // of a call
	// KubeletPath is the driver's socket as the kubelet sees it.
	KubeletPath string
	// Directory is that of the kubelet's plugins, as we see it.
	Directory string

	registration.UnimplementedRegistrationServer
	name    string
	refused chan error
}

// csiVersion is the one protocol that kubelets speak.
const csiVersion = "1.0.0"

// Run serves until ctx ends. It fails if the kubelet did not take the driver, so
// that whoever supervises it tries again.
func (r *Registrar) Run(ctx context.Context, log *slog.Logger) error {
	if r.KubeletPath == "" {
		return errors.New("the driver's socket as the kubelet sees it is not given (--kubelet-registration-path)")
	}
	driver, err := dialIdentity(ctx, r.Address, r.Timeout, log)
	if err != nil || driver == nil {
		return err
	}
	driver.close() // its name was all
	r.name, r.refused = driver.name, make(chan error, 1)
	path := filepath.Join(r.Directory, r.name+"-reg.sock")
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of one that was killed
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, r)
	defer context.AfterFunc(ctx, server.Stop)() // closing the listener removes the socket
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	log.Info("registration server is there", "socket", path, "driver", r.name)
	select {
	case err := <-failed:
		if ctx.Err() != nil {
			return nil
		}
		return err
	case err := <-r.refused:
		server.GracefulStop() // after the kubelet has its answer
		<-failed
		return err
	}
}

// GetInfo is asked by the kubelet.
func (r *Registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{Type: registration.CSIPlugin, Name: r.name, Endpoint: r.KubeletPath, SupportedVersions: []string{csiVersion}}, nil
}

// NotifyRegistrationStatus is how the kubelet says what came of it.
func (r *Registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		select {
		case r.refused <- fmt.Errorf("registration process failed: %s", status.Error):
		default:
		}
	}
	return &registration.RegistrationStatusResponse{}, nil
}

// Health answers GET /healthz with what the driver says to Probe.
//
// Upstream: kubernetes-csi/livenessprobe
func Health(ctx context.Context, address string, timeout time.Duration, log *slog.Logger) (http.Handler, error) {
	d, err := connect(address, timeout, log)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, d.close)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := d.probe(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, "ok")
	}), nil
}
