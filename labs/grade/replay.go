package grade

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"tinykube/client"
)

// replay judges lab 04: a watch from a resourceVersion, as whoever watches
// sees it.
var replay = suite{
	programs: []string{"kube-apiserver"},
	open:     func(ctx context.Context, b *bench) error { return b.withLateServer(ctx) },
	checks: []Check{
		{
			Name: replayed, Points: 2, run: replayPast,
			Hint: "search for the first change after the revision; put its number into pending, and ring",
		},
		{
			Name: "what has been seen is not told again, and what comes is told once", Points: 1, Needs: []string{replayed}, run: replayFromNow,
			Hint: "nothing newer than the revision yet: pending stays idle, and the next change will ring",
		},
		{
			Name: "a deletion that was missed is told, with the last state", Points: 1, Needs: []string{replayed}, run: replayDeletion,
			Hint: "the replay is made of changes, not of objects that are there",
		},
		{
			Name: "ten watchers that begin while others write miss nothing and see nothing twice", Points: 3, Needs: []string{replayed}, run: replayUnderWay,
			Hint: "looking into the history and registering are one step, under one lock",
		},
		{
			Name: "a watch that begins with what is there goes on with what comes", Points: 2, run: replayInitial,
			Hint: "Initial and InitialRevision are of one moment; what is in them is not in the history too",
		},
		{
			Name: "a server that has just started: list, and watch from there", Points: 1, Needs: []string{replayed}, run: replayFresh,
			Hint: "everything above floor is known; a watch from floor itself wants just that",
		},
		{
			Name: "a server that was not there then says so: 410 Expired", Points: 2, Needs: []string{replayed}, run: replayExpired,
			Hint: "silence would be a gap that nobody notices",
		},
	},
}

const replayed = "a watch from a resourceVersion begins with what happened since"

// told is an event as it is compared: what happened to whom, and when.
type told struct {
	kind    apiwatch.EventType
	name    string
	version string
}

func (t told) String() string { return fmt.Sprintf("%s %s at %s", t.kind, t.name, t.version) }

// withLateServer starts a server, lets something happen, and starts a second
// one, which was not there then.
func (b *bench) withLateServer(ctx context.Context) error {
	if err := b.oneServer(ctx); err != nil {
		return err
	}
	s, err := b.stage(ctx, "before")
	if err != nil {
		return err
	}
	if b.before, err = s.writes(ctx, "first", "second"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	b.behind, _, err = b.apiserver(ctx, "late", b.etcd.Endpoint)
	return err
}

// stage is a namespace of configmaps that one check has for itself.
type stage struct {
	namespace string
	maps      *client.Resource[*corev1.ConfigMap]
}

// configMaps is a watch of configmaps.
type configMaps = client.Watch[*corev1.ConfigMap]

func (b *bench) stage(ctx context.Context, name string) (*stage, error) {
	_, err := client.For(b.straight, client.Namespaces).Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	return &stage{name, client.For(b.straight, client.ConfigMaps)}, err
}

// write makes a configmap and returns the event that it should cause.
func (s *stage) write(ctx context.Context, name string) (told, error) {
	made, err := s.maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name}})
	if err != nil {
		return told{}, fmt.Errorf("create: %w", err)
	}
	return told{apiwatch.Added, name, made.ResourceVersion}, nil
}

// writes makes several, one after the other.
func (s *stage) writes(ctx context.Context, names ...string) ([]told, error) {
	var all []told
	for _, name := range names {
		event, err := s.write(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, event)
	}
	return all, nil
}

// next is the next event of a watch.
func next(ctx context.Context, w *configMaps) (told, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case event, open := <-w.Events:
		switch {
		case !open:
			return told{}, fmt.Errorf("the watch ended: %v", w.Err())
		case event.Status != nil:
			return told{}, fmt.Errorf("the watch ended with %d %s: %s", event.Status.Code, event.Status.Reason, event.Status.Message)
		}
		return told{event.Type, event.Object.Name, event.Object.ResourceVersion}, nil
	case <-timer.C:
		return told{}, fmt.Errorf("no event within %v", patience)
	case <-ctx.Done():
		return told{}, ctx.Err()
	}
}

