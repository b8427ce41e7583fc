package grade

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/apiserver"
	"tinykube/apiserver/storage"
	"tinykube/client"
)

// Labs about controllers run the reader's kube-controller-manager against an
// API server that is ours. There is no scheduler and no kubelet: checks play
// them.

// withManager starts an API server, and the reader's manager behind a wire.
func withManager(args ...string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		ctx, cancel := context.WithTimeout(ctx, startTimeout)
		defer cancel()
		if err := b.ourServer(ctx); err != nil {
			return err
		}
		return b.startManager(ctx, "manager", args...)
	}
}

// startManager starts the reader's manager.
func (b *bench) startManager(ctx context.Context, name string, args ...string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	b.metrics = fmt.Sprintf("https://127.0.0.1:%d/metrics", port)
	b.manager, err = b.start("kube-controller-manager", filepath.Join(b.scratch, name), append(args, "--master="+b.wire.host,
		"--leader-elect=false", "--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(port))...)
	if err != nil {
		return err
	}
	return b.manager.until(ctx, func() error { _, err := b.scrape(ctx); return err })
}

// ourServer starts an API server in this process. It completes no
// pods, since there are no service accounts.
func (b *bench) ourServer(ctx context.Context) error {
	if err := b.startEtcd(ctx); err != nil {
		return err
	}
	server, err := apiserver.New(apiserver.Config{
		BindAddress: "127.0.0.1", CertDir: filepath.Join(b.scratch, "pki"), AuthorizationModes: []string{"RBAC"},
		DisabledAdmission: []string{"ServiceAccount", "TaintNodesByCondition"}, ServiceCIDR: "10.96.0.0/12", ShutdownTimeout: time.Millisecond,
		Storage: storage.Config{Endpoints: []string{b.etcd.Endpoint}, EventTTL: time.Hour},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(running) }()
	b.closers = append(b.closers, func() {
		stop()
		<-ended
	})
	select {
	case <-server.Ready():
	case err := <-ended:
		ended <- err
		return fmt.Errorf("our API server: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
	if b.config, err = client.LoadKubeconfig(filepath.Join(b.scratch, "pki", apiserver.AdminKubeconfig)); err != nil {
		return err
	}
	if b.straight, err = client.New(b.config); err != nil {
		return err
	}
	if b.wire, err = openWire(b.config); err == nil {
		b.closers = append(b.closers, b.wire.close)
	}
	return err
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

var reconciles = regexp.MustCompile(`(?m)^controller_reconcile_total\{controller="replicaset-controller",.*\} (\d+)$`)

// scrape asks the manager how often it has looked at ReplicaSets.
func (b *bench) scrape(ctx context.Context) (total int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.metrics, nil)
	if err != nil {
		return 0, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	for _, match := range reconciles.FindAllSubmatch(text, -1) {
		n, _ := strconv.Atoi(string(match[1]))
		total += n
	}
	return total, err
}

// until waits for the reader's manager to have made something so.
func (b *bench) until(ctx context.Context, wrong func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return b.manager.until(ctx, wrong)
}

// play is a namespace in which one ReplicaSet and its pods are played with.
type play struct {
	*bench
	name string // of the namespace and of the ReplicaSet
	sets *client.Resource[*appsv1.ReplicaSet]
	pods *client.Resource[*corev1.Pod]
}

// play makes a namespace; nothing is in it yet.
func (b *bench) play(ctx context.Context, name string) (*play, error) {
	_, err := client.For(b.straight, client.Namespaces).Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return &play{b, name, client.For(b.straight, client.ReplicaSets), client.For(b.straight, client.Pods)}, err
}

// played is a check that has a play for itself.
func played(name string, check func(context.Context, *play) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		p, err := b.play(ctx, name)
		if err != nil {
			return err
		}
		return check(ctx, p)
	}
}

func (p *play) labels() map[string]string { return map[string]string{"app": p.name} }

// made and gone are how the wire notes a pod's creation and its deletion.
func (p *play) made() string { return "POST " + p.name + "/pods" }
func (p *play) gone() string { return "DELETE " + p.name + "/pods/" }

// wants makes the ReplicaSet, or scales it.
func (p *play) wants(ctx context.Context, replicas int32) error {
	_, err := p.sets.Create(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: p.name}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: p.labels()},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.labels()}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
	}})
	if err != nil {
		_, err = p.sets.Patch(ctx, p.name, p.name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
	}
	return err
}

// looked waits until the manager has looked at the ReplicaSet, has done what
// it had to, and has counted so many pods: it writes the status last.
func (p *play) looked(ctx context.Context, replicas int32) error {
	set, err := p.sets.Get(ctx, p.name, p.name)
	if err != nil {
		return err
	}
	seconds := set.Spec.MinReadySeconds + 1 // any change of the spec will do
	set, err = p.sets.Patch(ctx, p.name, p.name, types.MergePatchType, fmt.Appendf(nil, `{"spec":{"minReadySeconds":%d}}`, seconds))
	if err != nil {
		return err
	}
	generation := set.Generation
	return p.until(ctx, func() error {
		set, err := p.sets.Get(ctx, p.name, p.name)
		if err == nil && (set.Status.ObservedGeneration < generation || set.Status.Replicas != replicas) {
			err = fmt.Errorf("the ReplicaSet counts %d pods at generation %d, and should count %d at %d",
				set.Status.Replicas, set.Status.ObservedGeneration, replicas, generation)
		}
		return err
	})
}

// heard waits until the manager has heard of everything that has happened to
// pods so far: it makes a pod that the controller of ReplicationControllers
// adopts, who listens to the same watch and has workers of his own.
func (b *bench) heard(ctx context.Context) error {
	b.markers++
	p, err := b.play(ctx, fmt.Sprintf("marker-%d", b.markers))
	if err != nil {
		return err
	}
	one, spec := int32(1), corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	_, err = client.For(b.straight, client.ReplicationControllers).Create(ctx, &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: p.name}, Spec: corev1.ReplicationControllerSpec{Replicas: &one, Selector: p.labels(),
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.labels()}, Spec: spec}}})
	if err != nil {
		return err
	}
	if err := b.awaits(ctx, p.made(), 1); err != nil { // the owner is known to the manager
		return fmt.Errorf("a ReplicationController that wants one pod: %w", err)
	}
	_, err = p.pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: "orphan", Labels: p.labels()}, Spec: spec})
	if err != nil {
		return err
	}
	if err := b.awaits(ctx, "PATCH "+p.name+"/pods/orphan", 1); err != nil {
		return fmt.Errorf("a ReplicationController that should adopt a pod: %w", err)
	}
	return nil
}

