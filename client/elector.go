package client

import (
	"context"
	"errors"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ElectionConfig names the Lease and the times of an election. The zero times
// mean upstream's defaults: 15 s, 10 s, 2 s.
type ElectionConfig struct {
	Namespace, Name string // of the Lease
	Identity        string // unique among the replicas
	LeaseDuration   time.Duration
	RenewDeadline   time.Duration
	RetryPeriod     time.Duration
	Logger          *slog.Logger
}

// Elector lets at most one of several replicas lead at a time: the one whose
// name is in a Lease that it renews.
//
// Another's lease counts as expired when we have seen no change of it for its
// whole duration by our own clock, so clocks need not agree. A leader that was
// paused may still believe in itself for a moment; so leading is never a
// licence to write blindly: every write carries a resourceVersion.
type Elector struct {
	config ElectionConfig
	leases *Resource[*coordinationv1.Lease]

	// Owned by Run.
	observed   string // resourceVersion last seen
	observedAt time.Time
}

// ErrLeadershipLost is what Run returns when the lease could not be renewed.
var ErrLeadershipLost = errors.New("leader election lost")

// NewElector makes an Elector.
func NewElector(c *Client, config ElectionConfig) *Elector {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&config.LeaseDuration, 15*time.Second)
	set(&config.RenewDeadline, 10*time.Second)
	set(&config.RetryPeriod, 2*time.Second)
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return &Elector{config: config, leases: For(c, Leases)}
}

// Run waits for leadership, then runs lead with a context that ends when
// leadership does. It returns lead's error, ErrLeadershipLost, or nil when ctx
// ends. On a regular end the lease is given back, so a successor need not wait.
func (e *Elector) Run(ctx context.Context, lead func(context.Context) error) error {
	log := e.config.Logger.With("lease", e.config.Namespace+"/"+e.config.Name)
	log.Info("waiting to become leader", "identity", e.config.Identity)
	for !e.try(ctx, log) {
		if !pause(ctx, e.config.RetryPeriod) {
			return nil
		}
	}
	log.Info("became leader", "identity", e.config.Identity)

	leading, stop := context.WithCancel(ctx)
	defer stop()
	result := make(chan error, 1)
	go func() { result <- lead(leading) }()

	renewed := time.Now()
	for {
		select {
		case err := <-result:
			e.release(ctx)
			return err
		case <-time.After(e.config.RetryPeriod):
		}
		// No attempt may last beyond the deadline: others count from our last
		// renewal, whatever we are waiting for.
		began := time.Now()
		attempt, cancel := context.WithDeadline(ctx, renewed.Add(e.config.RenewDeadline))
		ok := e.try(attempt, log)
		cancel()
		if ok {
			renewed = began
		} else if ctx.Err() == nil && time.Since(renewed) >= e.config.RenewDeadline {
			stop()
			<-result
			return ErrLeadershipLost
		}
	}
}

// try takes or renews the lease; false means somebody else has it, or we could
// not ask.
func (e *Elector) try(ctx context.Context, log *slog.Logger) bool {
	ctx, cancel := context.WithTimeout(ctx, e.config.RenewDeadline)
	defer cancel()
	lease, err := e.leases.Get(ctx, e.config.Namespace, e.config.Name)
	if apierrors.IsNotFound(err) {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: e.config.Namespace, Name: e.config.Name}}
		e.claim(lease)
		_, err = e.leases.Create(ctx, lease)
		return err == nil
	}
	if err != nil {
		log.Warn("cannot read the lease", "err", err)
		return false
	}
	if lease.ResourceVersion != e.observed {
		e.observed, e.observedAt = lease.ResourceVersion, time.Now()
	}
	if holder := lease.Spec.HolderIdentity; holder != nil && *holder != "" && *holder != e.config.Identity {
		duration := e.config.LeaseDuration
		if lease.Spec.LeaseDurationSeconds != nil {
			duration = time.Duration(*lease.Spec.LeaseDurationSeconds) * time.Second
		}
		if time.Since(e.observedAt) < duration {
			return false
		}
	}
	e.claim(lease)
	// The resourceVersion makes this a compare-and-swap: of two candidates that
	// see the same expired lease, one wins.
	if lease, err = e.leases.Update(ctx, lease); err != nil {
		return false
	}
	e.observed, e.observedAt = lease.ResourceVersion, time.Now()
	return true
}

func (e *Elector) claim(lease *coordinationv1.Lease) {
	now := metav1.NowMicro()
	seconds := int32(e.config.LeaseDuration.Seconds())
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != e.config.Identity {
		transitions := int32(0)
		if lease.Spec.LeaseTransitions != nil {
			transitions = *lease.Spec.LeaseTransitions + 1
		}
		lease.Spec.LeaseTransitions, lease.Spec.AcquireTime = &transitions, &now
	}
	identity := e.config.Identity
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &identity, &seconds, &now
}

// release empties the lease, if it is still ours.
func (e *Elector) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.config.RetryPeriod)
	defer cancel()
	lease, err := e.leases.Get(ctx, e.config.Namespace, e.config.Name)
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != e.config.Identity {
		return
	}
	nobody, second := "", int32(1)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds = &nobody, &second
	_, _ = e.leases.Update(ctx, lease) // at worst the successor waits
}

// pause waits for d; false means ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
