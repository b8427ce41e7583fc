package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/client"
)

// Kubelet is one node's agent.
type Kubelet struct {
	cfg    Config
	log    *slog.Logger
	client *client.Client // nil: only static pods, no node object
	ready  chan struct{}
	dirty  chan struct{} // capacity 1: the sync loop has something to compare

	metrics  *metrics
	runtime  *containerRuntime
	cgroups  cgroupTree
	volumes  *volumes
	plugins  *pluginRegistry
	objects  objectReader
	static   *staticPods
	relist   *relister
	probes   *probes
	statuses *statusWriter
	events   *client.Recorder
	node     *nodeReporter
	evictor  *evictor
	shutdown *shutdown
	identity *ClientCertificates // nil: not ours to renew
	serving  *certificates       // nil: from files
	images   imageDisk
	imageUse imageRecords
	rates    rates
	started  time.Time
	observe  func() map[signal]observation // instead of measuring, for tests

	podInformer     *client.Informer[*corev1.Pod] // nil without an API server
	serviceInformer *client.Informer[*corev1.Service]
	shared          bool // they, and events, are run by somebody else

	crashes      *backoff      // restarts of containers
	imageBackoff *backoff      // pulls
	pulls        chan struct{} // as many places as pulls may run at once
	pullRate     *rate.Limiter

	capacity  corev1.ResourceList // what the node has; set before anything runs
	allocated *resourceRecord     // what of it pods have been promised
	pulled    *pullRecords        // who may use which image

	usernsMu sync.Mutex // held while a range of users is found and written

	mu      sync.Mutex // guards workers
	workers map[types.UID]*worker
}

// Deps is what a kubelet needs beside its Config.
type Deps struct {
	Runtime grpc.ClientConnInterface // a CRI RuntimeService
	Images  grpc.ClientConnInterface // a CRI ImageService; nil: the same connection
	Client  *client.Client           // nil: standalone, static pods only
	Logger  *slog.Logger
	Shared  *Shared // nil: all of its own
	// Certificates renew what Client shows; nil: it shows what it was given.
	Certificates *ClientCertificates
	// Shutdown is closed when the machine is about to go down; nil: never.
	Shutdown <-chan struct{}
}

// Shared is what many kubelets of one process need only once. Whoever makes it
// runs it; each kubelet takes its part.
type Shared struct {
	Pods     *client.Split[*corev1.Pod] // by spec.nodeName
	Services *client.Informer[*corev1.Service]
	Events   *client.Recorder
	metrics  *metrics // of all of them together: nobody asks for one's
}

// NewShared makes what kubelets can share.
func NewShared(c *client.Client, log *slog.Logger) *Shared {
	return &Shared{
		metrics: newMetrics(),
		Pods: client.NewSplit(client.For(c, client.Pods), client.InformerOptions[*corev1.Pod]{Trim: client.TrimManagedFields[*corev1.Pod], Logger: log},
			func(pod *corev1.Pod) string { return pod.Spec.NodeName }),
		Services: client.NewInformer(client.For(c, client.Services), client.InformerOptions[*corev1.Service]{Trim: client.TrimManagedFields[*corev1.Service], Logger: log}),
		Events:   client.NewRecorder(c, "kubelet", "", log),
	}
}

// Run keeps it current until ctx ends.
func (s *Shared) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, run := range []func(context.Context) error{s.Pods.Run, s.Services.Run, s.Events.Run} {
		group.Go(func() error { return run(ctx) })
	}
	return group.Wait()
}

