package controllers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// bench is a Store behind a watch that trails by ten seconds, and someone
// else's way to the same server.
type bench struct {
	*harness.Store[*corev1.ConfigMap]
	api    *fakeAPI
	others *client.Resource[*corev1.ConfigMap]
	loop   *harness.Loop[string]
	ctx    context.Context
}

const lag = 10 * time.Second

func run(t *testing.T, test func(b bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		api := newFakeAPI()
		api.Lag = lag
		c, err := client.New(api.Config())
		if err != nil {
			t.Fatal(err)
		}
		m := harness.New(c, nil, slog.New(slog.DiscardHandler))
		s := m.Scope(harness.Identity{Name: "test"})
		b := bench{Store: harness.StoreOf(s, client.ConfigMaps), api: api, others: client.For(c, client.ConfigMaps), ctx: t.Context()}
		b.loop = harness.NewLoop(s, 1, func(context.Context, string) (time.Duration, error) { return 0, nil })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		<-m.Ready()
		test(b)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Data: map[string]string{"v": value}}
}

// show is what the store shows: name=value, with ! for what is being deleted.
func (b bench) show() string {
	var all []string
	for _, cm := range b.ByIndex(harness.ByNamespace, "ns") {
		s := cm.Name + "=" + cm.Data["v"]
		if cm.DeletionTimestamp != nil {
			s += "!"
		}
		all = append(all, s)
		if got, ok := b.Get("ns", cm.Name); !ok || got != cm {
			all = append(all, "Get differs")
		}
	}
	slices.Sort(all)
	if n := len(b.List()); n != len(all) {
		all = append(all, fmt.Sprint("List has ", n))
	}
	return fmt.Sprint(all)
}

func (b bench) expect(t *testing.T, when, want string) {
	t.Helper()
	if got := b.show(); got != want {
		t.Errorf("%s: %s, want %s", when, got, want)
	}
}

func TestOwnWritesShowAtOnce(t *testing.T) {
	run(t, func(b bench) {
		a, _ := b.Create(b.ctx, configMap("a", "1"))
		b.expect(t, "created", "[a=1]")
		a.Data["v"] = "2"
		a, _ = b.Update(b.ctx, a)
		b.expect(t, "updated", "[a=2]")
		_, _ = b.Patch(b.ctx, "ns", "a", types.MergePatchType, []byte(`{"data":{"v":"3"}}`))
		b.expect(t, "patched", "[a=3]")
		_ = b.Delete(b.ctx, a, metav1.DeleteOptions{})
		b.expect(t, "deleted", "[a=3!]")
		time.Sleep(lag / 2)
		b.expect(t, "still on its way", "[a=3!]")
		time.Sleep(lag)
		b.expect(t, "arrived", "[]")
	})
}

func TestOthersWritesWin(t *testing.T) {
	run(t, func(b bench) {
		a, _ := b.Create(b.ctx, configMap("a", "1"))
		theirs := a.DeepCopy()
		theirs.Data["v"] = "theirs"
		_, _ = b.others.Update(b.ctx, theirs)
		b.expect(t, "not heard of yet", "[a=1]")
		time.Sleep(lag + time.Second)
		b.expect(t, "heard", "[a=theirs]")

		_, _ = b.Create(b.ctx, configMap("b", "1"))
		_ = b.others.Delete(b.ctx, "ns", "b", metav1.DeleteOptions{})
		b.expect(t, "they deleted it, not heard", "[a=theirs b=1]")
		time.Sleep(lag + time.Second)
		b.expect(t, "heard", "[a=theirs]")
	})
}

func TestDeletedAndMadeAgain(t *testing.T) {
	run(t, func(b bench) {
		a, _ := b.Create(b.ctx, configMap("a", "old"))
		time.Sleep(2 * lag)
		_ = b.Delete(b.ctx, a, metav1.DeleteOptions{})
		b.expect(t, "deleted", "[a=old!]")
		_, _ = b.Create(b.ctx, configMap("a", "new"))
		b.expect(t, "made again", "[a=new]")
		time.Sleep(lag + time.Second)
		b.expect(t, "arrived", "[a=new]")
		// Deleting what we still hold from before must not hit the new one.
		if err := b.Delete(b.ctx, a, metav1.DeleteOptions{}); err == nil {
			t.Error("deleted another object of the same name")
		}
		b.expect(t, "untouched", "[a=new]")
	})
}

func TestLostAnswerIsFoundOut(t *testing.T) {
	run(t, func(b bench) {
		lost := &net.OpError{Op: "read", Err: errors.New("connection reset")}
		b.api.Fault = func(method, path string) (before, after error) { return nil, lost }
		_, err := b.Create(b.ctx, configMap("a", "1"))
		b.api.Fault = func(method, path string) (before, after error) { return lost, nil }
		_, err2 := b.Create(b.ctx, configMap("b", "1"))
		if err == nil || err2 == nil {
			t.Fatal("no error")
		}
		b.api.Fault = nil
		b.loop.Add("k") // a loop settles what is in doubt before it reconciles
		synctest.Wait()
		b.expect(t, "one of the two came to be", "[a=1]")
	})
}
