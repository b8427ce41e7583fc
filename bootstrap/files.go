package bootstrap

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"net"
	"path"
	"text/template"
)

//go:embed staticpods/*.yaml
var staticPods embed.FS

// File is what lies at one path of a node.
type File struct {
	Mode    fs.FileMode
	Content []byte
}

const (
	pkiDir       = "/etc/kubernetes/pki/"
	kubeletDir   = "/var/lib/kubelet/"
	manifestsDir = "/etc/kubernetes/manifests/"

	private = 0o600
	public  = 0o644
)

// Files returns everything that a node needs before its first process starts,
// by absolute path. Keys are readable by root alone.
func Files(c *Cluster, p *PKI, n Node) (map[string]File, error) {
	files := map[string]File{}
	if err := addKubelet(files, c, p, n); err != nil {
		return nil, err
	}
	if n.Name != c.ControlPlane().Name {
		return files, nil
	}
	for _, add := range []func(map[string]File, *Cluster, *PKI) error{addControlPlanePKI, addKubeconfigs, addStaticPods} {
		if err := add(files, c, p); err != nil {
			return nil, err
		}
	}
	return files, nil
}

func addKubelet(files map[string]File, c *Cluster, p *PKI, n Node) error {
	user := "system:node:" + n.Name
	client, err := p.CA.Issue(Request{CommonName: user, Organizations: []string{"system:nodes"}, Client: true})
	if err != nil {
		return err
	}
	server, err := p.CA.Issue(Request{CommonName: user, Organizations: []string{"system:nodes"},
		DNSNames: []string{n.Name}, IPs: []net.IP{n.Address.AsSlice()}, Server: true})
	if err != nil {
		return err
	}
	files[pkiDir+"ca.crt"] = File{public, p.CA.Cert}
	files["/etc/kubernetes/kubelet.conf"] = File{private, Kubeconfig(c.Name, c.APIServer(), user, p.CA.Cert, client)}
	files[kubeletDir+"pki/kubelet.crt"] = File{public, server.Cert}
	files[kubeletDir+"pki/kubelet.key"] = File{private, server.Key}
	files[kubeletDir+"config.yaml"] = File{public, kubeletConfig(c, n)}
	return nil
}

// kubeletConfig is kubeadm's, with our runtime and without systemd. A node's
// memory is its own, but its disk is the machine's: a share of it says nothing
// about the node, so pods and images only have to go when all but the last of
// it is gone.
func kubeletConfig(c *Cluster, n Node) []byte {
	taints := ""
	if c.Tainted() && n.Name == c.ControlPlane().Name {
		taints = fmt.Sprintf("registerWithTaints:\n- key: %s\n  effect: NoSchedule\n", ControlPlaneRole)
	}
	return fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous:
    enabled: false
  webhook:
    enabled: true
  x509:
    clientCAFile: /etc/kubernetes/pki/ca.crt
authorization:
  mode: Webhook
cgroupDriver: cgroupfs
cgroupRoot: %s
clusterDNS:
- %s
clusterDomain: %s
containerRuntimeEndpoint: %s
evictionHard:
  memory.available: 100Mi
  nodefs.available: 512Mi
failCgroupV1: false
failSwapOn: false
healthzBindAddress: 127.0.0.1
healthzPort: 10248
imageGCHighThresholdPercent: 100
podPidsLimit: 4096
resolvConf: /etc/resolv.conf
staticPodPath: /etc/kubernetes/manifests
tlsCertFile: /var/lib/kubelet/pki/kubelet.crt
tlsPrivateKeyFile: /var/lib/kubelet/pki/kubelet.key
%s`, n.CgroupRoot, c.ClusterDNS(), c.ClusterDomain, c.RuntimeEndpoint, taints)
}

// addControlPlanePKI adds the authorities' keys and the certificates of the
// control plane: file, authority, subject, purpose.
func addControlPlanePKI(files map[string]File, c *Cluster, p *PKI) error {
	node := c.ControlPlane()
	local := []net.IP{node.Address.AsSlice(), net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	etcdNames := []string{"localhost", node.Name}
	for _, row := range []struct {
		file      string
		authority *Authority
		request   Request
	}{
		{"apiserver", p.CA, Request{CommonName: "kube-apiserver", Server: true,
			DNSNames: []string{node.Name, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain},
			IPs:      append([]net.IP{c.KubernetesService().AsSlice()}, local...)}},
		{"apiserver-kubelet-client", p.CA, Request{CommonName: "kube-apiserver-kubelet-client", Organizations: []string{"kubeadm:cluster-admins"}, Client: true}},
		{"front-proxy-client", p.FrontProxyCA, Request{CommonName: "front-proxy-client", Client: true}},
		{"etcd/server", p.EtcdCA, Request{CommonName: node.Name, DNSNames: etcdNames, IPs: local, Server: true, Client: true}},
		{"etcd/peer", p.EtcdCA, Request{CommonName: node.Name, DNSNames: etcdNames, IPs: local, Server: true, Client: true}},
		{"etcd/healthcheck-client", p.EtcdCA, Request{CommonName: "kube-etcd-healthcheck-client", Client: true}},
		{"apiserver-etcd-client", p.EtcdCA, Request{CommonName: "kube-apiserver-etcd-client", Client: true}},
	} {
		issued, err := row.authority.Issue(row.request)
		if err != nil {
			return err
		}
		files[pkiDir+row.file+".crt"] = File{public, issued.Cert}
		files[pkiDir+row.file+".key"] = File{private, issued.Key}
	}
	for file, authority := range map[string]*Authority{"ca": p.CA, "etcd/ca": p.EtcdCA, "front-proxy-ca": p.FrontProxyCA} {
		files[pkiDir+file+".crt"] = File{public, authority.Cert}
		files[pkiDir+file+".key"] = File{private, authority.Key}
	}
	files[pkiDir+"sa.key"] = File{private, p.ServiceAccount}
	files[pkiDir+"sa.pub"] = File{public, p.ServiceAccountPublic}
	return nil
}

// addKubeconfigs adds the identities that live on the control plane.
// admin.conf is bound to cluster-admin by RBAC; super-admin.conf is in
// system:masters, which no rule can lock out.
func addKubeconfigs(files map[string]File, c *Cluster, p *PKI) error {
	for _, row := range []struct{ file, user, group string }{
		{"admin.conf", "kubernetes-admin", "kubeadm:cluster-admins"},
		{"super-admin.conf", "kubernetes-super-admin", "system:masters"},
		{"controller-manager.conf", "system:kube-controller-manager", ""},
		{"scheduler.conf", "system:kube-scheduler", ""},
	} {
		request := Request{CommonName: row.user, Client: true}
		if row.group != "" {
			request.Organizations = []string{row.group}
		}
		identity, err := p.CA.Issue(request)
		if err != nil {
			return err
		}
		files["/etc/kubernetes/"+row.file] = File{private, Kubeconfig(c.Name, c.APIServer(), row.user, p.CA.Cert, identity)}
	}
	return nil
}

func addStaticPods(files map[string]File, c *Cluster, _ *PKI) error {
	entries, err := staticPods.ReadDir("staticpods")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		content, err := render(staticPods, path.Join("staticpods", entry.Name()), c)
		if err != nil {
			return err
		}
		files[manifestsDir+entry.Name()] = File{private, content}
	}
	return nil
}

// render fills a template of ours with a Cluster.
func render(files fs.FS, name string, data any) ([]byte, error) {
	t, err := template.New(path.Base(name)).Option("missingkey=error").ParseFS(files, name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
