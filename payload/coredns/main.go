// Command coredns is CoreDNS with the plugins a cluster needs and no others.
//
// CoreDNS is its plugins: the server itself only reads a Corefile and calls them in order. Upstream's default build
// carries five dozen, with the client libraries of three clouds among them. This list covers kubeadm's Corefile,
// its sed-templated ancestor and what a cluster's administrator usually adds: stub zones, rewrites, static hosts,
// templates.
//
// The version is the one that kubeadm v1.36 installs; go.mod raises what it shares with our own programs to the same
// versions, so that a cold build compiles client-go once.
//
// Upstream: coredns@v1.14.2 coredns.go, plugin.cfg.
package main

import (
	"slices"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	// A plugin registers itself when imported: CoreDNS has no other way to choose them.
	_ "github.com/coredns/coredns/plugin/acl"
	_ "github.com/coredns/coredns/plugin/any"
	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/debug"
	_ "github.com/coredns/coredns/plugin/dns64"
	_ "github.com/coredns/coredns/plugin/erratic"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/header"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/k8s_external"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/local"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metadata"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/minimal"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/pprof"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/root"
	_ "github.com/coredns/coredns/plugin/template"
	_ "github.com/coredns/coredns/plugin/timeouts"
	_ "github.com/coredns/coredns/plugin/tls"
	_ "github.com/coredns/coredns/plugin/transfer"
	_ "github.com/coredns/coredns/plugin/view"
	_ "github.com/coredns/coredns/plugin/whoami"
)

// leftOut are upstream's directives whose plugins we do not carry. Directives is also the order in which plugins see
// a query, so the upstream list is filtered, never rewritten; a Corefile that names one of these is refused with
// CoreDNS's own "Unknown directive".
var leftOut = []string{
	"geoip", "proxyproto", "quic", "grpc_server", "https", "https3", "multisocket", "trace", "dnstap", "tsig",
	"dnssec", "route53", "azure", "clouddns", "auto", "secondary", "etcd", "grpc", "on", "sign", "nomad",
}

func main() {
	dnsserver.Directives = slices.DeleteFunc(dnsserver.Directives, func(directive string) bool {
		return slices.Contains(leftOut, directive)
	})
	coremain.Run()
}
