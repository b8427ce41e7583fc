package swap

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tinykube/client"
)

// patience bounds a wait that should end in far less.
const patience = 60 * time.Second

// kubeconfig writes the way to the server into a file.
func kubeconfig(t testing.TB, c *client.Config) string {
	t.Helper()
	data := func(field string, data []byte, file string) string {
		if data == nil && file != "" {
			return fmt.Sprintf("    %s: %s\n", field, file)
		}
		if data == nil {
			return ""
		}
		return fmt.Sprintf("    %s-data: %s\n", field, base64.StdEncoding.EncodeToString(data))
	}
	text := "apiVersion: v1\nkind: Config\ncurrent-context: test\n" +
		"contexts:\n- name: test\n  context: {cluster: test, user: test}\n" +
		"clusters:\n- name: test\n  cluster:\n    server: " + c.Host + "\n" + data("certificate-authority", c.CAData, c.CAFile)
	if c.ServerName != "" {
		text += "    tls-server-name: " + c.ServerName + "\n"
	}
	text += "users:\n- name: test\n  user:\n" + data("client-certificate", c.CertData, c.CertFile) + data("client-key", c.KeyData, c.KeyFile)
	if c.BearerToken != "" {
		text += "    token: " + c.BearerToken + "\n"
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	write(t, path, text)
	return path
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start runs a program until the test ends. Its output is shown if the test
// fails.
func start(t *testing.T, path string, args ...string) {
	t.Helper()
	var output bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	// The program ends with us even if we are killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(path), output.String())
		}
	})
}

// eventually waits until the condition holds and fails the test otherwise.
func eventually(t *testing.T, what string, holds func(ctx context.Context) (bool, error)) {
	t.Helper()
	within(t, patience, what, holds)
}

// within is eventually for what takes its time.
func within(t *testing.T, patience time.Duration, what string, holds func(ctx context.Context) (bool, error)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := holds(ctx)
		if ok {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s (last error: %v)", what, patience, err)
		case <-tick.C:
		}
	}
}
