package app

import (
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	corev1 "k8s.io/api/core/v1"

	"tinykube/internal/reference"
)

// The command lines that the world already has must start us.
func TestRealCommandLines(t *testing.T) {
	kubeadm, err := os.ReadFile(reference.Path(t, "manifests/kubeadm/kube-apiserver.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.Unmarshal(kubeadm, &pod); err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile(reference.Path(t, "manifests/hard-way/kube-apiserver.service"))
	if err != nil {
		t.Fatal(err)
	}
	var hardWay []string
	for _, flag := range regexp.MustCompile(`--\S+`).FindAllString(string(unit), -1) {
		hardWay = append(hardWay, strings.ReplaceAll(flag, "'", ""))
	}
	for name, args := range map[string][]string{"kubeadm": pod.Spec.Containers[0].Command[1:], "hard-way": hardWay} {
		o := &options{}
		cmd := NewCommand()
		cmd.ResetFlags()
		o.addFlags(cmd.Flags())
		if err := cmd.ParseFlags(args); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		o.encryptionConfig = "" // its file is not here
		if err := o.check(slog.New(slog.DiscardHandler)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(o.cfg.Storage.Endpoints) != 1 || len(o.cfg.AuthorizationModes) != 2 || o.cfg.ServiceAccount.SigningKey == "" {
			t.Errorf("%s: %+v", name, o.cfg)
		}
	}
}

func TestFlagsThatWouldBeALie(t *testing.T) {
	for _, flag := range []string{"--authorization-webhook-config-file=x", "--oidc-issuer-url=x", "--admission-control-config-file=x", "--audit-webhook-config-file=x", "--audit-log-mode=batch", "--no-such-flag"} {
		cmd := NewCommand()
		if err := cmd.ParseFlags([]string{flag}); err == nil {
			t.Errorf("%s is accepted", flag)
		}
	}
	o := &options{tlsMinVersion: "x"}
	if err := o.check(slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a TLS version that there is not is accepted")
	}
}
