package grade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tunnel judges the plan of lab 19 by the commands that flanneld prints for it.
var tunnel = suite{
	programs: []string{"flanneld"},
	open:     func(context.Context, *bench) error { return nil },
	checks: []Check{
		{Name: threeEntries, Points: 3, Hint: "ARP: the subnet's base address → VTEP; FDB: VTEP → PublicIP; route: the subnet → via its base address",
			run: plans(vxlan, "me 10.244.0.0/24 172.30.9.1\nnear 10.244.1.0/24 172.30.9.2", arp(1, 2), fdb(2), via(1))},
		{Name: "a node needs no way to itself", Points: 1, Hint: "mine.Node is among the leases",
			run: plans(vxlan, "me 10.244.0.0/24 172.30.9.1\nnear 10.244.1.0/24 172.30.9.2\nfar 10.244.2.0/24 192.0.2.3", arp(1, 2), "ip neigh replace 10.244.2.0 lladdr 0e:f1:c0:00:02:03 dev flannel.1 nud permanent",
				fdb(2), "bridge fdb replace 0e:f1:c0:00:02:03 dev flannel.1 dst 192.0.2.3 self permanent", via(1), via(2))},
		{Name: "who claims our subnet is left out", Points: 1, Needs: []string{threeEntries}, Hint: "unfit compares with those that are used: ours is one of them, from the beginning",
			run: plans(vxlan, "me 10.244.0.0/24 172.30.9.1\nthief 10.244.0.0/25 172.30.9.2", "# left out: node thief")},
		{Name: "of two who claim one subnet the same one loses on every node", Points: 2, Needs: []string{threeEntries}, Hint: "byNode sorts; and who has been accepted is in use",
			run: plans(vxlan, "me 10.244.0.0/24 172.30.9.1\nz 10.244.1.0/24 172.30.9.3\na 10.244.1.0/24 172.30.9.2", arp(1, 2), fdb(2), via(1), "# left out: node z")},
		{Name: "a subnet that is written with host bits is still found by its base address", Points: 1, Needs: []string{threeEntries}, Hint: "l.Subnet.Masked()",
			run: plans(vxlan, "me 10.244.0.0/24 172.30.9.1\nnear 10.244.1.1/24 172.30.9.2", arp(1, 2), fdb(2), via(1))},
		{Name: "DirectRouting: a neighbour gets a plain route, the others the tunnel", Points: 2, Needs: []string{threeEntries}, Hint: "isLocal(local, l.PublicIP): Route{Via: l.PublicIP, Direct: true}, and nothing else",
			run: plans(direct, "me 10.244.0.0/24 172.30.9.1\nfar 10.244.1.0/24 192.0.2.3\nnear 10.244.2.0/24 172.30.9.2", "ip neigh replace 10.244.1.0 lladdr 0e:f1:c0:00:02:03 dev flannel.1 nud permanent",
				"bridge fdb replace 0e:f1:c0:00:02:03 dev flannel.1 dst 192.0.2.3 self permanent", via(1), "ip route replace 10.244.2.0/24 via 172.30.9.2")},
		{Name: "host-gw: one route to a neighbour, and a complaint about who is none", Points: 2, Needs: []string{threeEntries}, Hint: "there is no tunnel to fall back to: problems",
			run: plans(hostGW, "me 10.244.0.0/24 172.30.9.1\nfar 10.244.1.0/24 192.0.2.3\nnear 10.244.2.0/24 172.30.9.2", "ip route replace 10.244.2.0/24 via 172.30.9.2", "# left out: node far")},
	},
}

const (
	threeEntries = "vxlan: three entries for another node"

	vxlan  = `{"Type": "vxlan"}`
	direct = `{"Type": "vxlan", "DirectRouting": true}`
	hostGW = `{"Type": "host-gw"}`
)

// What is expected for node 172.30.9.N with subnet 10.244.S.0/24.
func arp(s, n int) string {
	return fmt.Sprintf("ip neigh replace 10.244.%d.0 lladdr 0e:f1:ac:1e:09:%02x dev flannel.1 nud permanent", s, n)
}
func fdb(n int) string {
	return fmt.Sprintf("bridge fdb replace 0e:f1:ac:1e:09:%02x dev flannel.1 dst 172.30.9.%[1]d self permanent", n)
}
func via(s int) string {
	return fmt.Sprintf("ip route replace 10.244.%d.0/24 via 10.244.%[1]d.0 dev flannel.1 onlink", s)
}

// plans compares what is printed, line by line; a complaint only by its beginning.
func plans(backend, nodes string, want ...string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		config, file := filepath.Join(b.scratch, "net-conf.json"), filepath.Join(b.scratch, "nodes")
		for path, text := range map[string]string{config: `{"Network": "10.244.0.0/16", "Backend": ` + backend + `}`, file: nodes} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return err
			}
		}
		out, err := exec.CommandContext(ctx, filepath.Join(b.bin, "flanneld"), "plan", "--net-config-path", config,
			"--node-file", file, "--node-name", "me", "--wire", "172.30.9.0/24").CombinedOutput()
		if err != nil {
			return fmt.Errorf("flanneld plan: %w:\n%s", err, firstLines(string(out)))
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if !slices.EqualFunc(lines, want, func(line, want string) bool {
			return line == want || strings.HasPrefix(want, "#") && strings.HasPrefix(line, want)
		}) {
			return fmt.Errorf("for these nodes:\n%s\nthe plan should be\n%s\nand is\n%s", nodes, strings.Join(want, "\n"), out)
		}
		return nil
	}
}
