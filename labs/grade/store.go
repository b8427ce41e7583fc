package grade

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
)

// store judges the compare-and-swap update of lab 01, by what two API servers
// on one etcd promise whoever writes.
var store = suite{
	programs: []string{"kube-apiserver"},
	open:     func(ctx context.Context, b *bench) error { return b.twoServers(ctx) },
	checks: []Check{
		{
			Name: accepted, Points: 1, run: rightVersion,
			Hint: "swap at current.Revision; what it returns is the new item's revision",
		},
		{
			Name: "a write with an old resourceVersion is refused: 409", Points: 1, Needs: []string{accepted}, run: oldVersion,
			Hint: "try refuses it; once current is certain, that is the answer",
		},
		{
			Name: "a write of what is there already writes nothing", Points: 1, Needs: []string{accepted}, run: nothingToDo,
			Hint: "prepare says whether it is the same",
		},
		{
			Name: "concurrent increments through both servers lose nothing", Points: 2, Needs: []string{accepted}, run: increments,
			Hint: "if swap found something else, begin again from that, with try",
		},
		{
			Name: "a patch that lost the race is made again, of what is there now", Points: 2, Needs: []string{accepted}, run: race("again", appendOnce, accept, "1"),
			Hint: "what try makes of the new object, not what it made of the old one",
		},
		{
			Name: "a server that is behind overwrites nothing it has not seen", Points: 2, Needs: []string{accepted}, run: race("overwrite", writeOld, conflict, "1"),
			Hint: "the revision to compare with is that of the object which try was shown",
		},
		{
			Name: "a server that is behind refuses nothing that is right", Points: 2, Needs: []string{accepted}, run: race("refuse", writeNew, accept, "2"),
			Hint: "when try refuses what came from the cache, show it what etcd has",
		},
		{
			Name: `a server that is behind does not say "nothing to do"`, Points: 2, Needs: []string{accepted}, run: race("back", patchBack, accept, "0"),
			Hint: `"same" counts only if current was read from etcd`,
		},
		{
			Name: "what was deleted meanwhile is gone: 404, and stays gone", Points: 1, Needs: []string{accepted}, run: deletedMeanwhile,
			Hint: "swap that finds nothing: read again, and the read will say NotFound",
		},
		{
			Name: "an answer that never came: an error, and never a second try", Points: 2, Needs: []string{accepted}, run: answerLost,
			Hint: "an error of swap may mean that the write happened: return it",
		},
	},
}

const accepted = "a write with the right resourceVersion is accepted, and the version grows"

// record is a ConfigMap that a check plays with.
type record struct {
	name             string
	straight, behind *client.Resource[*corev1.ConfigMap]
}

const namespace = metav1.NamespaceDefault

// create makes a record that both servers know.
func (b *bench) create(ctx context.Context, name string) (*record, *corev1.ConfigMap, error) {
	r := &record{name: name, straight: client.For(b.straight, client.ConfigMaps), behind: client.For(b.behind, client.ConfigMaps)}
	made, err := r.straight.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Finalizers: []string{"lab.tinykube/first"}}, Data: map[string]string{"n": "0"},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("create: %w", err)
	}
	_, err = r.behind.Get(ctx, namespace, name)
	return r, made, err
}

// with is a copy of an object that says n.
func with(object *corev1.ConfigMap, n string) *corev1.ConfigMap {
	object = object.DeepCopy()
	object.Data = map[string]string{"n": n}
	return object
}

// expect reads a record and compares.
func (r *record) expect(ctx context.Context, n string) (*corev1.ConfigMap, error) {
	found, err := r.straight.Get(ctx, namespace, r.name)
	if err == nil && found.Data["n"] != n {
		err = fmt.Errorf("the object says n=%s, and should say %s", found.Data["n"], n)
	}
	return found, err
}