// hear expects events of a watch, in this order.
func hear(ctx context.Context, w *configMaps, want ...told) error {
	for i, expected := range want {
		got, err := next(ctx, w)
		if err != nil {
			return fmt.Errorf("event %d should be %v: %w", i+1, expected, err)
		}
		if got != expected {
			return fmt.Errorf("event %d should be %v, and is %v", i+1, expected, got)
		}
	}
	return nil
}

// since watches through a server from a resourceVersion on.
func (s *stage) since(ctx context.Context, server *client.Client, version string) (*configMaps, error) {
	return client.For(server, client.ConfigMaps).Watch(ctx, s.namespace, metav1.ListOptions{ResourceVersion: version})
}

func replayPast(ctx context.Context, b *bench) error {
	s, err := b.stage(ctx, "past")
	if err != nil {
		return err
	}
	events, err := s.writes(ctx, "a", "b", "c", "d")
	if err != nil {
		return err
	}
	for i, seen := range events[:3] {
		w, err := s.since(ctx, b.straight, seen.version)
		if err != nil {
			return err
		}
		err = hear(ctx, w, events[i+1:]...)
		w.Stop()
		if err != nil {
			return fmt.Errorf("a watch from %s (%v): %w", seen.version, seen, err)
		}
	}
	return nil
}

func replayFromNow(ctx context.Context, b *bench) error {
	s, err := b.stage(ctx, "now")
	if err != nil {
		return err
	}
	events, err := s.writes(ctx, "a", "b")
	if err != nil {
		return err
	}
	w, err := s.since(ctx, b.straight, events[1].version)
	if err != nil {
		return err
	}
	defer w.Stop()
	more, err := s.writes(ctx, "c", "d")
	if err != nil {
		return err
	}
	return hear(ctx, w, more...)
}