// New makes a kubelet. It does no I/O.
func New(cfg Config, deps Deps) (*Kubelet, error) {
	if cfg.NodeName == "" || deps.Runtime == nil {
		return nil, fmt.Errorf("a kubelet needs a node name and a container runtime")
	}
	if deps.Images == nil {
		deps.Images = deps.Runtime
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	parallel := max(int(cfg.MaxParallelPulls), 1)
	if !cfg.SerializeImagePulls && cfg.MaxParallelPulls == 0 {
		parallel = 1000 // upstream: no limit
	}
	k := &Kubelet{
		cfg: cfg, log: deps.Logger, client: deps.Client, started: time.Now(), ready: make(chan struct{}), dirty: make(chan struct{}, 1),
		objects:      apiObjects{deps.Client},
		crashes:      newBackoff(min(10*time.Second, cfg.CrashLoopMax), cfg.CrashLoopMax),
		imageBackoff: newBackoff(10*time.Second, 5*time.Minute),
		pulls:        make(chan struct{}, parallel),
		pullRate:     rate.NewLimiter(limitOf(cfg.PullQPS), cfg.PullBurst),
		workers:      map[types.UID]*worker{},
	}
	if deps.Shared != nil {
		k.metrics = deps.Shared.metrics
	} else {
		k.metrics = newMetrics()
		k.metrics.registry.MustRegister(stateCollector{k})
	}
	k.runtime = newContainerRuntime(runtimeCalls{deps.Runtime, cfg.RuntimeTimeout, k.metrics}, runtimeCalls{deps.Images, cfg.RuntimeTimeout, k.metrics})
	k.allocated, k.runtime.given = &resourceRecord{pods: map[types.UID]podGrant{}}, &resourceRecord{pods: map[types.UID]podGrant{}}
	k.pulled = &pullRecords{policy: cfg.PullPolicy, allow: cfg.PullAllowlist, pulling: map[string]int{}}
	if !cfg.Hollow {
		k.pulled.dir = filepath.Join(cfg.RootDir, "image_manager")
		k.allocated.path, k.runtime.given.path = filepath.Join(cfg.RootDir, "allocated_pods_state"), filepath.Join(cfg.RootDir, "actuated_pods_state")
	}
	k.volumes = &volumes{metrics: k.metrics, rootDir: cfg.RootDir, objects: k.objects,
		tokens: &tokens{client: deps.Client, issued: map[tokenKey]issuedToken{}}}
	k.addCSI()
	k.cgroups = newCgroupTree(cfg)
	k.static = &staticPods{path: cfg.StaticPodPath, nodeName: cfg.NodeName, period: cfg.FileCheckFrequency,
		watch: cfg.WatchFiles, log: deps.Logger, changed: func() { k.touch(); k.node.touchMirrors() }}
	k.static.remote = remotePods{url: cfg.StaticPodURL, header: cfg.StaticPodURLHeader, nodeName: cfg.NodeName,
		period: cfg.HTTPCheckFrequency, log: deps.Logger, changed: k.static.changed}
	k.relist = &relister{metrics: k.metrics, runtime: k.runtime, wake: k.wake}
	k.probes = newProbes(k)
	k.statuses = newStatusWriter(deps.Client, k.apiObject, deps.Logger)
	k.node = newNodeReporter(k)
	k.evictor = newEvictor(k)
	k.shutdown = &shutdown{k: k, signal: deps.Shutdown, groups: cfg.Shutdown}
	if k.shared = deps.Shared != nil; k.shared {
		k.podInformer, k.serviceInformer, k.events = deps.Shared.Pods.Part(cfg.NodeName), deps.Shared.Services, deps.Shared.Events.On(cfg.NodeName)
	} else {
		k.events = client.NewRecorder(deps.Client, "kubelet", cfg.NodeName, deps.Logger)
		k.events.Limit(rate.NewLimiter(limitOf(cfg.EventQPS), cfg.EventBurst))
	}
	if deps.Client != nil {
		if !k.shared {
			deps.Client.OnAnswer(func(method, code string) {
				k.metrics.apiRequests.WithLabelValues(code, method, deps.Client.Address()).Inc()
			})
		}
		k.watchAPI()
		if k.identity = deps.Certificates; k.identity != nil {
			k.identity.follow(deps.Client)
		}
	}
	return k, nil
}

// limitOf reads a rate as configurations write it: 0 is none.
func limitOf(perSecond int) rate.Limit {
	if perSecond <= 0 {
		return rate.Inf
	}
	return rate.Limit(perSecond)
}

// watchAPI prepares the informers: the pods of this node, mirrors included, and
// all Services, for the variables that pods find them by.
func (k *Kubelet) watchAPI() {
	if !k.shared {
		k.podInformer = client.NewInformer(client.For(k.client, client.Pods), client.InformerOptions[*corev1.Pod]{
			FieldSelector: "spec.nodeName=" + k.cfg.NodeName, Trim: client.TrimManagedFields[*corev1.Pod], Logger: k.log})
		k.serviceInformer = client.NewInformer(client.For(k.client, client.Services), client.InformerOptions[*corev1.Service]{Trim: client.TrimManagedFields[*corev1.Service], Logger: k.log})
	}
	k.podInformer.OnChange(func(old, new *corev1.Pod) {
		k.touch()
		pod := new
		if pod == nil {
			pod = old
		}
		uid := pod.UID
		if isMirror(pod) {
			uid = types.UID(pod.Annotations[annotationConfigMirror])
			k.node.touchMirrors()
		}
		k.statuses.queue.Add(uid) // somebody else may have written our status
	})
}

// Ready is closed when the container runtime has been reached and the static
// pods have been read: from then on the node runs what it is told.
func (k *Kubelet) Ready() <-chan struct{} { return k.ready }

// Run works until ctx ends. The pods go on without it.
func (k *Kubelet) Run(ctx context.Context) error {
	if err := k.prepareNode(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	k.eventNode(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	group, ctx := errgroup.WithContext(ctx)
	// The first scan comes before the loop: nothing is an orphan before it.
	k.static.scanFirst()
	close(k.ready)
	tasks := []func(context.Context) error{
		k.static.run, k.static.remote.run, k.relist.run, k.relist.follow, k.syncLoop, k.watchRuntime, k.collectGarbage, k.runServers,
		k.evictor.run, k.collectImages, k.shutdown.run,
	}
	if !k.cfg.Hollow {
		tasks = append(tasks, k.plugins.run, k.volumes.csi.run)
	}
	if !k.shared {
		tasks = append(tasks, k.events.Run)
	}
	if k.client != nil {
		if !k.shared {
			tasks = append(tasks, k.podInformer.Run, k.serviceInformer.Run)
		}
		tasks = append(tasks, k.node.run, k.writeStatuses, k.wakeWithServices, csiNode{k}.run)
		if k.identity != nil {
			tasks = append(tasks, k.identity.run)
		}
		if k.cfg.Server.BootstrapTLS {
			k.serving = k.servingCertificates()
			tasks = append(tasks, k.serving.run)
		}
	}
	for _, task := range tasks {
		group.Go(func() error { return task(ctx) })
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// prepareNode waits for the runtime and makes the directories and cgroups that
// all pods share.
func (k *Kubelet) prepareNode(ctx context.Context) error {
	for _, dir := range []string{k.cfg.RootDir, k.cfg.PodLogsDir, k.cfg.ContainerLogsDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, record := range []*resourceRecord{k.allocated, k.runtime.given} {
		if err := record.load(); err != nil {
			return err
		}
	}
	for first := true; ; first = false {
		version, err := k.runtime.runtime.Version(ctx, &runtimeapi.VersionRequest{Version: "v1"})
		if err == nil {
			k.log.Info("container runtime found", "name", version.RuntimeName, "version", version.RuntimeVersion)
			k.runtime.name = version.RuntimeName
			k.node.runtimeVersion = version.RuntimeName + "://" + version.RuntimeVersion
			break
		}
		if first {
			k.log.Info("waiting for the container runtime", "endpoint", k.cfg.RuntimeEndpoint, "err", message(err))
		}
		if !wait(ctx, time.Second) {
			return ctx.Err()
		}
	}
	if err := k.restorePulls(ctx); err != nil {
		k.log.Warn("pulls that a former kubelet began", "err", err)
	}
	k.node.askRuntime(ctx) // the first pods shall not wait for the second look
	// Runtime and kubelet must agree on who makes cgroups; the runtime decides.
	if answer, err := k.runtime.runtime.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{}); err == nil && answer.Linux != nil {
		k.cgroups.setDriver(answer.Linux.CgroupDriver)
	}
	k.capacity = capacity(k.cfg)
	allocatable := k.allocatable()
	k.volumes.defaultTmpfsBytes = allocatable.Memory().Value()
	return k.cgroups.ensureRoot(allocatable.Cpu().MilliValue(), k.podsLimit(), k.log)
}

// writeStatuses runs the status writers.
func (k *Kubelet) writeStatuses(ctx context.Context) error {
	var writers sync.WaitGroup
	for range statusWriters {
		writers.Go(func() { k.statuses.work(ctx) })
	}
	<-ctx.Done()
	k.statuses.queue.ShutDown()
	writers.Wait()
	return nil
}

// wake makes the worker of a pod look again.
func (k *Kubelet) wake(uid types.UID) {
	if w := k.worker(uid); w != nil {
		w.poke()
	}
}

// wakeWithServices wakes the pods that waited for the Services to be read.
func (k *Kubelet) wakeWithServices(ctx context.Context) error {
	if client.WaitSynced(ctx, k.serviceInformer.Synced()) {
		k.wakeAll()
	}
	return nil
}

func (k *Kubelet) wakeAll() {
	for _, w := range k.allWorkers() {
		w.poke()
	}
}

// servicesFor returns the Services that a pod's environment is made of. A pod
// from the API waits for the list: a variable that is missing at its start is
// missing for life. A static pod waits for nobody.
func (k *Kubelet) servicesFor(pod *corev1.Pod) ([]*corev1.Service, error) {
	if k.serviceInformer == nil || isStatic(pod) {
		return nil, nil
	}
	if !k.serviceInformer.HasSynced() {
		return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
	}
	return k.serviceInformer.List(), nil
}

// facts is what the pod may know about itself now.
func (k *Kubelet) facts(pod *corev1.Pod, seen *observedPod) podFacts {
	f := podFacts{pod: pod, hostIPs: k.hostIPs(), podIPs: seen.ips(), allocatable: k.allocatable()}
	if pod.Spec.HostNetwork {
		f.podIPs = f.hostIPs
	}
	return f
}

// podIP is the address under which the node reaches the pod.
func (k *Kubelet) podIP(pod *corev1.Pod) string {
	if w := k.worker(pod.UID); w != nil {
		return w.publishedStatus().PodIP
	}
	return ""
}

// containerEvents reports events about one container of a pod.
func (k *Kubelet) containerEvents(pod *corev1.Pod, c *corev1.Container) func(eventType, reason, format string, args ...any) {
	field := "spec.containers{" + c.Name + "}"
	switch {
	case c.Name == "": // an image that is a volume is no container's
		field = ""
	case isInit(pod, c.Name):
		field = "spec.initContainers{" + c.Name + "}"
	case isEphemeral(pod, c.Name):
		field = "spec.ephemeralContainers{" + c.Name + "}"
	}
	return func(eventType, reason, format string, args ...any) {
		ref := podReference(pod)
		ref.FieldPath = field
		k.report(ref, eventType, reason, format, args...)
	}
}

// eventf reports an event about a pod as a whole.
func (k *Kubelet) eventf(pod *corev1.Pod, eventType, reason, format string, args ...any) {
	k.report(podReference(pod), eventType, reason, format, args...)
}

// report sends an event to the API and to the log: on a node without an API
// server the log is all there is.
func (k *Kubelet) report(ref corev1.ObjectReference, eventType, reason, format string, args ...any) {
	if ref.Name == "" {
		return
	}
	k.log.Info("event", "key", ref.Namespace+"/"+ref.Name, "field", ref.FieldPath, "reason", reason, "text", fmt.Sprintf(format, args...))
	if k.client != nil {
		k.events.EventRef(ref, eventType, reason, format, args...)
	}
}

func podReference(pod *corev1.Pod) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name,
		UID: pod.UID, ResourceVersion: pod.ResourceVersion}
}

func isEphemeral(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name })
}

func equal(a, b any) bool { return apiequality.Semantic.DeepEqual(a, b) }
