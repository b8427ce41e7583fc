package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// oneLease is an API server that has a single Lease, for tests in virtual time.
type oneLease struct {
	mu       sync.Mutex // guards all below
	lease    *coordinationv1.Lease
	revision int
	// cut makes the requests of a user agent fail at once until that time, and
	// hang after it until they are given up.
	cut map[string]time.Time
}

func (s *oneLease) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	until, cut := s.cut[r.UserAgent()]
	s.mu.Unlock()
	if cut && time.Now().Before(until) {
		return nil, errors.New("connection refused")
	}
	if cut {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	status := func(code int, reason string) (*http.Response, error) {
		return answer(r, code, map[string]any{"kind": "Status", "status": "Failure", "reason": reason, "code": code})
	}
	if r.Method == http.MethodGet {
		if s.lease == nil {
			return status(http.StatusNotFound, "NotFound")
		}
		return answer(r, http.StatusOK, s.lease)
	}
	lease := &coordinationv1.Lease{}
	if err := json.NewDecoder(r.Body).Decode(lease); err != nil {
		return nil, err
	}
	switch {
	case r.Method == http.MethodPost && s.lease != nil:
		return status(http.StatusConflict, "AlreadyExists")
	case r.Method == http.MethodPut && lease.ResourceVersion != strconv.Itoa(s.revision):
		return status(http.StatusConflict, "Conflict")
	}
	s.revision++
	lease.ResourceVersion = strconv.Itoa(s.revision)
	s.lease = lease
	return answer(r, http.StatusOK, lease)
}

func answer(r *http.Request, code int, body any) (*http.Response, error) {
	raw, err := json.Marshal(body)
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(raw)), Request: r}, err
}

// candidate is a replica that notes when it led.
type candidate struct {
	name string
	stop context.CancelFunc
	done chan error

	mu       sync.Mutex // guards both
	from, to time.Time
}

func (s *oneLease) candidate(name string) *candidate {
	api, err := New(&Config{Host: "http://fake", UserAgent: name, Transport: s})
	if err != nil {
		panic(err)
	}
	c := &candidate{name: name, done: make(chan error, 1)}
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	e := NewElector(api, ElectionConfig{Namespace: "kube-system", Name: "work", Identity: name, Logger: slog.New(slog.DiscardHandler)})
	go func() {
		c.done <- e.Run(ctx, func(ctx context.Context) error {
			c.note(&c.from)
			<-ctx.Done()
			c.note(&c.to)
			return nil
		})
	}()
	return c
}

func (c *candidate) note(at *time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*at = time.Now()
}

func (c *candidate) led() (from, to time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.from, c.to
}

// timeline prints what happened, by the seconds since the beginning.
func timeline(t *testing.T, start time.Time, what ...any) {
	var b strings.Builder
	for i := 0; i < len(what); i += 2 {
		fmt.Fprintf(&b, "\n%7.1f s  %s", what[i].(time.Time).Sub(start).Seconds(), what[i+1])
	}
	t.Log(b.String())
}

// TestLeaderDies: whoever is cut off stops working before another one may
// begin, whenever in its rhythm that happens.
func TestLeaderDies(t *testing.T) {
	for offset := range 40 {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			s := &oneLease{cut: map[string]time.Time{}}
			a := s.candidate("a")
			time.Sleep(time.Second)
			b := s.candidate("b")
			time.Sleep(30*time.Second + time.Duration(offset)*100*time.Millisecond)
			if from, _ := b.led(); !from.IsZero() {
				t.Error("two lead")
			}
			s.mu.Lock()
			s.cut["a"] = time.Now().Add(time.Duration(offset%4) * 3 * time.Second)
			s.mu.Unlock()
			dead := time.Now()
			if err := <-a.done; !errors.Is(err, ErrLeadershipLost) {
				t.Errorf("it says %v", err)
			}
			_, ended := a.led()
			time.Sleep(time.Minute)
			began, _ := b.led()
			if began.Before(ended) || began.IsZero() {
				t.Errorf("cut off at %s of its rhythm: a led until %s after that, b from %s", time.Duration(offset)*100*time.Millisecond, ended.Sub(dead), began.Sub(dead))
			}
			if took := began.Sub(dead); took > 15*time.Second+2*2*time.Second {
				t.Errorf("nobody led for %s", took)
			}
			b.stop()
			<-b.done
			if offset == 0 {
				timeline(t, start, start, "a becomes leader", dead, "a is cut off", ended, "a gives up", began, "b becomes leader")
			}
		})
	}
}

// TestLeaderLeaves: a lease that is given back is taken at the next look.
func TestLeaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		s := &oneLease{}
		a := s.candidate("a")
		time.Sleep(time.Second)
		b := s.candidate("b")
		time.Sleep(10 * time.Second)
		a.stop()
		if err := <-a.done; err != nil {
			t.Error(err)
		}
		_, left := a.led()
		time.Sleep(10 * time.Second)
		began, _ := b.led()
		if took := began.Sub(left); took < 0 || took > 3*time.Second+time.Second {
			t.Errorf("the other led after %s", took)
		}
		b.stop()
		<-b.done
		if holder := *s.lease.Spec.HolderIdentity; holder != "" || *s.lease.Spec.LeaseTransitions != 1 {
			t.Errorf("holder %q, %d transitions", holder, *s.lease.Spec.LeaseTransitions)
		}
		timeline(t, start, start, "a becomes leader", left, "a is stopped and gives the lease back", began, "b becomes leader")
	})
}
