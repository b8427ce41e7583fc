package app

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"tinykube/internal/reference"
	"tinykube/internal/testenv"
)

// parsed parses a command line without running anything.
func parsed(t *testing.T, args ...string) (*options, error) {
	t.Helper()
	o := &options{}
	cmd := &cobra.Command{Use: "kube-scheduler"}
	o.addFlags(cmd.Flags())
	return o, cmd.ParseFlags(args)
}

func TestKubeadmManifest(t *testing.T) {
	raw, err := os.ReadFile(reference.Path(t, "manifests/kubeadm/kube-scheduler.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	o, err := parsed(t, pod.Spec.Containers[0].Command[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	c, err := o.component()
	if err != nil {
		t.Fatal(err)
	}
	if c.ClientConnection.Kubeconfig != "/etc/kubernetes/scheduler.conf" || o.bindAddress.String() != "127.0.0.1" {
		t.Errorf("kubeconfig %q, address %q", c.ClientConnection.Kubeconfig, o.bindAddress)
	}
	if e := electionOf(c); e.Name != "kube-scheduler" || e.Namespace != "kube-system" || e.LeaseDuration.Seconds() != 15 {
		t.Errorf("election %+v", e)
	}
	if o.securePort != int(pod.Spec.Containers[0].Ports[0].ContainerPort) {
		t.Errorf("port %d differs from the manifest's probe port", o.securePort)
	}
}

func TestHardWayUnit(t *testing.T) {
	unit, err := os.ReadFile(reference.Path(t, "manifests/hard-way/kube-scheduler.service"))
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for _, word := range strings.Fields(string(unit)) {
		if strings.HasPrefix(word, "--") {
			args = append(args, word)
		}
	}
	o, err := parsed(t, args...)
	if err != nil {
		t.Fatal(err)
	}
	// The unit's file, at our place.
	o.configFile = reference.Path(t, "manifests/hard-way/kube-scheduler.yaml")
	c, err := o.component()
	if err != nil {
		t.Fatal(err)
	}
	if c.ClientConnection.Kubeconfig != "/var/lib/kubernetes/kube-scheduler.kubeconfig" || electionOf(c).Name == "" {
		t.Errorf("%+v", c)
	}
}

func TestFlagsAndFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	content := "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n" +
		"leaderElection: {leaderElect: false, leaseDuration: 30s}\n"
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := parsed(t, "--config="+file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := o.component()
	if err != nil {
		t.Fatal(err)
	}
	if *c.LeaderElection.LeaderElect || c.LeaderElection.LeaseDuration.Seconds() != 30 || c.LeaderElection.RetryPeriod.Seconds() != 2 {
		t.Errorf("the file does not count: %+v", c.LeaderElection)
	}
	if o, err = parsed(t, "--config="+file, "--leader-elect", "--leader-elect-lease-duration=20s"); err != nil {
		t.Fatal(err)
	}
	if c, err = o.component(); err != nil || !*c.LeaderElection.LeaderElect || c.LeaderElection.LeaseDuration.Seconds() != 20 {
		t.Errorf("the flags do not count: %+v %v", c.LeaderElection, err)
	}
	if _, err := parsed(t, "--leader-elct"); err == nil {
		t.Error("an unknown flag was accepted")
	}
}

// The whole program, from its flags to its probes, with a real API server.
func TestRuns(t *testing.T) {
	env := testenv.New(t)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	port.Close()
	_, number, _ := net.SplitHostPort(address)
	o, err := parsed(t, "--kubeconfig="+env.Kubeconfig, "--authentication-kubeconfig="+env.Kubeconfig, "--bind-address=127.0.0.1",
		"--secure-port="+number, "--leader-elect=true")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- o.run(ctx) }()
	get := func(path string) (int, string) {
		probe := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
		response, err := probe.Get("https://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		return response.StatusCode, string(body)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		code, body := get("/readyz")
		if code == http.StatusOK {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("/readyz: %d %s", code, body)
		}
	}
	for path, want := range map[string]string{"/livez": "ok", "/healthz": "ok", "/metrics": `scheduler_pending_pods{queue="active"} 0`, "/configz": `"leaderElect":true`} {
		if code, body := get(path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}
