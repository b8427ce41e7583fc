package app

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"tinykube/csi/sidecar"
	"tinykube/internal/flags"
)

// NewRegistrar is the command that tells a kubelet of a driver.
func NewRegistrar() *cobra.Command {
	r := &sidecar.Registrar{}
	var address, healthPort, mode string
	return flags.GoStyle(&cobra.Command{Use: "csi-node-driver-registrar", Short: "Tell this node's kubelet of a CSI driver"}, func(fs *pflag.FlagSet) {
		fs.StringVar(&r.Address, "csi-address", "/run/csi/socket", "the driver's socket")
		fs.StringVar(&r.KubeletPath, "kubelet-registration-path", "", "the driver's socket as the kubelet sees it")
		fs.StringVar(&r.Directory, "plugin-registration-path", "/registration", "the kubelet's directory of plugins, as seen here")
		fs.DurationVar(&r.Timeout, "timeout", time.Minute, "how long a call may take")
		fs.StringVar(&address, "http-endpoint", "", "address on which /healthz is served; empty for not at all")
		fs.StringVar(&healthPort, "health-port", "", "port of the same, as it was said before")
		fs.StringVar(&mode, "mode", "registration", "only registration is supported")
		flags.AcceptIgnored(fs, "connection-timeout")
		flags.AcceptIgnoredBool(fs, "enable-pprof", "automaxprocs")
	}, func(ctx context.Context, logging *flags.Logging) error {
		if mode != "registration" {
			return fmt.Errorf("--mode %q is not supported, use registration", mode)
		}
		if address == "" && healthPort != "" && healthPort != "0" {
			address = ":" + healthPort
		}
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return r.Run(ctx, logging.Logger("csi-node-driver-registrar")) })
		if address != "" {
			g.Go(func() error {
				return serveHTTP(ctx, address, "/healthz", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
			})
		}
		return g.Wait()
	})
}

// NewLivenessProbe is the command that asks a driver how it is.
func NewLivenessProbe() *cobra.Command {
	var socket, address string
	var port int
	var timeout time.Duration
	return flags.GoStyle(&cobra.Command{Use: "livenessprobe", Short: "Answer over HTTP whether a CSI driver is well"}, func(fs *pflag.FlagSet) {
		fs.StringVar(&socket, "csi-address", "/run/csi/socket", "the driver's socket")
		fs.IntVar(&port, "health-port", 9808, "port on which /healthz is served")
		fs.StringVar(&address, "http-endpoint", "", "address of the same; it comes first")
		fs.DurationVar(&timeout, "probe-timeout", time.Second, "how long the driver may take to answer")
		flags.AcceptIgnored(fs, "metrics-address", "metrics-path")
		flags.AcceptIgnoredBool(fs, "automaxprocs")
	}, func(ctx context.Context, logging *flags.Logging) error {
		if address == "" {
			address = net.JoinHostPort("", strconv.Itoa(port))
		}
		health, err := sidecar.Health(ctx, socket, timeout, logging.Logger("livenessprobe"))
		if err != nil {
			return err
		}
		return serveHTTP(ctx, address, "/healthz", health)
	})
}

// serveHTTP serves one path until ctx ends.
func serveHTTP(ctx context.Context, address, path string, handler http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("GET "+path, handler)
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return fmt.Errorf("HTTP at %s: %w", address, err)
	}
	return nil
}