// scaled scales, and expects the manager to have made and deleted so many pods
// since the beginning, and to leave it at that.
func (p *play) scaled(ctx context.Context, replicas int32, made, gone int) error {
	if err := p.heard(ctx); err != nil { // of what the check did to pods before
		return err
	}
	if err := p.wants(ctx, replicas); err != nil {
		return err
	}
	for range 2 {
		if err := p.looked(ctx, replicas); err != nil {
			return err
		}
	}
	return p.counts(made, gone)
}

// counts compares the pods made and deleted so far.
func (p *play) counts(made, gone int) error {
	gotMade, gotGone := len(p.wire.wrote(p.made())), len(p.wire.wrote(p.gone()))
	if gotMade != made || gotGone != gone {
		return fmt.Errorf("%d pods were made so far and %d deleted; it should be %d and %d", gotMade, gotGone, made, gone)
	}
	return nil
}

// alive lists the pods that are not on their way out, by name.
func (p *play) alive(ctx context.Context) ([]*corev1.Pod, error) {
	list, err := p.pods.List(ctx, p.name, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	alive := slices.DeleteFunc(list.Items, func(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	slices.SortFunc(alive, func(a, b *corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return alive, nil
}

// is plays scheduler and kubelet: it puts a pod on a node, and says how it is
// there. An empty phase says nothing.
func (p *play) is(ctx context.Context, pod *corev1.Pod, node string, phase corev1.PodPhase, ready corev1.ConditionStatus) error {
	if pod.Spec.NodeName == "" {
		binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: pod.Name}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
		if err := p.pods.CreateSub(ctx, p.name, pod.Name, "binding", binding, &metav1.Status{}); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	if phase == "" {
		return nil
	}
	status := fmt.Appendf(nil, `{"status":{"phase":%q,"conditions":[{"type":"Ready","status":%q,"lastTransitionTime":%q}]}}`, phase, ready, time.Now().UTC().Format(time.RFC3339))
	_, err := p.pods.Patch(ctx, p.name, pod.Name, types.StrategicMergePatchType, status, "status")
	return err
}
