package flags

import (
	"errors"
	"time"

	"github.com/spf13/pflag"
)

// LeaderElection holds upstream's --leader-elect family.
type LeaderElection struct {
	Enabled       bool
	LeaseDuration time.Duration
	RenewDeadline time.Duration
	RetryPeriod   time.Duration
	Namespace     string
	Name          string
}

// AddLeaderElection declares the flags with upstream's defaults; name is the
// Lease's, which upstream calls after the component.
//
// Upstream: kubernetes/component-base config/options BindLeaderElectionFlags
func AddLeaderElection(fs *pflag.FlagSet, name string) *LeaderElection {
	l := &LeaderElection{}
	fs.BoolVar(&l.Enabled, "leader-elect", true, "work only while holding the Lease, so that one of several replicas acts")
	fs.DurationVar(&l.LeaseDuration, "leader-elect-lease-duration", 15*time.Second, "how long others wait after the leader's last renewal")
	fs.DurationVar(&l.RenewDeadline, "leader-elect-renew-deadline", 10*time.Second, "how long the leader tries to renew before it gives up")
	fs.DurationVar(&l.RetryPeriod, "leader-elect-retry-period", 2*time.Second, "time between two attempts to take or renew")
	fs.StringVar(&l.Namespace, "leader-elect-resource-namespace", "kube-system", "namespace of the Lease")
	fs.StringVar(&l.Name, "leader-elect-resource-name", name, "name of the Lease")
	fs.Var(&onlyLeases{}, "leader-elect-resource-lock", "kind of the lock; only leases")
	return l
}

// onlyLeases accepts the one lock kind that is left upstream as well.
type onlyLeases struct{}

func (*onlyLeases) String() string { return "leases" }
func (*onlyLeases) Type() string   { return "string" }
func (*onlyLeases) Set(s string) error {
	if s != "leases" {
		return errors.New(`resourceLock value must be "leases"`)
	}
	return nil
}

// jitter is by how much an attempt may come later than RetryPeriod says.
const jitter = 1.2

// CheckElection says what is wrong with three times of an election: whoever
// holds the Lease must have given up before others may take it, and must have
// tried more than once before it gives up.
//
// Upstream: client-go tools/leaderelection NewLeaderElector
func CheckElection(lease, renew, retry time.Duration) error {
	why := ""
	switch {
	case lease <= renew:
		why = "leaseDuration must be greater than renewDeadline"
	case float64(renew) <= jitter*float64(retry):
		why = "renewDeadline must be greater than retryPeriod*JitterFactor"
	case lease < 1:
		why = "leaseDuration must be greater than zero"
	case renew < 1:
		why = "renewDeadline must be greater than zero"
	case retry < 1:
		why = "retryPeriod must be greater than zero"
	default:
		return nil
	}
	return errors.New("couldn't create leader elector: " + why)
}
