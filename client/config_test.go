package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadKubeconfig(t *testing.T) {
	write := func(content string) string {
		file := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}],
clusters: [{name: c, cluster: {server: "https://h:1", certificate-authority: ca.crt}}], users: [{name: u, user: {token: t, client-key-data: QQ==}}]}`
	file := write(good)
	cfg, err := LoadKubeconfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Host != "https://h:1" || cfg.BearerToken != "t" || string(cfg.KeyData) != "A" || cfg.CAFile != filepath.Join(filepath.Dir(file), "ca.crt") {
		t.Errorf("%+v", cfg)
	}
	for _, row := range []struct{ change, to, want string }{
		{"current-context: a", "current-context: b", `current-context "b"`},
		{"QQ==", "'?'", "client-key-data"},
		{`server: "https://h:1", `, "", "no server"},
		{"token: t", "exec: {command: x}", "exec"},
		{"apiVersion: v1, ", "apiVersion: v1, }", "kubeconfig"},
	} {
		if _, err := LoadKubeconfig(write(strings.Replace(good, row.change, row.to, 1))); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%q: %v, want %q", row.to, err, row.want)
		}
	}
	if _, err := LoadKubeconfig(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("an absent file was read")
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := InCluster(); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("outside of a cluster: %v", err)
	}
}
