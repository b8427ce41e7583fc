package apiserver_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"tinykube/internal/etcdtest"
	"tinykube/internal/testenv"
)

// startReal runs the kube-apiserver at path over an etcd of its own, with the
// certificates of ours, and returns its URL.
func startReal(t *testing.T, env *testenv.Env, path string) string {
	t.Helper()
	pki := func(name string) string { return filepath.Join(env.Dir, "pki", name) }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	listener.Close()
	log, err := os.Create(filepath.Join(env.Dir, "real.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	etcd := etcdtest.Start(t, filepath.Join(env.Dir, "r"))
	cmd := exec.Command(path,
		"--etcd-servers="+etcd.Endpoint, "--secure-port="+port, "--bind-address=127.0.0.1",
		"--tls-cert-file="+pki("apiserver.crt"), "--tls-private-key-file="+pki("apiserver.key"), "--client-ca-file="+pki("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+pki("sa.key"),
		"--service-account-signing-key-file="+pki("sa.key"), "--service-cluster-ip-range=10.96.0.0/12",
		"--authorization-mode=Node,RBAC", "--allow-privileged")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	host := "https://127.0.0.1:" + port
	probe := newWire(t, env, host)
	eventually(t, "the real kube-apiserver is ready", func() bool {
		select {
		case <-ended:
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("%s: %v\n%s", path, cmd.ProcessState, text)
		default:
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := probe.client.Do(request)
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
	return host
}
