package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"tinykube/controllers"
	"tinykube/internal/reference"
)

const kubeconfig = `
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
`

func privateKey(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// parse reads a command line, with the files it names replaced by ours.
func parse(t *testing.T, args []string) (*options, error) {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"kubeconfig": kubeconfig, "root-ca-file": "PEM", "service-account-private-key-file": privateKey(t)}
	for i, arg := range args {
		name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if content, ok := files[name]; ok {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			args[i] = "--" + name + "=" + path
		}
	}
	o := &options{}
	fs := pflag.NewFlagSet("kube-controller-manager", pflag.ContinueOnError)
	o.addFlags(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if err := o.complete(); err != nil {
		return nil, err
	}
	_, err := controllers.New(o.Config, slog.New(slog.DiscardHandler))
	return o, err
}

func TestKubeadmManifest(t *testing.T) {
	raw, err := os.ReadFile(reference.Path(t, "manifests/kubeadm/kube-controller-manager.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := yaml.Unmarshal(raw, &pod); err != nil {
		t.Fatal(err)
	}
	o, err := parse(t, pod.Spec.Containers[0].Command[1:])
	if err != nil {
		t.Fatal(err)
	}
	if !o.OwnIdentities || !o.AllocateNodeCIDRs || o.RootCA != "PEM" || o.Election.Name != "kube-controller-manager" ||
		o.NodeIPAM.Ranges[0].Cluster.String() != "10.244.0.0/16" || o.NodeIPAM.Ranges[0].NodeBits != 24 || o.NodeIPAM.Reserved[0].String() != "10.96.0.0/12" {
		t.Errorf("%+v", o.Config)
	}
}

func TestHardWayUnit(t *testing.T) {
	raw, err := os.ReadFile(reference.Path(t, "manifests/hard-way/kube-controller-manager.service"))
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(raw), "ExecStart=")
	line, _, _ = strings.Cut(line, "\n\n")
	line, _, _ = strings.Cut(line, "\nRestart")
	o, err := parse(t, strings.Fields(strings.ReplaceAll(line, "\\\n", " "))[1:])
	if err != nil {
		t.Fatal(err)
	}
	if o.TokenSigner == nil || len(o.Signing.CAs) != 4 || o.Signing.CAs["kubernetes.io/kubelet-serving"].CertFile != "/var/lib/kubernetes/ca.crt" {
		t.Errorf("%+v", o.Signing)
	}
	if o.AllocateNodeCIDRs || o.bindAddress.String() != "0.0.0.0" || o.logging.Verbosity != 2 {
		t.Errorf("%+v", o)
	}
}

func TestBadFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--kubeconfig=x --no-such-flag":                                   "unknown flag: --no-such-flag",
		"--kubeconfig=x --controllers=*,-depoyment":                       `"depoyment" is not in the list of known controllers`,
		"--kubeconfig=x --allocate-node-cidrs":                            "--allocate-node-cidrs needs --cluster-cidr",
		"--kubeconfig=x --allocate-node-cidrs --cluster-cidr=10.0.0.0":    "--cluster-cidr",
		"--kubeconfig=x --allocate-node-cidrs --cluster-cidr=10.0.0.0/25": "no room for a node's /24",
		"--kubeconfig=x --max-endpoints-per-slice=0":                      "max-endpoints-per-slice must not be less than 1, but got 0",
		"--kubeconfig=x --cluster-signing-cert-file=ca.crt":               "need each other",
		"--kubeconfig=x --cluster-signing-cert-file=a --cluster-signing-key-file=b --cluster-signing-kubelet-client-cert-file=c --cluster-signing-kubelet-client-key-file=d": "at the same time",
		"--master=": "no way to the API server",
		"--kubeconfig=x --leader-elect-resource-lock=endpoints":              "resourceLock value must be \"leases\"",
		"--kubeconfig=x --allocate-node-cidrs --cluster-cidr=10.0.0.0/16,,x": "--cluster-cidr",
	} {
		if _, err := parse(t, strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", args, err, want)
		}
	}
}
