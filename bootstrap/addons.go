package bootstrap

import (
	"bytes"
	"embed"
)

//go:embed manifests/*.yaml
var addons embed.FS

// NetworkAddons is what every node needs before it is Ready, as a YAML stream
// for kubectl apply. kube-proxy is first: flannel reaches the API server by
// its ClusterIP, which only the proxy makes work. (The proxy itself uses the
// API server's real address.)
func NetworkAddons(c *Cluster) ([]byte, error) { return renderAddons(c, "kube-proxy", "flannel") }

// DNSAddon comes after the nodes: applied earlier, all replicas of CoreDNS
// would land on the first node that is Ready, and end with it.
func DNSAddon(c *Cluster) ([]byte, error) { return renderAddons(c, "coredns") }

func renderAddons(c *Cluster, names ...string) ([]byte, error) {
	data := struct {
		Image, CoreDNSImage, APIServer, PodCIDR, ProxyMode string
		ClusterDNS, ClusterDomain, DNSUpstream             string
		DNSReplicas                                        int
	}{
		Image: c.Image, CoreDNSImage: c.CoreDNSImage, APIServer: c.APIServer(), PodCIDR: c.PodCIDR.String(), ProxyMode: c.ProxyMode,
		ClusterDNS: c.ClusterDNS().String(), ClusterDomain: c.ClusterDomain,
		DNSReplicas: min(2, len(c.Nodes)),
	}
	var stream bytes.Buffer
	for _, name := range names {
		content, err := render(addons, "manifests/"+name+".yaml", data)
		if err != nil {
			return nil, err
		}
		stream.WriteString("---\n")
		stream.Write(content)
	}
	return stream.Bytes(), nil
}
