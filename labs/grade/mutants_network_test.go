//go:build mutants

package grade

const (
	portFile    = "proxy/rules_port.go"
	explainFile = "proxy/explain.go"
)

// networkMutants are those of the labs about the network.
var networkMutants = []mutant{
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
	{"20", "leaves the last one to chance", portFile, "left := len(endpoints) - i;", "left := len(endpoints) - i + 1;", "one in n"},
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
