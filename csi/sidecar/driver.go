package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// driver is the other end of the socket, and what it has said of itself.
type driver struct {
	connection *grpc.ClientConn
	controller csi.ControllerClient
	identity   csi.IdentityClient
	name       string
	topology   bool
	can        map[csi.ControllerServiceCapability_RPC_Type]bool
}

// connect prepares calls; none is made yet.
func connect(address string, timeout time.Duration, log *slog.Logger) (*driver, error) {
	if !strings.Contains(address, "://") {
		address = "unix://" + address
	}
	// A call without an answer is ended; it will come again.
	limit := func(ctx context.Context, method string, in, out any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		started := time.Now()
		err := invoke(ctx, method, in, out, c, options...)
		// The request is not logged: it may hold secrets.
		log.Debug("called", "method", method, "took", time.Since(started), "code", status.Code(err))
		return err
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(limit))
	if err != nil {
		return nil, fmt.Errorf("driver at %s: %w", address, err)
	}
	return &driver{connection: connection, controller: csi.NewControllerClient(connection), identity: csi.NewIdentityClient(connection),
		can: map[csi.ControllerServiceCapability_RPC_Type]bool{}}, nil
}

// dial waits until the driver says that it is ready, and what it can do; it
// returns nil if ctx ends before.
func dial(ctx context.Context, address string, timeout time.Duration, log *slog.Logger) (*driver, error) {
	return waitFor(ctx, address, timeout, log, (*driver).ask)
}

// dialIdentity is dial for who wants no more than the name.
func dialIdentity(ctx context.Context, address string, timeout time.Duration, log *slog.Logger) (*driver, error) {
	return waitFor(ctx, address, timeout, log, (*driver).askName)
}

func waitFor(ctx context.Context, address string, timeout time.Duration, log *slog.Logger, ask func(*driver, context.Context) error) (*driver, error) {
	d, err := connect(address, timeout, log)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		err := ask(d, ctx)
		if err == nil {
			return d, nil
		}
		if !said {
			log.Info("waiting for the driver", "address", address, "err", err)
		}
		select {
		case <-ctx.Done():
			d.close()
			return nil, nil
		case <-time.After(time.Second):
		}
	}
}

// probe asks whether the driver is ready.
func (d *driver) probe(ctx context.Context) error {
	probe, err := d.identity.Probe(ctx, &csi.ProbeRequest{})
	if err == nil && probe.Ready != nil && !probe.Ready.Value {
		return status.Error(codes.Unavailable, "the driver is not ready yet")
	}
	return err
}

// askName learns the driver's name.
func (d *driver) askName(ctx context.Context) error {
	if err := d.probe(ctx); err != nil {
		return err
	}
	info, err := d.identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	if err != nil {
		return err
	}
	if d.name = info.Name; d.name == "" {
		return status.Error(codes.Internal, "the driver has no name")
	}
	return nil
}

// ask learns the driver's name and what it can do.
func (d *driver) ask(ctx context.Context) error {
	if err := d.askName(ctx); err != nil {
		return err
	}
	plugin, err := d.identity.GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
	if err != nil {
		return err
	}
	for _, c := range plugin.Capabilities {
		d.topology = d.topology || c.GetService().GetType() == csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS
	}
	controller, err := d.controller.ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		return err
	}
	for _, c := range controller.Capabilities {
		d.can[c.GetRpc().GetType()] = true
	}
	return nil
}

func (d *driver) close() { _ = d.connection.Close() }

// single: the driver tells one pod on a node from several.
func (d *driver) single() bool {
	return d.can[csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER]
}
