package apiserver

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// deadlines counts how often the writer was told to hurry.
type deadlines struct {
	http.ResponseWriter
	read, write int
}

func (d *deadlines) SetReadDeadline(time.Time) error  { d.read++; return nil }
func (d *deadlines) SetWriteDeadline(time.Time) error { d.write++; return nil }

// A request's context ends as one by context.WithTimeout does, whether somebody
// waits for it or only asks, and so do those that are made of it.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		connection, hangUp := context.WithCancel(t.Context())
		writer := &deadlines{}
		s := &Server{cfg: Config{RequestTimeout: time.Minute}}
		begin := func(query string) *request {
			r := httptest.NewRequestWithContext(connection, http.MethodGet, "/api/v1/pods"+query, nil)
			q := &request{Request: r, target: parseTarget(r), w: &answer{ResponseWriter: writer}}
			if err := s.bound(q); err != nil {
				t.Fatal(err)
			}
			return q
		}
		expect := func(what string, ctx context.Context, want error) {
			t.Helper()
			if err := ctx.Err(); err != want {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}

		asking, waiting, quick := begin("?timeout=10s"), begin("?timeout=1h"), begin("")
		child, cancel := context.WithCancel(waiting.Context())
		defer cancel()
		if deadline, ok := child.Deadline(); !ok || time.Until(deadline) != time.Minute {
			t.Errorf("a client can make the deadline later: %v %v", deadline, ok)
		}
		quick.bounded.end()
		time.Sleep(10*time.Second - 1)
		expect("before its deadline", asking.Context(), nil)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		expect("at its deadline", asking.Context(), context.DeadlineExceeded)
		expect("another", child, nil)
		if writer.read != 1 || writer.write != 1 {
			t.Errorf("the writer was told %d and %d times, want 1", writer.read, writer.write)
		}
		<-waiting.Context().Done()
		synctest.Wait()
		expect("a child at the deadline", child, context.DeadlineExceeded)
		if writer.read != 2 {
			t.Errorf("the writer was told %d times, want 2: not after the answer", writer.read)
		}

		answered := begin("")
		child, cancel = context.WithCancel(answered.Context())
		defer cancel()
		answered.bounded.end()
		expect("a child after the answer", child, context.Canceled)

		left := begin("")
		hangUp()
		expect("when the client is gone", left.Context(), context.Canceled)
		<-left.Context().Done()
		left.bounded.end()
		asking.bounded.end()
	})
}
