package grade

import (
	"context"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"tinykube/proxy"
)

// service judges lab 20 without a kernel: the reader's program renders Services
// to iptables' words, and packets are walked through these by our explain; then
// rules of our own are given to the reader's.
var service = suite{
	programs: []string{"kube-proxy"},
	open:     func(context.Context, *bench) error { return nil },
	checks: []Check{
		{Name: reaches, Points: 2, run: ends("", oneBehind, "10.244.0.9 10.96.0.80:80", "10.244.0.5:8080 sees the client"),
			Hint: "KUBE-SERVICES of table nat leads to the Service's chain, that to the endpoint's, and that one rewrites"},
		{Name: "service: another port of its address is left alone", Points: 1, Needs: []string{reaches}, run: ends("", oneBehind, "10.244.0.9 10.96.0.80:443", "10.96.0.80:443 sees the client"),
			Hint: "p.matchIP has protocol, address and port"},
		{Name: "service: whoever is no pod is masqueraded", Points: 2, Needs: []string{reaches}, run: ends("", oneBehind, "192.0.2.9 10.96.0.80:80", "10.244.0.5:8080 sees the node"),
			Hint: "renderClusterMasquerade; an answer that does not come back through this node cannot be turned round"},
		{Name: "service: without endpoints it refuses", Points: 1, Needs: []string{reaches}, run: ends("", noneBehind, "10.244.0.9 10.96.0.80:80", "refused"),
			Hint: "r.refuse, in KUBE-SERVICES of table filter; and nothing in table nat, or the filter sees another address"},
		{Name: "service: internalTrafficPolicy Local leads to this node's endpoints only", Points: 1, Needs: []string{reaches},
			run:  ends("internalTrafficPolicy: Local", twoBehind, "10.244.0.9 10.96.0.80:80", "10.244.0.5:8080 sees the client"),
			Hint: "chainNames knows which chain the policy wants: internalPolicy"},
		{Name: "service: a NodePort leads there as well", Points: 1, Needs: []string{reaches},
			run:  ends("type: NodePort", oneBehind, "192.0.2.9 172.30.9.1:30080", "10.244.0.5:8080 sees the node"),
			Hint: "renderExternal, if p.IsExternal()"},
		{Name: "service: a load balancer may ask how many endpoints are here", Points: 1, Needs: []string{reaches}, run: healthPort,
			Hint: "-A KUBE-NODEPORTS … --dport 30081 -j ACCEPT in table filter: it is the proxy itself that answers there"},
		{Name: fair, Points: 3, Needs: []string{reaches}, run: fairly,
			Hint: "of n the first is taken with 1/n; who is still there then is divided among n-1; the last takes all that are left"},
		{Name: sticky, Points: 2, Needs: []string{fair}, run: recognises,
			Hint: "a rule per endpoint with the match seen, in the Service's chain and before the lots"},
		{Name: "affinity: each endpoint has a list of its own, and writes down whom it gets", Points: 2, Needs: []string{sticky}, run: remembers,
			Hint: "--set, under the name that --rcheck asks for: that of the endpoint's chain"},
		{Name: "affinity: for as long as the Service says", Points: 1, Needs: []string{sticky}, run: forgets,
			Hint: "--seconds; without it a client is remembered until the list is full"},
		{Name: "affinity: nobody is remembered by a Service that does not ask for it", Points: 1, Needs: []string{fair}, run: indifferent,
			Hint: "p.AffinitySeconds is 0 then"},
		{Name: rewrites, Points: 2, run: explains("-A PREROUTING -d 10.96.0.80 -j DNAT --to-destination 10.244.0.5:8080", "", "delivered to 10.244.0.5:8080, which sees the client's own address"),
			Hint: "w.Destination"},
		{Name: "dnat: the first one wins", Points: 1, Needs: []string{rewrites},
			run:  explains("-A PREROUTING -d 10.96.0.80 -j DNAT --to-destination 10.244.0.5:8080\n-A PREROUTING -p tcp -j DNAT --to-destination 10.244.0.6:8080", "", "delivered to 10.244.0.5:8080"),
			Hint: `the verdict is "accept": table nat has decided`},
		{Name: "dnat: connection tracking knows", Points: 1, Needs: []string{rewrites},
			run:  explains("-A PREROUTING -d 10.96.0.80 -j DNAT --to-destination 10.244.0.5:8080", "-A FORWARD -m conntrack --ctstate DNAT -j DROP", "dropped"),
			Hint: "w.rewritten is what --ctstate DNAT asks"},
		{Name: "dnat: without a port the port stays", Points: 1, Needs: []string{rewrites},
			run:  explains("-A PREROUTING -d 10.96.0.80 -j DNAT --to-destination 10.244.0.5", "", "delivered to 10.244.0.5:80,"),
			Hint: "netip.ParseAddr, and the port that the packet has"},
		{Name: "dnat: what it cannot read does not match, and it says so", Points: 1, Needs: []string{rewrites},
			run:  explains("-A PREROUTING -d 10.96.0.80 -j DNAT --to-destination 10.244.0.5-10.244.0.9", "", "delivered to 10.96.0.80:80", "note: "),
			Hint: "w.notes[…] = true, and no verdict"},
	},
}

