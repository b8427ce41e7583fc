package apiserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tinykube/apiserver"
	"tinykube/internal/testenv"
)

func service(name, more string) string {
	return `{"metadata":{"name":"` + name + `"},"spec":{"ports":[{"port":80}]` + more + `}}`
}

// A record that somebody removes comes back before the address is given away.
func TestAllocationRepair(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	admin := newAPI(t, env.Config)
	const addresses = "/apis/networking.k8s.io/v1/ipaddresses"
	admin.ok("POST", ns+"services", asJSON, service("a", `,"clusterIP":"10.96.0.77"`))
	if parent := fmt.Sprint(admin.ok("GET", addresses+"/10.96.0.77", "", "")["spec"]); parent != "map[parentRef:map[name:a namespace:default resource:services]]" {
		t.Error(parent)
	}
	admin.ok("DELETE", addresses+"/10.96.0.77", "", "")
	env.StopServer()
	env.StartServer(t)
	admin.ok("GET", addresses+"/10.96.0.77", "", "")
	if code, text, _ := admin.send("POST", ns+"services", asJSON, service("b", `,"clusterIP":"10.96.0.77"`)); code != 422 || !strings.Contains(text, "failed to allocate IP 10.96.0.77: provided IP is already allocated") {
		t.Errorf("%d %s", code, text)
	}
}

// A ServiceCIDR adds addresses to a cluster that has run out of them.
func TestServiceCIDRs(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, func(c *apiserver.Config) { c.ServiceCIDR = "10.96.0.0/29" })
	admin := newAPI(t, env.Config)
	for i := range 5 { // of 8: not the network, the server's own, and the last
		admin.ok("POST", ns+"services", asJSON, service(fmt.Sprint("s", i), ""))
	}
	if code, text, _ := admin.send("POST", ns+"services", asJSON, service("more", "")); code != 500 || !strings.Contains(text, "range is full") {
		t.Errorf("%d %s", code, text)
	}
	if code, text, _ := admin.send("POST", ns+"services", asJSON, service("more", `,"clusterIP":"10.97.0.9"`)); code != 422 || !strings.Contains(text, "The range of valid IPs is 10.96.0.0/29") {
		t.Errorf("%d %s", code, text)
	}
	admin.ok("POST", "/apis/networking.k8s.io/v1/servicecidrs", asJSON, `{"metadata":{"name":"more"},"spec":{"cidrs":["10.97.0.0/28"]}}`)
	eventually(t, "the new range counts", func() bool {
		code, _, _ := admin.send("POST", ns+"services", asJSON, service("more", `,"clusterIP":"10.97.0.9"`))
		return code == 201
	})
	made := admin.ok("POST", ns+"services", asJSON, service("free", ""))
	if ip := made["spec"].(map[string]any)["clusterIP"].(string); !strings.HasPrefix(ip, "10.97.0.") {
		t.Error(ip)
	}
}

// The kubernetes Service leads to every server that is there, and to no other.
func TestServersShareEndpoints(t *testing.T) {
	t.Parallel()
	env := testenv.New(t, func(c *apiserver.Config) { c.AdvertiseAddress = "192.0.2.1" })
	admin := newAPI(t, env.Config)
	addresses := func() []string {
		var out []string
		slice := admin.ok("GET", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes", "", "")
		for _, endpoint := range slice["endpoints"].([]any) {
			out = append(out, endpoint.(map[string]any)["addresses"].([]any)[0].(string))
		}
		return out
	}
	eventually(t, "one server is there", func() bool { return slices.Equal(addresses(), []string{"192.0.2.1"}) })
	stop := env.AnotherServer(t, func(c *apiserver.Config) { c.AdvertiseAddress = "192.0.2.2" })
	eventually(t, "two servers are there", func() bool { return slices.Equal(addresses(), []string{"192.0.2.1", "192.0.2.2"}) })
	stop()
	eventually(t, "one has withdrawn", func() bool { return slices.Equal(addresses(), []string{"192.0.2.1"}) })
}
