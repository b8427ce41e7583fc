package grade

const (
	portFile    = "proxy/rules_port.go"
	explainFile = "proxy/explain.go"
	hostLocal   = "cni/hostlocal.go"
	tunnelFile  = "flannel/plan.go"
)

// networkMutants are those of the labs about the network.
var networkMutants = []mutant{
	{"18", "never finds one", hostLocal, "if ok || err != nil {\n\t\t\treturn ip, err", "if ok && false || err != nil {\n\t\t\treturn ip, err", "gets an address"},
	{"18", "takes the first, whoever has it", hostLocal, "for ip := range set.after(store.lastReserved(index)) {\n\t\tok, err := store.reserve(owner, index, ip)\n\t\tif ok ||",
		"for ip := range set.after(netip.Addr{}) {\n\t\t_, err := store.reserve(owner, index, ip)\n\t\tif true ||", "two addresses"},
	{"18", "forgets who has one already", hostLocal, "for _, ip := range owned {\n\t\tif set", "for _, ip := range owned[:0] {\n\t\tif set", "repeated"},
	{"18", "begins with the first every time", hostLocal, "set.after(store.lastReserved(index))", "set.after(netip.Addr{})", "rests"},
	{"18", "does not go around", hostLocal, "\t\tok, err := store.reserve(owner, index, ip)\n\t\tif ok",
		"\t\tif ip.Less(store.lastReserved(index)) {\n\t\t\tbreak\n\t\t}\n\t\tok, err := store.reserve(owner, index, ip)\n\t\tif ok", "comes the first"},
	{"18", "says nothing when nothing is left", hostLocal, "return netip.Addr{}, fmt.Errorf(\"no IP addresses available in range set: %s\", set)", "return set[0].first, nil", "says so"},
	{"18", "does not listen to wishes", hostLocal, "for _, ip := range wanted {\n\t\tif !set", "for _, ip := range wanted[:0] {\n\t\tif !set", "wishes"},
	{"18", "gives another one for a wish that is taken", hostLocal,
		"err = fmt.Errorf(\"requested IP address %s is not available in range set %s\", ip, set)", "break", "is refused"},
	{"18", "gives the gateway's away", hostLocal, "if set.rangeOf(ip).gateway == ip {", "if false {", "the gateway's"},
	{"18", "takes one of another range for its own", hostLocal, "\t\tif set.contains(ip) {\n\t\t\treturn ip, nil", "\t\tif true {\n\t\t\treturn ip, nil", "two ranges"},

	{"19", "forgets the FDB", tunnelFile, "\t\tplan.FDB[l.VTEP] = l.PublicIP\n", "", "three entries"},
	{"19", "leads the route to the node", tunnelFile, "Route{Via: subnet.Addr()}", "Route{Via: l.PublicIP}", "three entries"},
	{"19", "leads to itself", tunnelFile, "if l.Node == mine.Node {", "if false {", "itself"},
	{"19", "gives its own subnet away", tunnelFile, "used := []Lease{mine}", "used := []Lease{}", "our subnet"},
	{"19", "takes whoever comes first", tunnelFile, "byNode(slices.Clone(leases))", "slices.Clone(leases)", "every node"},
	{"19", "lets the last one win", tunnelFile, "\t\tused = append(used, l)\n", "", "every node"},
	{"19", "keeps the host bits", tunnelFile, "subnet := l.Subnet.Masked()", "subnet := l.Subnet", "host bits"},
	{"19", "knows no direct way", tunnelFile, "conf.Backend.Type == hostGWBackend || conf.Backend.DirectRouting", "conf.Backend.Type == hostGWBackend", "DirectRouting"},
	{"19", "always goes directly", tunnelFile, "conf.Backend.Type == hostGWBackend || conf.Backend.DirectRouting", "true", "three entries"},
	{"19", "sends host-gw through a tunnel that is not there", tunnelFile,
		"\t\t\tif conf.Backend.Type == hostGWBackend {\n", "\t\t\tif false {\n", "host-gw"},

	{"20", "forgets the endpoints", portFile, "\tr.renderEndpoints(p, names)\n}", "}", "gets to the endpoint"},
	{"20", "matches any port", portFile,
		`p.matchIP(p.ClusterIP), "-j", names.internalPolicy)`, `"-d", p.ClusterIP.String(), "-j", names.internalPolicy)`, "another port"},
	{"20", "forgets who is no pod", portFile, "\t\tr.renderClusterMasquerade(p, names)\n", "", "no pod is masqueraded"},
	{"20", "refuses nobody", portFile, "\t\tr.refuse(p, servicesChain, p.matchIP(p.ClusterIP))\n", "", "it refuses"},
	{"20", "leads everywhere, whatever the policy", portFile,
		`p.matchIP(p.ClusterIP), "-j", names.internalPolicy)`, `p.matchIP(p.ClusterIP), "-j", names.cluster)`, "this node's endpoints"},
	{"20", "knows no way in from outside", portFile, "if p.IsExternal() {\n\t\tr.renderExternal", "if false {\n\t\tr.renderExternal", "NodePort"},
	{"20", "forgets the health check", portFile, "if p.HealthCheckNodePort != 0 {", "if false {", "how many endpoints"},
	{"20", "draws with the same chance every time", portFile, "1/float64(left)", "1/float64(len(endpoints))", "one in n"},
	{"20", "leaves the last one to chance", portFile, "left := len(endpoints) - i;", "left := len(endpoints) - i + 1;", "gets to the endpoint"},
	{"20", "does not ask who was there", portFile, "if p.AffinitySeconds > 0 {\n\t\tfor _, e", "if false {\n\t\tfor _, e", "is recognised"},
	{"20", "asks always", portFile, "if p.AffinitySeconds > 0 {\n\t\tfor _, e", "if true {\n\t\tfor _, e", "does not ask for it"},
	{"20", "never writes down", portFile, `"-m recent --name " + chain + " --set"`, `""`, "writes down"},
	{"20", "has one list for all", portFile,
		"func affinityMatch(chain string, seconds int) (seen, remember string) {", "func affinityMatch(chain string, seconds int) (seen, remember string) {\n\tchain = \"kube\"", "list of its own"},
	{"20", "never forgets", portFile, `--rcheck --seconds %d --reap", chain, seconds)`, `--rcheck", chain)`, "as long as"},
	{"20", "rewrites nothing", explainFile, "w.Destination, w.rewritten = address, true", "w.rewritten = true", "rewrites the destination"},
	{"20", "goes on after a DNAT", explainFile, `return "accept", fmt.Sprintf("the destination becomes`, `return "next", fmt.Sprintf("the destination becomes`, "first one wins"},
	{"20", "tells connection tracking nothing", explainFile, "w.Destination, w.rewritten = address, true", "w.Destination = address", "tracking knows"},
	{"20", "loses the port", explainFile, "netip.AddrPortFrom(ip, w.Destination.Port())", "netip.AddrPortFrom(ip, 0)", "port stays"},
	{"20", "keeps to itself what it cannot read", explainFile, "\t\t\tw.notes[fmt.Sprintf(\"not understood: DNAT to %q\", to)] = true\n", "", "it says so"},
}
