package controllers

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// cluster is a server, a manager, and what plays the scheduler and the nodes.
type cluster struct {
	t      *testing.T
	api    *fakeAPI       // nil if the server is a real one
	client *client.Client // an administrator's
	cfg    Config
	tick   time.Duration // how often the nodes act

	manager                *Manager
	stopManager, stopNodes func()
	dead                   map[string]*atomic.Bool // by node: no heartbeat, no kubelet
}

// newCluster makes a cluster on a fake server.
func newCluster(t *testing.T, cfg Config, nodes ...string) *cluster {
	c := &cluster{t: t, api: newFakeAPI(), cfg: cfg, tick: time.Second}
	c.client, _ = client.New(c.api.Config())
	c.cfg.API = c.api.Config()
	c.cfg.API.UserAgent = managerAgent
	c.addNodes(nodes...)
	return c
}

// addNodes makes nodes and lets them live.
func (c *cluster) addNodes(nodes ...string) {
	t := c.t
	c.dead = map[string]*atomic.Bool{}
	for _, name := range nodes {
		must(client.For(c.client, client.Nodes).Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}))
		c.dead[name] = &atomic.Bool{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.playNodes(ctx) }()
	c.stopNodes = func() { cancel(); <-done }
}

// start runs a manager until stopManager.
func (c *cluster) start() {
	m, err := New(c.cfg, logger())
	if err != nil {
		c.t.Fatal(err)
	}
	c.manager = m
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := m.Run(ctx); err != nil {
			c.t.Error(err)
		}
	}()
	c.stopManager = func() { cancel(); <-done }
}

func (c *cluster) stop() {
	if c.stopManager != nil {
		c.stopManager()
	}
	c.stopNodes()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// playNodes is the scheduler and the kubelets: at every tick pods get a node
// that is ready, run, or end. Leases are renewed every ten ticks.
func (c *cluster) playNodes(ctx context.Context) {
	for round := 0; ctx.Err() == nil; round++ {
		if round%10 == 0 {
			for name, dead := range c.dead {
				if !dead.Load() {
					c.beat(ctx, name)
				}
			}
		}
		c.playPods(ctx, round)
		select {
		case <-ctx.Done():
		case <-time.After(c.tick):
		}
	}
}

func (c *cluster) beat(ctx context.Context, name string) {
	leases, nodes := client.For(c.client, client.Leases), client.For(c.client, client.Nodes)
	now := metav1.NowMicro()
	lease, err := leases.Get(ctx, corev1.NamespaceNodeLease, name)
	if apierrors.IsNotFound(err) {
		_, _ = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: name}, Spec: coordinationv1.LeaseSpec{RenewTime: &now}})
	} else if err == nil {
		lease.Spec.RenewTime = &now
		_, _ = leases.Update(ctx, lease)
	}
	node, err := nodes.Get(ctx, "", name)
	if err != nil || ready(node) == corev1.ConditionTrue {
		return
	}
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	_, _ = nodes.UpdateStatus(ctx, node)
}

func (c *cluster) playPods(ctx context.Context, round int) {
	pods := client.For(c.client, client.Pods)
	list, err := pods.List(ctx, "", metav1.ListOptions{})
	if err != nil {
		return
	}
	names := slices.Sorted(maps.Keys(c.dead))
	for i, pod := range list.Items {
		switch {
		case pod.Spec.NodeName == "":
			for try := range names {
				name := names[(round+i+try)%len(names)]
				if terms := pod.Spec.Affinity; terms != nil && terms.NodeAffinity != nil {
					name = terms.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
				}
				if node, err := client.For(c.client, client.Nodes).Get(ctx, "", name); err == nil && len(node.Spec.Taints) == 0 && ready(node) == corev1.ConditionTrue {
					_ = pods.CreateSub(ctx, pod.Namespace, pod.Name, "binding", &corev1.Binding{
						TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"}, ObjectMeta: metav1.ObjectMeta{Name: pod.Name},
						Target: corev1.ObjectReference{Kind: "Node", Name: name},
					}, nil)
					break
				}
			}
		case c.dead[pod.Spec.NodeName].Load():
		case pod.DeletionTimestamp != nil:
			now := int64(0)
			_ = pods.Delete(ctx, pod.Namespace, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		case pod.Status.Phase != corev1.PodRunning && !harness.IsFinished(pod) && !strings.Contains(pod.Spec.Containers[0].Image, "broken"):
			pod.Status.Phase, pod.Status.PodIP = corev1.PodRunning, fmt.Sprintf("10.244.0.%d", i+1)
			pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}}
			_, _ = pods.UpdateStatus(ctx, pod)
		case pod.Status.Phase == corev1.PodRunning:
			if code, ends := exit(pod); ends {
				end(pod, code)
				_, _ = pods.UpdateStatus(ctx, pod)
			}
		}
	}
}

func ready(node *corev1.Node) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

func (c *cluster) node(name string) *corev1.Node {
	return must(client.For(c.client, client.Nodes).Get(c.t.Context(), "", name))
}

func (c *cluster) pods() []*corev1.Pod {
	return must(client.For(c.client, client.Pods).List(c.t.Context(), "", metav1.ListOptions{})).Items
}

func (c *cluster) deploy(name, image string, replicas int32) {
	deadline, one := int32(600), int32(1)
	seconds := int64(300)
	toleration := func(key string) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}
	}
	labels := map[string]string{"app": name}
	must(client.For(c.client, client.Deployments).Create(c.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, ProgressDeadlineSeconds: &deadline, RevisionHistoryLimit: &one,
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Containers:  []corev1.Container{{Name: "c", Image: image}},
					Tolerations: []corev1.Toleration{toleration(corev1.TaintNodeNotReady), toleration(corev1.TaintNodeUnreachable)},
				},
			},
		},
	}))
}

// agent is a DaemonSet for every node.
func agent(namespace string) *appsv1.DaemonSet {
	labels := map[string]string{"app": "agent"}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "agent"},
		Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}},
		}},
	}
}
