package bootstrap

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func testCluster() *Cluster {
	return &Cluster{
		Name: "kubernetes", PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/12"),
		ClusterDomain: "cluster.local", ProxyMode: "iptables", RuntimeEndpoint: "unix:///run/tinykube/cri.sock",
		Image: "tinykube.local/tinykube:v1.36", PauseImage: "tinykube.local/pause:3.10", CoreDNSImage: "tinykube.local/coredns:1",
		Nodes: []Node{{Name: "node-0", Address: netip.MustParseAddr("172.30.9.1")}, {Name: "node-1", Address: netip.MustParseAddr("172.30.9.2")}},
	}
}

// Every certificate is signed by the authority its file's reader trusts.
func TestCertificatesVerify(t *testing.T) {
	c := testCluster()
	p, err := NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(c, p, c.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		file, authority string
		usage           x509.ExtKeyUsage
		host            string
	}{
		{"apiserver", "ca", x509.ExtKeyUsageServerAuth, "10.96.0.1"},
		{"apiserver", "ca", x509.ExtKeyUsageServerAuth, "kubernetes.default.svc"},
		{"apiserver", "ca", x509.ExtKeyUsageServerAuth, "127.0.0.1"},
		{"apiserver-kubelet-client", "ca", x509.ExtKeyUsageClientAuth, ""},
		{"apiserver-etcd-client", "etcd/ca", x509.ExtKeyUsageClientAuth, ""},
		{"etcd/server", "etcd/ca", x509.ExtKeyUsageServerAuth, "172.30.9.1"},
		{"etcd/peer", "etcd/ca", x509.ExtKeyUsageClientAuth, "node-0"},
		{"front-proxy-client", "front-proxy-ca", x509.ExtKeyUsageClientAuth, ""},
	} {
		pair, err := tls.X509KeyPair(files[pkiDir+row.file+".crt"].Content, files[pkiDir+row.file+".key"].Content)
		if err != nil {
			t.Fatalf("%s: %v", row.file, err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(files[pkiDir+row.authority+".crt"].Content)
		leaf, err := x509.ParseCertificate(pair.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: row.host, KeyUsages: []x509.ExtKeyUsage{row.usage}}); err != nil {
			t.Errorf("%s for %q: %v", row.file, row.host, err)
		}
	}
	for name, file := range files {
		if strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".conf") {
			if file.Mode != private {
				t.Errorf("%s has mode %o, want 600", name, file.Mode)
			}
		}
	}
}

func TestAuthorityRoundTrip(t *testing.T) {
	p, err := NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadAuthority(p.CA.Cert, p.CA.Key)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := again.Issue(Request{CommonName: "x", Client: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := issued.parsed.CheckSignatureFrom(p.CA.parsed); err != nil {
		t.Error(err)
	}
	if _, err := LoadAuthority([]byte("junk"), nil); err == nil {
		t.Error("junk was accepted as an authority")
	}
}

func TestStaticPodsDecode(t *testing.T) {
	c := testCluster()
	p, err := NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(c, p, c.Nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		var pod corev1.Pod
		if err := yaml.UnmarshalStrict(files[manifestsDir+name+".yaml"].Content, &pod); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if pod.Name != name || !pod.Spec.HostNetwork || pod.Spec.Containers[0].Image != c.Image {
			t.Errorf("%s: %+v", name, pod.Spec)
		}
	}
	worker, err := Files(c, p, c.Nodes[1])
	if err != nil {
		t.Fatal(err)
	}
	for name := range worker {
		if strings.HasPrefix(name, manifestsDir) || strings.HasSuffix(name, "ca.key") || strings.Contains(name, "admin") {
			t.Errorf("a worker was given %s", name)
		}
	}
}

func TestAddonsRender(t *testing.T) {
	stream, err := NetworkAddons(testCluster())
	if err != nil {
		t.Fatal(err)
	}
	dns, err := DNSAddon(testCluster())
	if err != nil {
		t.Fatal(err)
	}
	stream = append(stream, dns...)
	for _, document := range bytes.Split(stream, []byte("\n---\n")) {
		var object map[string]any
		if err := yaml.Unmarshal(document, &object); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
	}
	if !bytes.Contains(stream, []byte("https://172.30.9.1:6443")) || !bytes.Contains(stream, []byte("10.96.0.10")) {
		t.Error("the API server's or the DNS Service's address is missing")
	}
}
