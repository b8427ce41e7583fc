package grade

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// queue judges the work queue of lab 05, by what the controller of ReplicaSets
// does with it. A key is a ReplicaSet. It is in the hands of a worker for as
// long as the wire keeps the answer to the creation of its pod.
var queue = suite{
	programs: []string{"kube-controller-manager"},
	open:     withManager("--controllers=replicaset,replicationcontroller"),
	checks: []Check{
		{
			Name: handedOut, Points: 1, run: played("worked", worked),
			Hint: "Add puts a key into order and wakes somebody; Get takes the first one",
		},
		{
			Name: "while one key is in somebody's hands, others are handed out", Points: 1, Needs: []string{handedOut}, run: others,
			Hint: "Get waits only while order is empty",
		},
		{
			Name: "one key is never in two hands", Points: 3, Needs: []string{handedOut}, run: twoHands,
			Hint: "who adds a key that is processing makes it dirty, and leaves it to Done to put it into order",
		},
		{
			Name: "a key that is added while it is worked on is worked on once more", Points: 3, Needs: []string{handedOut}, run: played("more", onceMore),
			Hint: "Done looks whether the key became dirty meanwhile",
		},
		{
			Name: "a key that is added a hundred times while it waits is worked on once", Points: 2, Needs: []string{handedOut}, run: played("waits", deduped),
			Hint: "a dirty key is in order already, or will be",
		},
		{
			Name: "the first that came is the first that goes", Points: 1, Needs: []string{handedOut}, run: inOrder,
			Hint: "take from the front what was put to the end",
		},
		{
			Name: "at the end the workers go home", Points: 1, run: goHome,
			Hint: "closed and nothing in order: Get returns false",
		},
	},
}

const (
	handedOut = "a key that was added is handed out"
	// replicaSetWorkers is how many keys the controller works on at a time.
	replicaSetWorkers = 5
)

// held makes a ReplicaSet of one pod, whose key is then in a worker's hands
// until the wire lets go of the answer.
func (b *bench) held(ctx context.Context, name string) (*play, error) {
	p, err := b.play(ctx, name)
	if err != nil {
		return nil, err
	}
	b.wire.hold(p.made())
	if err := p.wants(ctx, 1); err != nil {
		return nil, err
	}
	return p, b.awaits(ctx, p.made(), 1)
}

func worked(ctx context.Context, p *play) error {
	if err := p.wants(ctx, 2); err != nil {
		return err
	}
	return p.awaits(ctx, p.made(), 2)
}

func others(ctx context.Context, b *bench) error {
	p, err := b.held(ctx, "held")
	if err != nil {
		return err
	}
	defer b.wire.release(p.made())
	other, err := b.play(ctx, "other")
	if err != nil {
		return err
	}
	if err := other.wants(ctx, 2); err != nil {
		return err
	}
	return b.awaits(ctx, other.made(), 2)
}

func twoHands(ctx context.Context, b *bench) error {
	p, err := b.held(ctx, "hands")
	if err != nil {
		return err
	}
	defer b.wire.release(p.made())
	if err := p.wants(ctx, 3); err != nil {
		return err
	}
	// Whoever comes later has been served: the key would have been handed out.
	for _, name := range []string{"later", "latest"} {
		later, err := b.play(ctx, name)
		if err != nil {
			return err
		}
		if err := later.scaled(ctx, 1, 1, 0); err != nil {
			return fmt.Errorf("another ReplicaSet: %w", err)
		}
	}
	if made := len(b.wire.wrote(p.made())); made != 1 {
		return fmt.Errorf("while one worker waits for the answer to its first pod, another one has made %d for the same ReplicaSet", made-1)
	}
	b.wire.release(p.made())
	return p.scaled(ctx, 3, 3, 0)
}