const (
	reaches  = "service: a pod that asks the cluster IP gets to the endpoint"
	fair     = "choice: of n endpoints each gets one in n"
	sticky   = "affinity: who was there is recognised, before any lot is drawn"
	rewrites = "dnat: explain rewrites the destination"
)

// Who is behind the Service.
const (
	noneBehind = ""
	oneBehind  = "{addresses: [10.244.0.5], nodeName: node-0}"
	twoBehind  = oneBehind + ", {addresses: [10.244.1.6], nodeName: node-1}"
)

// rendered is what the reader's program writes for a Service.
func (b *bench) rendered(ctx context.Context, spec, endpoints string) (string, error) {
	manifest := fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.80, ports: [{port: 80%s}], %s}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, labels: {kubernetes.io/service-name: web}},
 addressType: IPv4, ports: [{port: 8080}], endpoints: [%s]}
`, map[bool]string{true: ", nodePort: 30080"}[strings.Contains(spec, "type:")], spec, endpoints)
	return b.proxied(ctx, manifest, "render", "--node", "node-0", "--node-ip", "172.30.9.1", "-f")
}

// proxied runs the reader's kube-proxy on a file.
func (b *bench) proxied(ctx context.Context, content string, args ...string) (string, error) {
	file := filepath.Join(b.scratch, "input")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "kube-proxy"), append(args, file)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kube-proxy %s: %w:\n%s", args[0], err, firstLines(string(out)))
	}
	return string(out), nil
}

// ends walks a packet through what is rendered; there must be one end.
func ends(spec, endpoints, packet, want string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		rules, err := b.rendered(ctx, spec, endpoints)
		if err != nil {
			return err
		}
		if got := reached(rules, packet); !slices.Equal(got, []string{want}) {
			return fmt.Errorf("a packet %s should end: %s; it ends: %s\nkube-proxy explain shows the way, with --rules", strings.Replace(packet, " ", " to ", 1), want, strings.Join(got, " or "))
		}
		return nil
	}
}

// reached are all ends of a packet, sorted.
func reached(rules, packet string) []string {
	source, destination, _ := strings.Cut(packet, " ")
	fates, _ := proxy.Explain(proxy.ParseRules("iptables", rules, proxy.IPv4), proxy.Packet{Source: netip.MustParseAddr(source),
		Destination: netip.MustParseAddrPort(destination), Protocol: "tcp"}, []netip.Addr{netip.MustParseAddr("172.30.9.1")})
	ends := map[string]bool{}
	for _, fate := range fates {
		end := fate.Verdict
		if end == "delivered" {
			end = fate.Destination.String() + map[bool]string{true: " sees the node", false: " sees the client"}[fate.Masqueraded]
		}
		ends[end] = true
	}
	return slices.Sorted(maps.Keys(ends))
}

func healthPort(ctx context.Context, b *bench) error {
	rules, err := b.rendered(ctx, "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30081", oneBehind)
	if err == nil && !regexp.MustCompile(`(?m)^-A KUBE-NODEPORTS .*--dport 30081.* -j ACCEPT$`).MatchString(rules) {
		err = fmt.Errorf("nothing in KUBE-NODEPORTS accepts port 30081:\n%s", rules)
	}
	return err
}

var (
	toEndpoint  = regexp.MustCompile(`(?m)^-A (\S+) (.*)-j (KUBE-SEP-\S+)$`)
	probability = regexp.MustCompile(`--probability (\S+)`)
	listName    = regexp.MustCompile(`--name (\S+)`)
	rewriting   = regexp.MustCompile(`(?m)^-A (KUBE-SEP-\S+) (.*)-j DNAT`)
)

// fairly adds up what chance each endpoint has.
func fairly(ctx context.Context, b *bench) error {
	for _, n := range []int{1, 2, 3, 7} {
		var endpoints, want []string
		for i := range n {
			endpoints = append(endpoints, fmt.Sprintf("{addresses: [10.244.0.%d], nodeName: node-0}", 5+i))
			want = append(want, fmt.Sprintf("10.244.0.%d:8080 sees the client", 5+i))
		}
		rules, err := b.rendered(ctx, "", strings.Join(endpoints, ", "))
		if err != nil {
			return err
		}
		slices.Sort(want)
		if got := reached(rules, "10.244.0.99 10.96.0.80:80"); !slices.Equal(got, want) {
			return fmt.Errorf("with %d endpoints a packet ends: %s", n, strings.Join(got, " or "))
		}
		chance, left := map[string]float64{}, 1.0
		for _, rule := range toEndpoint.FindAllStringSubmatch(rules, -1) {
			if strings.Contains(rule[2], "-m recent") {
				continue // about clients that were here; this one is new
			}
			taken := left
			if lot := probability.FindStringSubmatch(rule[2]); lot != nil {
				p, _ := strconv.ParseFloat(lot[1], 64)
				taken *= p
			}
			chance[rule[3]] += taken
			left -= taken
		}
		for chain, p := range chance {
			if math.Abs(p-1/float64(n)) > 1e-6 {
				return fmt.Errorf("with %d endpoints %s gets %.3f of the connections, and should get %.3f", n, chain, p, 1/float64(n))
			}
		}
	}
	return nil
}

const affine = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}"

// memory are the rules that recognise a client, by the chain that they lead to.
func (b *bench) memory(ctx context.Context, spec string) (rules string, seen map[string]string, err error) {
	if rules, err = b.rendered(ctx, spec, twoBehind); err != nil {
		return "", nil, err
	}
	seen, drawn := map[string]string{}, false
	for _, rule := range toEndpoint.FindAllStringSubmatch(rules, -1) {
		asks := strings.Contains(rule[2], "--rcheck") || strings.Contains(rule[2], "--update")
		if asks && drawn {
			return "", nil, fmt.Errorf("a lot is drawn before this rule is asked:\n%s", rule[0])
		}
		if drawn = drawn || !asks; asks {
			seen[rule[3]] = rule[2]
		}
	}
	return rules, seen, nil
}

func recognises(ctx context.Context, b *bench) error {
	rules, seen, err := b.memory(ctx, affine)
	if err == nil && len(seen) != 2 {
		err = fmt.Errorf("of 2 endpoints %d are asked whether the client was there:\n%s", len(seen), rules)
	}
	return err
}

// remembers: what an endpoint writes is what is asked.
func remembers(ctx context.Context, b *bench) error {
	rules, seen, err := b.memory(ctx, affine)
	if err != nil {
		return err
	}
	written := map[string]string{}
	for _, rule := range rewriting.FindAllStringSubmatch(rules, -1) {
		if name := listName.FindStringSubmatch(rule[2]); name != nil && strings.Contains(rule[2], "--set") {
			written[rule[1]] = name[1]
		}
	}
	names := map[string]bool{}
	for chain, rule := range seen {
		name := listName.FindStringSubmatch(rule)
		if name == nil || written[chain] != name[1] {
			return fmt.Errorf("%s is asked for with %q, and writes to the list %q", chain, rule, written[chain])
		}
		names[name[1]] = true
	}
	if len(names) != 2 {
		return fmt.Errorf("2 endpoints have %d lists", len(names))
	}
	return nil
}

func forgets(ctx context.Context, b *bench) error {
	_, seen, err := b.memory(ctx, affine)
	for _, rule := range seen {
		if !strings.Contains(rule, "--seconds 600 ") {
			return fmt.Errorf("600 seconds are asked for: %s", rule)
		}
	}
	return err
}

func indifferent(ctx context.Context, b *bench) error {
	rules, _, err := b.memory(ctx, "sessionAffinity: None")
	if err == nil && strings.Contains(rules, "-m recent") {
		err = fmt.Errorf("somebody is remembered:\n%s", rules)
	}
	return err
}

// explains gives rules to the reader's explain.
func explains(nat, filter string, want ...string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		rules := "*nat\n:PREROUTING ACCEPT [0:0]\n" + nat + "\nCOMMIT\n*filter\n:FORWARD ACCEPT [0:0]\n" + filter + "\nCOMMIT\n"
		out, err := b.proxied(ctx, rules, "explain", "192.0.2.9", "10.96.0.80", "--node-ip", "172.30.9.1", "--rules")
		for _, text := range want {
			if err == nil && !strings.Contains(out, text) {
				err = fmt.Errorf("it should say %q for these rules:\n%s\n%s\nit says:\n%s", text, nat, filter, out)
			}
		}
		return err
	}
}
