package grade

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// addresses judges the host-local of lab 18 as a runtime would use it: an
// environment, a JSON, and what comes back. It needs no namespace, since giving
// out an address touches no kernel.
var addresses = suite{
	programs: []string{"cni"},
	open: func(_ context.Context, b *bench) error {
		return os.Symlink(filepath.Join(b.bin, "cni"), filepath.Join(b.scratch, "host-local"))
	},
	checks: []Check{
		{Name: gives, Points: 2, Hint: "for ip := range set.after(…): reserve, and answer the first that you get",
			run: story("first", small, add("a", "10.1.0.2"))},
		{Name: "two containers have two addresses", Points: 2, Needs: []string{gives}, Hint: "reserve answers false if somebody has the address",
			run: story("two", small, add("a", "10.1.0.2"), add("b", "10.1.0.3"))},
		{Name: "an ADD that is repeated gives the same address, and takes no second one", Points: 2, Needs: []string{gives}, Hint: "owned is what the owner has already",
			run: story("again", small, add("a", "10.1.0.2"), add("a", "10.1.0.2"), add("b", "10.1.0.3"))},
		{Name: "an address that was given back rests", Points: 2, Needs: []string{gives}, Hint: "the search begins behind store.lastReserved(index)",
			run: story("rest", small, add("a", "10.1.0.2"), del("a"), add("b", "10.1.0.3"))},
		{Name: "after the last comes the first that is free", Points: 1, Needs: []string{gives}, Hint: "set.after goes once around",
			run: story("around", small, add("a", "10.1.0.2"), add("b", "10.1.0.3"), add("c", "10.1.0.4"), add("d", "10.1.0.5"), add("e", "10.1.0.6"), del("b"), add("f", "10.1.0.3"))},
		{Name: "when nothing is left, it says so, and keeps nothing", Points: 2, Needs: []string{gives}, Hint: "an error after the loop; not an address that somebody has",
			run: story("full", small, add("a", "10.1.0.2"), add("b", "10.1.0.3"), add("c", "10.1.0.4"), add("d", "10.1.0.5"), add("e", "10.1.0.6"), refused("f", "no IP addresses available"), del("c"), add("f", "10.1.0.4"))},
		{Name: wishes, Points: 2, Needs: []string{gives}, Hint: "wanted, before the search",
			run: story("wish", small, wish("a", "10.1.0.5", "10.1.0.5"))},
		{Name: "a wish for what somebody has is refused", Points: 1, Needs: []string{wishes}, Hint: "not another address instead: who asks for one has a reason",
			run: story("taken", small, wish("a", "10.1.0.5", "10.1.0.5"), wishRefused("b", "10.1.0.5", "is not available"), add("c", "10.1.0.6"))},
		{Name: "a wish for the gateway's is refused", Points: 1, Needs: []string{wishes}, Hint: "set.rangeOf(ip).gateway",
			run: story("gateway", small, add("b", "10.1.0.2"), wishRefused("a", "10.1.0.1", "gateway"))},
		{Name: "of two ranges each gives one, and a wish is about its own", Points: 1, Needs: []string{wishes}, Hint: "owned and wanted may hold addresses of the other range: set.contains",
			run: story("both", double, wish("a", "fd00::9", "10.1.0.2 fd00::9"), add("a", "10.1.0.2 fd00::9"), add("b", "10.1.0.3 fd00::a"))},
	},
}

const (
	gives  = "a container gets an address"
	wishes = "who wishes for an address gets it"

	small  = `[[{"subnet": "10.1.0.0/29"}]]` // .1 is the gateway's, .2 to .6 are to be had
	double = `[[{"subnet": "10.1.0.0/29"}], [{"subnet": "fd00::/64"}]]`
)

// act is one call of the plugin; want is its addresses or, after "!", a part of
// its error.
type act struct{ verb, container, wish, want string }

func add(container, want string) act        { return act{"ADD", container, "", want} }
func del(container string) act              { return act{"DEL", container, "", ""} }
func refused(container, why string) act     { return act{"ADD", container, "", "!" + why} }
func wish(container, wish, want string) act { return act{"ADD", container, wish, want} }
func wishRefused(container, wish, why string) act {
	return act{"ADD", container, wish, "!" + why}
}

// story is a network's life, in a folder of its own.
func story(network, ranges string, acts ...act) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		told := ""
		for _, a := range acts {
			out, err := b.hostLocal(ctx, network, ranges, a)
			told += fmt.Sprintf("%s %s %s → %s\n", a.verb, a.container, a.wish, out)
			if problem, fails := strings.CutPrefix(a.want, "!"); fails && (err == nil || !strings.Contains(out, problem)) || !fails && (err != nil || out != a.want) {
				return fmt.Errorf("the last of these should have been %q:\n%s", a.want, told)
			}
		}
		return nil
	}
}

// hostLocal calls the plugin, and answers its addresses or its error's text.
func (b *bench) hostLocal(ctx context.Context, network, ranges string, a act) (string, error) {
	args := ""
	if a.wish != "" {
		args = fmt.Sprintf(`, "args": {"cni": {"ips": [%q]}}`, a.wish)
	}
	command := exec.CommandContext(ctx, filepath.Join(b.scratch, "host-local"))
	command.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "type": "any", "ipam": {"type": "host-local", "ranges": %s, "dataDir": %q}%s}`,
		network, ranges, filepath.Join(b.scratch, "addresses"), args))
	command.Env = []string{"CNI_COMMAND=" + a.verb, "CNI_CONTAINERID=" + a.container, "CNI_NETNS=/none", "CNI_IFNAME=eth0", "CNI_PATH=" + b.scratch}
	var problems bytes.Buffer
	command.Stderr = &problems
	out, err := command.Output()
	var answer struct {
		IPs          []struct{ Address string }
		Msg, Details string
	}
	if len(out) > 0 && json.Unmarshal(out, &answer) != nil {
		return string(out), fmt.Errorf("no JSON")
	}
	if err != nil {
		return strings.TrimSpace(answer.Msg + " " + answer.Details + firstLines(problems.String())), err
	}
	var ips []string
	for _, ip := range answer.IPs {
		address, _, _ := strings.Cut(ip.Address, "/")
		ips = append(ips, address)
	}
	slices.Sort(ips)
	return strings.Join(ips, " "), nil
}
