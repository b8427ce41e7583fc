package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"tinykube/client"
)

// Names of the parts, in upstream's words.
const (
	Provisioner = "provisioner"
	Attacher    = "attacher"
	Resizer     = "resizer"
	Snapshotter = "snapshotter"
)

// workers is how many calls of one part are under way at most.
const workers = 10

// Config says for which driver and with which parts.
type Config struct {
	Address string   // of the driver's socket: a path, or unix:///path
	Parts   []string // empty for all
	Timeout time.Duration
	// Metadata hands names of claim and volume to CreateVolume.
	Metadata bool
	// DefaultFSType is for classes that do not say.
	DefaultFSType string
	Capacity      CapacityConfig
	// Node is the one that the provisioner works for, if each has its own; empty: for all.
	Node string
	// NodeTakes lets it also take claims that may be anywhere.
	NodeTakes bool
	Election  client.ElectionConfig
}

// Sidecar serves one driver.
type Sidecar struct {
	cfg    Config
	api    *client.Client
	log    *slog.Logger
	events *client.Recorder
	driver *driver

	claims      *client.Informer[*corev1.PersistentVolumeClaim]
	volumes     *client.Informer[*corev1.PersistentVolume]
	classes     *client.Informer[*storagev1.StorageClass]
	attachments *client.Informer[*storagev1.VolumeAttachment]
	nodes       *client.Informer[*corev1.Node]
	csiNodes    *client.Informer[*storagev1.CSINode]
	// Of custom resources, which may not be there.
	snapshots, contents, snapshotClasses *client.Informer[*unstructured.Unstructured]
	reached                              map[string]func() string // how far each informer is, by the kind's plural
	roomChanged                          func()                   // the capacities are to be looked at again

	ready chan struct{}
}

// New makes a Sidecar; nothing is called before Run.
func New(cfg Config, api *client.Client, log *slog.Logger) (*Sidecar, error) {
	for _, part := range cfg.Parts {
		if !slices.Contains([]string{Provisioner, Attacher, Resizer, Snapshotter}, part) {
			return nil, fmt.Errorf("there is no part %q: %s, %s, %s or %s", part, Provisioner, Attacher, Resizer, Snapshotter)
		}
	}
	if cfg.Timeout <= 0 {
		return nil, errors.New("the timeout of calls must be above zero")
	}
	s := &Sidecar{cfg: cfg, api: api, log: log, ready: make(chan struct{}), reached: map[string]func() string{}, roomChanged: func() {}}
	s.claims, s.volumes = informer(s, client.PersistentVolumeClaims), informer(s, client.PersistentVolumes)
	s.classes, s.attachments = informer(s, client.StorageClasses), informer(s, client.VolumeAttachments)
	s.nodes, s.csiNodes = informer(s, client.Nodes), informer(s, client.CSINodes)
	s.snapshots, s.contents, s.snapshotClasses = informer(s, volumeSnapshots), informer(s, snapshotContent), informer(s, snapshotClasses)
	return s, nil
}

// resync is how often all objects are looked at again.
const resync = 10 * time.Minute

func informer[T client.Object](s *Sidecar, kind client.Kind[T]) *client.Informer[T] {
	i := client.NewInformer(client.For(s.api, kind), client.InformerOptions[T]{Logger: s.log, Resync: resync})
	s.reached[kind.Plural] = i.ResourceVersion
	return i
}

// Ready is closed when the driver has answered and all objects are seen.
func (s *Sidecar) Ready() <-chan struct{} { return s.ready }