func replayDeletion(ctx context.Context, b *bench) error {
	s, err := b.stage(ctx, "deletion")
	if err != nil {
		return err
	}
	events, err := s.writes(ctx, "a", "b")
	if err != nil {
		return err
	}
	if err := s.maps.Delete(ctx, s.namespace, "a", metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	w, err := s.since(ctx, b.straight, events[0].version)
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := hear(ctx, w, events[1]); err != nil {
		return err
	}
	gone, err := next(ctx, w)
	if err != nil {
		return err
	}
	if gone.kind != apiwatch.Deleted || gone.name != "a" || !newer(gone.version, events[1].version) {
		return fmt.Errorf("the last event is %v; want DELETED a at more than %s", gone, events[1].version)
	}
	return nil
}

// newer compares resourceVersions, which are numbers.
func newer(a, b string) bool {
	x, err := strconv.ParseInt(a, 10, 64)
	y, otherErr := strconv.ParseInt(b, 10, 64)
	return err == nil && otherErr == nil && x > y
}

// replayUnderWay opens watches from revisions of a moment ago, again and again
// while a writer writes; each must hear all that came after.
func replayUnderWay(ctx context.Context, b *bench) error {
	s, err := b.stage(ctx, "way")
	if err != nil {
		return err
	}
	const watchers, each = 10, 12
	written := make(chan told, watchers*each) // every each-th one starts a watcher
	var events []told
	group, ctx := errgroup.WithContext(ctx)
	done := make(chan struct{}) // events is complete
	group.Go(func() error {
		defer close(written)
		for i := range watchers * each {
			event, err := s.write(ctx, fmt.Sprintf("n-%03d", i))
			if err != nil {
				return err
			}
			if events = append(events, event); i%each == 0 {
				written <- event
			}
		}
		close(done)
		return nil
	})
	group.Go(func() error {
		for event := range written {
			group.Go(func() error { return s.hearsRest(ctx, b, event, done, &events) })
		}
		return nil
	})
	return group.Wait()
}

// hearsRest watches from an event on, and compares with what was written after
// it once all is written.
func (s *stage) hearsRest(ctx context.Context, b *bench, from told, done <-chan struct{}, events *[]told) error {
	w, err := s.since(ctx, b.straight, from.version)
	if err != nil {
		return err
	}
	defer w.Stop()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := hear(ctx, w, (*events)[slices.Index(*events, from)+1:]...); err != nil {
		return fmt.Errorf("a watch from %v: %w", from, err)
	}
	return nil
}

// replayInitial asks for the state first, at least as new as a revision, and
// then for what changes.
func replayInitial(ctx context.Context, b *bench) error {
	s, err := b.stage(ctx, "initial")
	if err != nil {
		return err
	}
	events, err := s.writes(ctx, "a", "b", "c")
	if err != nil {
		return err
	}
	// A default read is fresh: after it the server knows of all three. Otherwise
	// it may tell the last ones after the bookmark, and be right.
	if _, err := s.maps.List(ctx, s.namespace, metav1.ListOptions{}); err != nil {
		return err
	}
	yes := true
	w, err := s.maps.Watch(ctx, s.namespace, metav1.ListOptions{ResourceVersion: events[0].version, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
		SendInitialEvents: &yes, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := hear(ctx, w, events...); err != nil {
		return fmt.Errorf("of what is there: %w", err)
	}
	mark, err := next(ctx, w)
	if err != nil {
		return fmt.Errorf("the bookmark after it: %w", err)
	}
	if mark.kind != apiwatch.Bookmark || newer(events[2].version, mark.version) {
		return fmt.Errorf("after what is there comes %v; want a BOOKMARK at %s or more", mark, events[2].version)
	}
	more, err := s.writes(ctx, "d", "e")
	if err != nil {
		return err
	}
	return hear(ctx, w, more...)
}

func replayFresh(ctx context.Context, b *bench) error {
	s := &stage{"before", client.For(b.straight, client.ConfigMaps)}
	list, err := client.For(b.behind, client.ConfigMaps).List(ctx, "before", metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	w, err := s.since(ctx, b.behind, b.oldest(ctx, s, list.ResourceVersion))
	if err != nil {
		return err
	}
	defer w.Stop()
	more, err := s.writes(ctx, "third", "fourth")
	if err != nil {
		return err
	}
	return hear(ctx, w, more...)
}

// oldest is the revision from which the server that came late says it can tell
// everything, if its refusal of an older one says so.
func (b *bench) oldest(ctx context.Context, s *stage, otherwise string) string {
	w, err := s.since(ctx, b.behind, b.before[0].version)
	if err != nil {
		return otherwise
	}
	defer w.Stop()
	select {
	case event := <-w.Events:
		var asked, floor int64
		if event.Status == nil {
			return otherwise
		}
		if _, err := fmt.Sscanf(event.Status.Message, "too old resource version: %d (%d)", &asked, &floor); err != nil {
			return otherwise
		}
		return strconv.FormatInt(floor, 10)
	case <-time.After(patience):
		return otherwise
	}
}

func replayExpired(ctx context.Context, b *bench) error {
	s := &stage{"before", nil}
	w, err := s.since(ctx, b.behind, b.before[0].version)
	if err != nil {
		return code(err, http.StatusGone, "for a revision that it has not seen")
	}
	defer w.Stop()
	select {
	case event, open := <-w.Events:
		if open && event.Status != nil && event.Status.Code == http.StatusGone && event.Status.Reason == metav1.StatusReasonExpired {
			return nil
		}
		return fmt.Errorf("the watch says %s %v, and should say ERROR with 410 Expired", event.Type, event.Status)
	case <-time.After(patience):
		return errors.New("the watch says nothing, and what it has missed will never be told")
	}
}
