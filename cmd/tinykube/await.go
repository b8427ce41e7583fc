package main

// What up waits for, step by step.

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

func (c *cluster) awaitAPI(ctx context.Context) error {
	api, err := c.client()
	if err != nil {
		return err
	}
	return until(ctx, "API server (look with: tinykube logs node-0 kubelet)", func() (bool, string, error) {
		if err := c.startRelay(); err != nil { // again, if it ended meanwhile
			return false, "", err
		}
		response, err := api.Do(ctx, client.Request{Method: http.MethodGet, Path: "/readyz"})
		if err != nil {
			return false, err.Error(), nil
		}
		return true, "", response.Body.Close()
	})
}

// awaitPhase waits until every PID 1 is as far as that.
func (c *cluster) awaitPhase(ctx context.Context, phase string) error {
	for _, s := range c.specs() {
		if err := until(ctx, "node "+s.Name, func() (bool, string, error) {
			status, alive := s.ReadStatus()
			if !alive {
				return false, "", fmt.Errorf("its PID 1 ended; the end of %s:\n%s", filepath.Join(s.Dir, "node.log"), tail(filepath.Join(s.Dir, "node.log"), 20))
			}
			return status.Phase == phase || status.Phase == "running", status.Phase, nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) awaitNode(ctx context.Context, name string) error {
	api, err := c.client()
	if err != nil {
		return err
	}
	return until(ctx, "node "+name, func() (bool, string, error) {
		n, err := client.For(api, client.Nodes).Get(ctx, "", name)
		if err != nil {
			return false, err.Error(), nil
		}
		for _, condition := range n.Status.Conditions {
			if condition.Type == corev1.NodeReady {
				return condition.Status == corev1.ConditionTrue, condition.Message + evicting(n), nil
			}
		}
		return false, "no Ready condition yet", nil
	})
}

// evicting names the taints under which no network comes up on a node: not even
// flannel's pod tolerates them.
func evicting(n *corev1.Node) (hint string) {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute && t.Key != corev1.TaintNodeNotReady && t.Key != corev1.TaintNodeUnreachable {
			hint += fmt.Sprintf("; the taint %s evicts its pods, take it off with: tinykube kubectl taint node %s %s-", t.ToString(), n.Name, t.Key)
		}
	}
	return hint
}

// awaitDNS waits until CoreDNS is available and the DNS Service answers on
// every node: then kube-proxy, flannel and CoreDNS all work there.
func (c *cluster) awaitDNS(ctx context.Context) error {
	api, err := c.client()
	if err != nil {
		return err
	}
	if err := until(ctx, "deployment coredns", func() (bool, string, error) {
		d, err := client.For(api, client.Deployments).Get(ctx, metav1.NamespaceSystem, "coredns")
		if err != nil {
			return false, err.Error(), nil
		}
		return d.Status.AvailableReplicas == *d.Spec.Replicas, fmt.Sprintf("%d of %d pods available", d.Status.AvailableReplicas, *d.Spec.Replicas), nil
	}); err != nil {
		return err
	}
	b := c.bootstrap()
	server, name := net.JoinHostPort(b.ClusterDNS().String(), "53"), "kubernetes.default.svc."+b.ClusterDomain+"."
	for _, s := range c.specs() {
		namespace := fmt.Sprintf("/proc/%d/ns/net", s.PID())
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialIn(ctx, namespace, network, server)
		}}
		if err := until(ctx, "DNS on "+s.Name, func() (bool, string, error) {
			try, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			addresses, err := resolver.LookupHost(try, name)
			return err == nil && len(addresses) == 1 && addresses[0] == b.KubernetesService().String(), fmt.Sprint(addresses, err), nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// awaitMirrors waits until the API shows the static pods that run it: the
// kubelet reports them when it gets to it.
func (c *cluster) awaitMirrors(ctx context.Context) error {
	api, err := c.client()
	if err != nil {
		return err
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		mirror := name + "-" + c.bootstrap().ControlPlane().Name
		if err := until(ctx, "mirror pod "+mirror, func() (bool, string, error) {
			_, err := client.For(api, client.Pods).Get(ctx, metav1.NamespaceSystem, mirror)
			return err == nil, fmt.Sprint(err), nil
		}); err != nil {
			return err
		}
	}
	return nil
}