// Run waits for the driver and works until ctx ends.
func (s *Sidecar) Run(ctx context.Context) error {
	var err error
	if s.driver, err = dial(ctx, s.cfg.Address, s.cfg.Timeout, s.log); err != nil || s.driver == nil {
		return err
	}
	defer s.driver.close()
	s.events = client.NewRecorder(s.api, s.driver.name+"_"+s.cfg.Election.Identity, "", s.log)
	var loops []*loop
	for part, add := range map[string]func() *loop{Provisioner: s.provisioner, Attacher: s.attacher, Resizer: s.resizer, Snapshotter: s.snapshotter} {
		if wanted(s.cfg.Parts, part) {
			loops = append(loops, add())
		}
	}
	if wanted(s.cfg.Parts, Provisioner) && s.cfg.Capacity.Namespace != "" {
		if !s.driver.topology || !s.driver.can[csi.ControllerServiceCapability_RPC_GET_CAPACITY] {
			return fmt.Errorf("--enable-capacity: driver %s has no topology or does not tell capacities", s.driver.name)
		}
		loops = append(loops, s.capacities())
	}
	g, ctx := errgroup.WithContext(ctx)
	var synced []<-chan struct{}
	for _, i := range []interface {
		Run(context.Context) error
		Synced() <-chan struct{}
	}{s.claims, s.volumes, s.classes, s.attachments, s.nodes, s.csiNodes} {
		g.Go(func() error { return i.Run(ctx) })
		synced = append(synced, i.Synced())
	}
	g.Go(func() error { return s.events.Run(ctx) })
	if wanted(s.cfg.Parts, Snapshotter) {
		g.Go(func() error { return s.watchSnapshots(ctx) })
	}
	work := func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		for _, l := range loops {
			g.Go(func() error { return l.run(ctx) })
		}
		return g.Wait()
	}
	g.Go(func() error {
		if !client.WaitSynced(ctx, synced...) {
			return nil
		}
		close(s.ready)
		if s.cfg.Election.Name == "" {
			return work(ctx)
		}
		election := s.cfg.Election
		election.Name += "-" + strings.ReplaceAll(s.driver.name, ".", "-") // each driver has a leader of its own
		return client.NewElector(s.api, election).Run(ctx, work)
	})
	return g.Wait()
}

func wanted(parts []string, part string) bool {
	return len(parts) == 0 || slices.Contains(parts, part)
}

// patch writes what differs between two forms of an object, if nobody has
// written in between. The roles that drivers' manifests bind let a sidecar
// patch, and not update.
func patch[T client.Object](ctx context.Context, s *Sidecar, kind client.Kind[T], before, after T, subresource ...string) (T, error) {
	before = before.DeepCopyObject().(T)
	before.SetResourceVersion("") // so that the patch names it
	old, err := json.Marshal(before)
	if err != nil {
		return after, err
	}
	changed, err := json.Marshal(after)
	if err != nil {
		return after, err
	}
	body, err := strategicpatch.CreateTwoWayMergePatch(old, changed, after)
	if err != nil {
		return after, err
	}
	return wrote(ctx, kind)(client.For(s.api, kind).Patch(ctx, after.GetNamespace(), after.GetName(), types.StrategicMergePatchType, body, subresource...))
}

// setFinalizer puts a finalizer on an object, or takes it off. Whatever else is
// written at the same time does not matter to it.
func setFinalizer[T client.Object](ctx context.Context, s *Sidecar, kind client.Kind[T], obj T, finalizer string, want bool) (T, error) {
	if slices.Contains(obj.GetFinalizers(), finalizer) == want {
		return obj, nil
	}
	field := "$deleteFromPrimitiveList/finalizers"
	if want {
		field = "finalizers" // a strategic merge patch adds to this list
	}
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": obj.GetUID(), field: []string{finalizer}}})
	if err != nil {
		return obj, err
	}
	return wrote(ctx, kind)(client.For(s.api, kind).Patch(ctx, obj.GetNamespace(), obj.GetName(), types.StrategicMergePatchType, body))
}

// secret reads the secret that a reference names; nil without one.
func (s *Sidecar) secret(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := client.For(s.api, client.Secrets).Get(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	values := map[string]string{}
	for key, value := range secret.Data {
		values[key] = string(value)
	}
	return values, nil
}

// capability says how a volume is to be used, in the driver's terms. single is
// whether the driver tells one pod on a node from several.
func capability(mode corev1.PersistentVolumeAccessMode, block bool, fsType string, options []string, single bool) (*csi.VolumeCapability, error) {
	modes := map[corev1.PersistentVolumeAccessMode]csi.VolumeCapability_AccessMode_Mode{
		corev1.ReadWriteOnce: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER, corev1.ReadOnlyMany: csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY,
		corev1.ReadWriteMany: csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, corev1.ReadWriteOncePod: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
	}
	if single {
		modes[corev1.ReadWriteOnce] = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		modes[corev1.ReadWriteOncePod] = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	}
	known, ok := modes[mode]
	if !ok {
		return nil, fmt.Errorf("unsupported PV access mode: %s", mode)
	}
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: known}}
	if block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	} else {
		c.AccessType = &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: options}}
	}
	return c, nil
}
