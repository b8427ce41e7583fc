package app

import (
	"strings"
	"testing"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"tinykube/kubelet"
)

func TestUpstreamsCommandLines(t *testing.T) {
	for _, line := range []string{
		// Kubernetes The Hard Way's unit file.
		"--config=/var/lib/kubelet/kubelet-config.yaml --kubeconfig=/var/lib/kubelet/kubeconfig --v=2",
		// kubeadm's drop-in and its environment file.
		"--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml " +
			"--container-runtime-endpoint=unix:///run/containerd/containerd.sock --hostname-override=node-1 --node-ip=172.30.9.2 --pod-infra-container-image=registry.k8s.io/pause:3.10",
		"--register-with-taints=node-role.kubernetes.io/control-plane=:NoSchedule --node-labels=a=b,c=d --register-node --fail-swap-on=false --rotate-certificates",
	} {
		if err := NewCommand().ParseFlags(strings.Fields(line)); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for _, line := range []string{"--no-such-flag", "--lock-file=/run/x", "--image-credential-provider-config=/etc/x"} {
		if err := NewCommand().ParseFlags(strings.Fields(line)); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
}

// TestEveryFlagIsReadAsItsField: the table of flags is data, so each row is tried.
func TestEveryFlagIsReadAsItsField(t *testing.T) {
	for name, path := range configFlags {
		c := &kubeletv1beta1.KubeletConfiguration{}
		field, json := fieldOf(c, path)
		text := "7"
		switch kind := field.Type().String(); {
		case strings.HasSuffix(kind, "Duration"):
			text = "7s"
		case strings.HasSuffix(kind, "bool"), strings.HasSuffix(kind, "map[string]bool"):
			text = map[bool]string{true: "A=true", false: "true"}[strings.HasPrefix(kind, "map")]
		case kind == "map[string]string":
			text = "memory.available<7Gi"
		case kind == "map[string][]string":
			text = "a:7"
		case kind == "[]v1.Taint":
			text = "a=b:NoSchedule"
		}
		if err := parseInto(field, text); err != nil || field.IsZero() || json == "" {
			t.Errorf("--%s=%s: %v is %v: %v", name, text, json, field, err)
		}
	}
}

func TestFlagsWinOverTheFile(t *testing.T) {
	cmd := NewCommand()
	if err := cmd.ParseFlags(strings.Fields("--max-pods=7 --cluster-dns=10.0.0.1,10.0.0.2 --fail-swap-on --register-with-taints=a=b:NoExecute --kube-reserved=cpu=1")); err != nil {
		t.Fatal(err)
	}
	c := kubelet.DefaultConfiguration()
	c.MaxPods, c.ClusterDomain = 50, "file.local"
	if err := applyConfigFlags(cmd.Flags(), c); err != nil {
		t.Fatal(err)
	}
	if c.MaxPods != 7 || len(c.ClusterDNS) != 2 || !*c.FailSwapOn || c.RegisterWithTaints[0].Effect != "NoExecute" || c.KubeReserved["cpu"] != "1" || c.ClusterDomain != "file.local" {
		t.Errorf("%+v", c)
	}
	cmd = NewCommand()
	if err := cmd.ParseFlags([]string{"--max-pods=many"}); err != nil {
		t.Fatal(err)
	}
	if err := applyConfigFlags(cmd.Flags(), c); err == nil || !strings.Contains(err.Error(), "--max-pods=many") {
		t.Errorf("a bad number: %v", err)
	}
}