// whileBehind does first through the server beside etcd, and second through
// the other one while that cannot hear of it; then it lets it hear.
func (b *bench) whileBehind(ctx context.Context, first, second func() error) error {
	b.door.hold()
	defer b.door.release()
	if err := first(); err != nil {
		return fmt.Errorf("the write before: %w", err)
	}
	answer := make(chan error, 1)
	go func() { answer <- second() }() // ends with ctx at the latest
	asked, cancel := context.WithCancel(ctx)
	defer cancel()
	question := make(chan error, 1)
	go func() { question <- b.door.question(asked) }()
	select {
	case err := <-answer: // without asking etcd
		return err
	case err := <-question:
		if err != nil {
			return err
		}
	}
	b.door.release()
	return <-answer
}

func rightVersion(ctx context.Context, b *bench) error {
	r, object, err := b.create(ctx, "right")
	if err != nil {
		return err
	}
	for n := 1; n <= 3; n++ {
		updated, err := r.straight.Update(ctx, with(object, strconv.Itoa(n)))
		if err != nil {
			return err
		}
		before, _ := strconv.ParseInt(object.ResourceVersion, 10, 64)
		after, err := strconv.ParseInt(updated.ResourceVersion, 10, 64)
		if err != nil || after <= before {
			return fmt.Errorf("resourceVersion %q after %q", updated.ResourceVersion, object.ResourceVersion)
		}
		found, err := r.expect(ctx, strconv.Itoa(n))
		if err != nil {
			return err
		}
		if found.ResourceVersion != updated.ResourceVersion {
			return fmt.Errorf("the write was answered with resourceVersion %s, a read says %s", updated.ResourceVersion, found.ResourceVersion)
		}
		object = updated
	}
	return nil
}

func oldVersion(ctx context.Context, b *bench) error {
	r, object, err := b.create(ctx, "old")
	if err != nil {
		return err
	}
	if _, err := r.straight.Update(ctx, with(object, "1")); err != nil {
		return err
	}
	_, err = r.straight.Update(ctx, with(object, "2"))
	if err := conflict(err); err != nil {
		return err
	}
	_, err = r.expect(ctx, "1")
	return err
}

// unexpected says what was answered instead.
func unexpected(err error, wanted string) error {
	if err == nil {
		return errors.New("it was accepted; " + wanted + " would be right")
	}
	return fmt.Errorf("%w; %s would be right", err, wanted)
}

func nothingToDo(ctx context.Context, b *bench) error {
	r, object, err := b.create(ctx, "same")
	if err != nil {
		return err
	}
	written, err := r.straight.Update(ctx, with(object, "1"))
	if err != nil {
		return err
	}
	again, err := r.straight.Update(ctx, with(written, "1"))
	if err != nil {
		return err
	}
	if again.ResourceVersion != written.ResourceVersion {
		return fmt.Errorf("the second write of the same moved the resourceVersion from %s to %s: every watcher was woken for nothing", written.ResourceVersion, again.ResourceVersion)
	}
	return nil
}

