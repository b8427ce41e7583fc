package e2e

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"
)

// survives ends something while requests come in, and then wants the world as
// it was: requests answered, every node Ready, the application's pods the same
// ones, none lost and none doubled.
func survives(t *testing.T, within time.Duration, end func()) {
	t.Helper()
	healthy(t, time.Minute)
	before := pods(t, "webapp")
	l := startLoad()
	end()
	healthy(t, within)
	time.Sleep(time.Second) // let requests meet what came back
	l.end()
	t.Logf("%d requests answered, %d failed meanwhile (%v)", l.ok.Load(), l.failed.Load(), l.lastError.Load())
	if after := pods(t, "webapp"); !maps.Equal(before, after) {
		t.Errorf("pods changed:\nbefore %v\nafter  %v", before, after)
	}
}

// healthy waits for ten answers in a row, Ready nodes and running pods.
func healthy(t *testing.T, within time.Duration) {
	t.Helper()
	deadline := time.Now().Add(within)
	eventually(t, time.Until(deadline), "ten answers in a row", func() error {
		for range 10 {
			if err := echo(); err != nil {
				return err
			}
		}
		return nil
	})
	eventually(t, time.Until(deadline)+10*time.Second, "Ready nodes and pods", func() error {
		out, err := tinykube("kubectl", "get", "nodes", "--no-headers")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if strings.Contains(out, "NotReady") {
			return errors.New(out)
		}
		out, err = tinykube("kubectl", "get", "pods", "-A", "--no-headers")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		for line := range strings.Lines(out) {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[3] != "Running" {
				return errors.New(line)
			}
			if ready, all, _ := strings.Cut(fields[2], "/"); ready != all {
				return errors.New(line)
			}
		}
		return nil
	})
}

func TestKillEachComponent(t *testing.T) {
	worker := kubectl(t, "-n", "webapp", "get", "pods", "-l", "app=frontend", "-o", "jsonpath={.items[0].spec.nodeName}")
	for _, row := range []struct {
		name, node string
		words      []string
	}{
		{"kubelet", worker, []string{"tinykube kubelet"}},
		{"cri", worker, []string{"tinykube cri"}},
		{"containerd", worker, []string{"bin/containerd --config"}},
		{"kube-proxy", worker, []string{"kube-proxy", "--config"}},
		{"flanneld", worker, []string{"flanneld", "--kube-subnet-mgr"}},
		{"kube-scheduler", "node-0", []string{"kube-scheduler", "--leader-elect"}},
		{"kube-controller-manager", "node-0", []string{"kube-controller-manager", "--leader-elect"}},
		{"kube-apiserver", "node-0", []string{"kube-apiserver", "--etcd-servers"}},
		{"etcd", "node-0", []string{"etcd", "--data-dir"}},
		{"kubelet of the control plane", "node-0", []string{"tinykube kubelet"}},
		{"containerd of the control plane", "node-0", []string{"bin/containerd --config"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			survives(t, 90*time.Second, func() { kill9(t, row.node, row.words...) })
		})
	}
	// The cluster still does new work.
	kubectl(t, "create", "deployment", "after-kills", "--image=tinykube.local/podinfo:6.9.2", "--replicas=2")
	kubectl(t, "rollout", "status", "deployment/after-kills", "--timeout=60s")
	kubectl(t, "delete", "deployment", "after-kills")
}

func TestPullThePlug(t *testing.T) {
	// Enough of each that both workers have some.
	kubectl(t, "-n", "webapp", "scale", "deployment/frontend", "deployment/backend", "--replicas=4")
	kubectl(t, "-n", "webapp", "rollout", "status", "deployment/frontend", "--timeout=60s")
	kubectl(t, "-n", "webapp", "rollout", "status", "deployment/backend", "--timeout=60s")
	before := pods(t, "webapp")
	victim := "node-2"
	if out, err := tinykube("node", "stop", "node-9"); err == nil || !strings.Contains(out, "no node") {
		t.Errorf("stop of a node that is not there: %v, %s", err, out)
	}
	if out, err := tinykube("node", "stop", victim); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, 90*time.Second, "node NotReady", func() error {
		if got := kubectl(t, "get", "node", victim, "--no-headers"); !strings.Contains(got, "NotReady") {
			return errors.New(got)
		}
		return nil
	})
	eventually(t, 60*time.Second, "ten answers without that node", func() error {
		for range 10 {
			if err := echo(); err != nil {
				return err
			}
		}
		return nil
	})
	if out, err := tinykube("node", "start", victim); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	healthy(t, 2*time.Minute)
	after := pods(t, "webapp")
	if len(after) != len(before) {
		t.Errorf("pods lost or doubled:\nbefore %v\nafter  %v", before, after)
	}
}

func TestUpAgainAfterEverythingWasKilled(t *testing.T) {
	before := pods(t, "webapp")
	for _, node := range []string{"node-0", "node-1", "node-2"} {
		if err := syscall.Kill(nodePID(t, node), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := tinykube("up"); err != nil {
		t.Fatalf("up again: %v\n%s", err, out)
	}
	healthy(t, 3*time.Minute)
	if after := pods(t, "webapp"); len(after) != len(before) {
		t.Errorf("pods lost or doubled:\nbefore %v\nafter  %v", before, after)
	}
}
