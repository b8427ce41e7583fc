package hostpath

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// DefaultName is the driver's name unless --drivername says otherwise: upstream's, so that its CSIDriver and
	// StorageClass objects fit.
	DefaultName = "hostpath.csi.k8s.io"
	// TopologyKey is the topology segment that tells nodes apart.
	TopologyKey = "topology.hostpath.csi/node"
	// maxMessageBytes is what a request may be: a list of a few thousand volumes fits.
	maxMessageBytes = 16 << 20
	// stopTimeout is how long calls may go on after Run was told to end. What they leave half done, the next start
	// takes back.
	stopTimeout = 10 * time.Second
)

// Config says what the driver is and can do. The fields are upstream's flags.
type Config struct {
	Endpoint, Name, Version, NodeID, StateDir string

	MaxVolumeSize     int64 // of one volume, in bytes
	MaxVolumeSizeNode int64 // the same for NodeExpandVolume; 0: MaxVolumeSize
	MaxVolumesPerNode int64 // told to the CO; 0: no limit
	AttachLimit       int64 // enforced by ControllerPublishVolume; 0: no limit
	// Capacity limits the sum of volumes of each kind (the parameter "kind" of a StorageClass). Empty: no limit.
	Capacity map[string]resource.Quantity

	Attach, Topology, Expansion, ControllerExpansion, NodeExpansion, ListSnapshots, Modify bool
	// MutableParameters are the names that Modify accepts; empty: any.
	MutableParameters []string
	// CheckLifecycle refuses to detach a volume that is staged. By default only a warning is logged: a CO detaches
	// from a lost node without asking it.
	CheckLifecycle bool
}

// Driver serves CSI's Identity, Controller and Node services for volumes that are directories or files of this node.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	config Config
	log    *slog.Logger
	state  *state
	locks  locks // one call at a time per volume, snapshot and name
	ready  chan struct{}
}

// New makes a Driver; nothing is touched before Run.
func New(config Config, log *slog.Logger) (*Driver, error) {
	switch {
	case config.Name == "":
		return nil, errors.New("no driver name provided")
	case config.NodeID == "":
		return nil, errors.New("no node id provided")
	case config.Endpoint == "":
		return nil, errors.New("no driver endpoint provided")
	case config.StateDir == "":
		return nil, errors.New("no state directory provided")
	}
	if config.MaxVolumeSizeNode == 0 {
		config.MaxVolumeSizeNode = config.MaxVolumeSize
	}
	return &Driver{config: config, log: log, ready: make(chan struct{})}, nil
}

// Ready is closed when calls are answered.
func (d *Driver) Ready() <-chan struct{} { return d.ready }

// Run takes back what an earlier driver left half done, then answers calls until ctx ends. Mounts and loop devices stay:
// pods go on working while the driver is being replaced.
func (d *Driver) Run(ctx context.Context) error {
	opened, err := openState(d.config.StateDir)
	if err != nil {
		return err
	}
	defer opened.close()
	d.state = opened
	if err := d.takeBack(); err != nil {
		return err
	}
	listener, err := listen(d.config.Endpoint)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(d.intercept), grpc.MaxRecvMsgSize(maxMessageBytes))
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	csi.RegisterGroupControllerServer(server, groupController{d: d})
	csi.RegisterNodeServer(server, d)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		hard := time.AfterFunc(stopTimeout, server.Stop)
		defer hard.Stop()
		server.GracefulStop()
	})
	d.log.Info("Listening for connections", "address", listener.Addr(), "driver", d.config.Name, "node", d.config.NodeID)
	close(d.ready)
	err = server.Serve(listener)
	if !stop() { // it was told to end: join
		<-stopped
		return nil
	}
	return err
}

// takeBack undoes what calls left that were interrupted: data that nobody knows of, and volumes of a single pod that
// never reached it, or have left it. Everything else the CO repeats.
func (d *Driver) takeBack() error {
	for id := range d.state.read().Volumes {
		if err := d.dropUnused(id); err != nil {
			return err
		}
	}
	return d.state.removeOrphans(d.log)
}

// listen opens the endpoint: unix:///path, unix:path, a bare path, or tcp://host:port. A socket that nobody answers is
// left from a driver that was killed, and makes way; anything else at its path does not.
func listen(endpoint string) (net.Listener, error) {
	if address, ok := strings.CutPrefix(endpoint, "tcp://"); ok {
		return net.Listen("tcp", address)
	}
	path := strings.TrimPrefix(strings.TrimPrefix(endpoint, "unix:"), "//")
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("endpoint %s: %s exists and is not a socket", endpoint, path)
		}
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("endpoint %s: somebody answers there already", endpoint)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}