// onceMore lets something happen while the key is worked on, and then has
// watches be silent, so that nobody adds the key again.
func onceMore(ctx context.Context, p *play) error {
	if err := p.scaled(ctx, 2, 2, 0); err != nil {
		return err
	}
	pods, err := p.alive(ctx)
	if err != nil {
		return err
	}
	p.wire.hold(p.made())
	defer p.wire.release(p.made())
	if err := p.wants(ctx, 3); err != nil {
		return err
	}
	if err := p.awaits(ctx, p.made(), 3); err != nil {
		return err
	}
	if err := p.pods.Delete(ctx, p.name, pods[0].Name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	if err := p.heard(ctx); err != nil {
		return err
	}
	p.wire.freeze()
	defer p.wire.thaw()
	p.wire.release(p.made())
	if err := p.awaits(ctx, p.made(), 4); err != nil {
		return fmt.Errorf("a pod was deleted while a worker had the key, and nobody has looked again: %w", err)
	}
	return nil
}

// deduped takes all workers away, changes what waits a hundred times, and
// counts how often it is then looked at.
func deduped(ctx context.Context, p *play) error {
	if err := p.scaled(ctx, 1, 1, 0); err != nil {
		return err
	}
	pods, err := p.alive(ctx)
	if err != nil {
		return err
	}
	release, err := p.busy(ctx, "busy")
	if err != nil {
		return err
	}
	defer release()
	for i := range 100 {
		if _, err := p.pods.Patch(ctx, p.name, pods[0].Name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"n":"%d"}}}`, i)); err != nil {
			return err
		}
	}
	if err := p.heard(ctx); err != nil {
		return err
	}
	before, err := p.scrape(ctx)
	if err != nil {
		return err
	}
	release()
	if err := p.looked(ctx, 1); err != nil { // whatever was added before has been handed out before
		return err
	}
	after, err := p.scrape(ctx)
	if err != nil {
		return err
	}
	if after-before > 50 {
		return fmt.Errorf("a hundred changes of one ReplicaSet's pod, while no worker was free: then ReplicaSets were looked at %d times", after-before)
	}
	return nil
}

// busy gives every worker a key that it cannot finish before release.
func (b *bench) busy(ctx context.Context, prefix string) (release func(), err error) {
	var kept []string
	release = func() { b.wire.release(kept...) }
	for i := range replicaSetWorkers {
		p, err := b.held(ctx, fmt.Sprintf("%s-%d", prefix, i))
		if err != nil {
			release()
			return nil, err
		}
		kept = append(kept, p.made())
	}
	return release, nil
}

// inOrder lets three keys wait for one worker, who can finish none of them
// before it is told to.
func inOrder(ctx context.Context, b *bench) error {
	release, err := b.busy(ctx, "queue")
	if err != nil {
		return err
	}
	defer release()
	var order []string
	for _, name := range []string{"first", "second", "third"} {
		p, err := b.play(ctx, name)
		if err != nil {
			return err
		}
		b.wire.hold(p.made())
		defer b.wire.release(p.made())
		if err := p.wants(ctx, 1); err != nil {
			return err
		}
		order = append(order, p.made())
	}
	next := "POST queue-0/pods"
	for i, made := range order {
		b.wire.release(next)
		if err := b.awaits(ctx, made, 1); err != nil {
			return fmt.Errorf("the one that came as number %d: %w", i+1, err)
		}
		for _, later := range order[i+1:] {
			if len(b.wire.wrote(later)) > 0 {
				return fmt.Errorf("%s before %s, who came first", strings.Fields(later)[1], strings.Fields(made)[1])
			}
		}
		next = made
	}
	return nil
}

func goHome(ctx context.Context, b *bench) error {
	select {
	case <-b.manager.ended:
		return b.until(ctx, func() error { return errors.New("the manager has ended before") })
	default:
	}
	if err := b.manager.command.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-b.manager.ended:
	case <-time.After(patience):
		return fmt.Errorf("%v after SIGTERM the program still runs", patience)
	}
	if b.manager.err != nil {
		return fmt.Errorf("it ended with: %w\n%s", b.manager.err, said(b.manager.dir))
	}
	return nil
}
