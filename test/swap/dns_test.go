package swap

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"tinykube/internal/reference"
	"tinykube/test/clusters"
)

// resolver asks the cluster's DNS, at its Service, from node-0.
func (c *clusterUnderTest) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (conn net.Conn, err error) {
		err = c.inNode("node-0", func() (err error) {
			conn, err = net.DialTimeout(network, "10.96.0.10:53", time.Second)
			return err
		})
		return conn, err
	}}
}

// coreDNSOwnManifest puts CoreDNS's own deployment in the place of ours. It
// forwards to what the node's resolv.conf names.
func (c *clusterUnderTest) coreDNSOwnManifest() {
	c.t.Helper()
	text, err := os.ReadFile(reference.Path(c.t, "manifests/dns/coredns.yaml.sed"))
	if err != nil {
		c.t.Fatal(err)
	}
	manifest := strings.NewReplacer("CLUSTER_DOMAIN", "cluster.local", "REVERSE_CIDRS", "in-addr.arpa ip6.arpa", "UPSTREAMNAMESERVER", "/etc/resolv.conf",
		"STUBDOMAINS", "", "CLUSTER_DNS_IP", "10.96.0.10", "coredns/coredns:1.9.4", "tinykube.local/coredns:v1.14.2").Replace(string(text))
	c.run("", "kubectl", "delete", "-n", "kube-system", "deployment/coredns", "service/kube-dns", "configmap/coredns", "--timeout=60s")
	c.run(manifest, "kubectl", "apply", "-f", "-")
	c.run("", "kubectl", "rollout", "status", "-n", "kube-system", "deployment/coredns", "--timeout=120s")
}

// names makes a Service of each kind and asks for it in each way.
func (c *clusterUnderTest) names() {
	c.t.Helper()
	c.run(`{"kind":"List","apiVersion":"v1","items":[
		{"apiVersion":"v1","kind":"Service","metadata":{"name":"crowd"},"spec":{"clusterIP":"None","selector":{"app":"web"},"ports":[{"name":"http","port":9898}]}},
		{"apiVersion":"v1","kind":"Service","metadata":{"name":"elsewhere"},"spec":{"type":"ExternalName","externalName":"web.default.svc.cluster.local"}}]}`, "kubectl", "apply", "-f", "-")
	pods := strings.Fields(c.run("", "kubectl", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].status.podIP}"))
	slices.Sort(pods)
	resolver := c.resolver()
	flat := func(v any, err error) (string, error) { return strings.Trim(fmt.Sprint(v), "[]"), err }
	for _, row := range []struct {
		what, want string
		ask        func(context.Context) (string, error)
	}{
		{"a Service", "10.96.9.9", func(ctx context.Context) (string, error) {
			return flat(resolver.LookupHost(ctx, "web.default.svc.cluster.local."))
		}},
		{"a headless Service", strings.Join(pods, " "), func(ctx context.Context) (string, error) {
			list, err := resolver.LookupHost(ctx, "crowd.default.svc.cluster.local.")
			slices.Sort(list)
			return flat(list, err)
		}},
		{"SRV", "port 9898 of 2", func(ctx context.Context) (string, error) {
			_, list, err := resolver.LookupSRV(ctx, "http", "tcp", "crowd.default.svc.cluster.local.")
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("port %d of %d", list[0].Port, len(list)), nil
		}},
		{"PTR", "web.default.svc.cluster.local.", func(ctx context.Context) (string, error) { return flat(resolver.LookupAddr(ctx, "10.96.9.9")) }},
		{"ExternalName", "web.default.svc.cluster.local.", func(ctx context.Context) (string, error) {
			return resolver.LookupCNAME(ctx, "elsewhere.default.svc.cluster.local.")
		}},
		{"the search path of a pod", "10.96.9.9", func(context.Context) (string, error) {
			out, err := c.try("", "kubectl", "exec", "deploy/web", "--", "nslookup", "web")
			_, address, _ := strings.Cut(out, "Name:\tweb\nAddress: ")
			return strings.TrimSpace(address), err
		}},
		// Foreign names have nobody to be asked for, and least of all CoreDNS itself.
		{"a name of the world", "server misbehaving", func(ctx context.Context) (string, error) {
			_, err := resolver.LookupHost(ctx, "example.com.")
			if err != nil && strings.Contains(err.Error(), "server misbehaving") {
				return "server misbehaving", nil
			}
			return "", err
		}},
	} {
		clusters.Eventually(c.t, row.what, func(ctx context.Context) (bool, error) {
			try, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			got, err := row.ask(try)
			return err == nil && got == row.want, fmt.Errorf("%q, %w; want %q", got, err, row.want)
		})
	}
	if restarts := c.run("", "kubectl", "get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[*].status.containerStatuses[*].restartCount}"); restarts != "0" {
		c.t.Errorf("CoreDNS was restarted: %s", restarts)
	}
}
