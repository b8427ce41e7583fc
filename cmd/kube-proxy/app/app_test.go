package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tinykube/proxy"
)

func run(args ...string) (string, error) {
	cmd := NewCommand()
	var out bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetIn(strings.NewReader(web))
	cmd.SilenceErrors = true
	err := cmd.Execute()
	return out.String(), err
}

// web is what `kubectl get services,endpointslices -o yaml` prints: a List.
const web = `apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web}
  spec: {clusterIP: 10.96.0.80, ports: [{port: 80}]}
- apiVersion: discovery.k8s.io/v1
  kind: EndpointSlice
  metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
  addressType: IPv4
  ports: [{port: 8080}]
  endpoints: [{addresses: [10.244.1.5]}]
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: of-no-interest}
`

func TestRender(t *testing.T) {
	out, err := run("render", "-f", "-")
	if err != nil || !strings.Contains(out, "-j DNAT --to-destination 10.244.1.5:8080") {
		t.Errorf("%v\n%s", err, out)
	}
	// The same from a file with documents, as people write it.
	file := filepath.Join("..", "..", "..", "proxy", "testdata", "services.yaml")
	for _, mode := range proxy.Modes {
		golden, err := os.ReadFile(filepath.Join("..", "..", "..", "proxy", "testdata", "services."+mode))
		if err != nil {
			t.Fatal(err)
		}
		if out, err := run("render", "-f", file, "--node", "node-0", "--node-ip", "172.30.9.1", "--proxy-mode", mode); err != nil || out != string(golden) {
			t.Errorf("%s: %v\n%s", mode, err, out)
		}
	}
}

// What is wrong is named before anything is touched.
func TestBadCommandLines(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config")
	write := func(text string) string {
		if err := os.WriteFile(config, []byte("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
		return "--config=" + config
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(`{"current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],"clusters":[{"name":"a","cluster":{"server":"https://127.0.0.1:1"}}],"users":[{"name":"a","user":{}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--no-such-flag"}, "unknown flag"},
		{[]string{"--write-config-to=x"}, "refused"},
		{[]string{"--init-only", "--conntrack-min=-1"}, "must be greater than or equal to 0"},
		{nil, "how to reach the API server"},
		{[]string{"--kubeconfig=/nowhere"}, "/nowhere"},
		{[]string{"--kubeconfig=" + kubeconfig, "--proxy-mode=userspace"}, "must be iptables, ipvs, nftables or blank"},
		{[]string{"--config=/nowhere"}, "/nowhere"},
		{[]string{"render"}, "--filename"},
		{[]string{"render", "-f", "/nowhere"}, "/nowhere"},
		{[]string{"render", "-f", "-", "--proxy-mode=userspace"}, "none of iptables"},
	} {
		if _, err := run(c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
	if _, err := run(write("mode: [iptables]\n")); err == nil || !strings.Contains(err.Error(), "mode") {
		t.Errorf("a list for a word: %v", err)
	}
	if out, err := run("--version"); err != nil || !strings.HasPrefix(out, "Kubernetes v1.36") {
		t.Errorf("--version: %q %v", out, err)
	}
}

func TestExplain(t *testing.T) {
	for _, mode := range proxy.Modes {
		out, err := run("explain", "192.0.2.1", "10.96.0.80", "-f", "-", "--node-ip", "172.30.9.1", "--proxy-mode", mode)
		if err != nil || !strings.Contains(out, "=> delivered to 10.244.1.5:8080, which sees an address of this node\n") {
			t.Errorf("%s: %v\n%s", mode, err, out)
		}
	}
	// Rules from a file, whoever wrote them.
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.96.0.80 -j DNAT --to-destination 10.244.1.5\nCOMMIT\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := run("explain", "192.0.2.1", "10.96.0.80:443", "--rules", rules); err != nil || !strings.Contains(out, "=> delivered to 10.244.1.5:443, which sees the client's own address\n") {
		t.Errorf("--rules: %v\n%s", err, out)
	}
	for arguments, want := range map[string]string{
		"192.0.2.1 10.96.0.80 --rules /nowhere":   "/nowhere",
		"192.0.2.1 10.96.0.80 --rules x -f y":     "none of the others can be",
		"somewhere 10.96.0.80":                    "SRC: ",
		"192.0.2.1 10.96.0.80:port":               "DST: ",
		"192.0.2.1 web:80":                        "DST: ",
		"192.0.2.1 10.96.0.80:0":                  "port 0",
		"192.0.2.1:80 10.96.0.80":                 "SRC: ",
		"192.0.2.1 10.96.0.80 --protocol icmp":    "--protocol: ",
		"192.0.2.1 fd00::80":                      "different families",
		"fd00::1 fd00::80 -f -":                   "--node-ip",
		"192.0.2.1 10.96.0.80 -f /does/not/exist": "/does/not/exist",
	} {
		if out, err := run(append([]string{"explain"}, strings.Fields(arguments)...)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("explain %s: %v, want something with %q\n%s", arguments, err, want, out)
		}
	}
}