func increments(ctx context.Context, b *bench) error {
	r, _, err := b.create(ctx, "counter")
	if err != nil {
		return err
	}
	const writers, each = 4, 15
	group, ctx := errgroup.WithContext(ctx)
	for i := range writers {
		server := r.straight
		if i%2 == 1 {
			server = r.behind
		}
		group.Go(func() error {
			for done := 0; done < each; {
				object, err := server.Get(ctx, namespace, r.name)
				if err != nil {
					return err
				}
				n, _ := strconv.Atoi(object.Data["n"])
				_, err = server.Update(ctx, with(object, strconv.Itoa(n+1)))
				if err == nil {
					done++
				} else if !apierrors.IsConflict(err) {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	_, err = r.expect(context.WithoutCancel(ctx), strconv.Itoa(writers*each))
	return err
}

// race lets the server that is behind do something that it would not do if it
// knew that n has become 1. right judges its answer, n is what must be there
// in the end.
func race(name string, second func(ctx context.Context, r *record, old, new *corev1.ConfigMap) error, right func(error) error, n string) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		r, old, err := b.create(ctx, name)
		if err != nil {
			return err
		}
		var new *corev1.ConfigMap
		err = b.whileBehind(ctx,
			func() (err error) { new, err = r.straight.Update(ctx, with(old, "1")); return err },
			func() error { return second(ctx, r, old, new) })
		if err = right(err); err != nil {
			return err
		}
		_, err = r.expect(ctx, n)
		return err
	}
}

func writeOld(ctx context.Context, r *record, old, _ *corev1.ConfigMap) error {
	_, err := r.behind.Update(ctx, with(old, "2"))
	return err
}

func writeNew(ctx context.Context, r *record, _, new *corev1.ConfigMap) error {
	_, err := r.behind.Update(ctx, with(new, "2"))
	return err
}

func patchBack(ctx context.Context, r *record, _, _ *corev1.ConfigMap) error {
	_, err := r.behind.Patch(ctx, namespace, r.name, types.MergePatchType, []byte(`{"data":{"n":"0"}}`))
	return err
}

// appendOnce adds a finalizer, which can be counted.
func appendOnce(ctx context.Context, r *record, _, _ *corev1.ConfigMap) error {
	_, err := r.behind.Patch(ctx, namespace, r.name, types.JSONPatchType, []byte(`[{"op":"add","path":"/metadata/finalizers/-","value":"lab.tinykube/once"}]`))
	if err != nil {
		return err
	}
	return r.finalizers(ctx, 2)
}

func accept(err error) error { return err }

func conflict(err error) error {
	if !apierrors.IsConflict(err) {
		return unexpected(err, "409 Conflict")
	}
	return nil
}

func deletedMeanwhile(ctx context.Context, b *bench) error {
	r, object, err := b.create(ctx, "deleted")
	if err != nil {
		return err
	}
	object = with(object, "1") // so that n=0 is a change
	object.Finalizers = nil
	if _, err := r.straight.Update(ctx, object); err != nil {
		return err
	}
	if _, err := r.behind.Get(ctx, namespace, r.name); err != nil {
		return err
	}
	err = b.whileBehind(ctx,
		func() error { return r.straight.Delete(ctx, namespace, r.name, metav1.DeleteOptions{}) },
		func() error { return patchBack(ctx, r, nil, nil) })
	if !apierrors.IsNotFound(err) {
		return unexpected(err, "404 Not Found")
	}
	if _, err := r.straight.Get(ctx, namespace, r.name); !apierrors.IsNotFound(err) {
		return errors.New("it is there again")
	}
	return nil
}

// answerLost lets etcd commit a write and loses the answer. What was appended
// must then be there once, and nobody may have been told that all went well,
// or that it did not.
func answerLost(ctx context.Context, b *bench) error {
	r, _, err := b.create(ctx, "lost")
	if err != nil {
		return err
	}
	b.door.hold()
	defer b.door.release()
	answer := make(chan error, 1)
	go func() { answer <- appendOnce(ctx, r, nil, nil) }() // ends with ctx at the latest
	if err := r.finalizers(ctx, 2); err != nil {
		return fmt.Errorf("the write did not reach etcd: %w", err)
	}
	b.door.slam()
	if err := <-answer; !apierrors.IsTimeout(err) && !apierrors.IsServerTimeout(err) && !apierrors.IsInternalError(err) {
		return unexpected(err, "504 Timeout (nobody knows what became of the write)")
	}
	if err := r.finalizers(ctx, 2); err != nil {
		return fmt.Errorf("after the answer: %w", err)
	}
	// The server finds etcd again, and takes the next write.
	for {
		if _, err := r.behind.Get(ctx, namespace, r.name); err == nil {
			break
		}
		if err := sleep(ctx); err != nil {
			return errors.New("the server did not find etcd again")
		}
	}
	return r.finalizers(ctx, 2)
}

// finalizers waits until an object has at least n of them; more are too many.
func (r *record) finalizers(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		object, err := r.straight.Get(ctx, namespace, r.name)
		if err == nil && len(object.Finalizers) == n {
			return nil
		}
		if err == nil && len(object.Finalizers) > n {
			return fmt.Errorf("what was to be added once is there %d times", len(object.Finalizers)-1)
		}
		if late := sleep(ctx); late != nil {
			return fmt.Errorf("not within %v (%v)", patience, err)
		}
	}
}

func sleep(ctx context.Context) error {
	timer := time.NewTimer(poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
