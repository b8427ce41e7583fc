package flannel

import (
	"context"
	"fmt"
	"net/netip"
)

// Commands are what the flanneld of a node would do to a kernel that holds
// nothing yet, in its order, and what it would complain of. wire are the networks
// that the node has a link to.
func Commands(ctx context.Context, conf *NetConf, source FileSource, wire []netip.Prefix) (commands, problems []string, err error) {
	mine, err := source.Mine(ctx, Lease{})
	if err != nil {
		return nil, nil, err
	}
	leases, err := source.read()
	if err != nil {
		return nil, nil, err
	}
	plan, problems := makePlan(conf, mine, leases, wire)
	for _, op := range diff(fmt.Sprintf("flannel.%d", conf.Backend.VNI), newPlan(), plan) {
		commands = append(commands, op.String())
	}
	return commands, problems, nil
}
