package cri

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// Who asks for a container's first words and comes when they are said learns so,
// and can read the log; kubectl run does.
func TestLateSession(t *testing.T) {
	for name, test := range map[string]struct {
		before, during, once bool
		want                 error
	}{
		"in time":         {false, true, true, nil},
		"late":            {true, false, true, errLate},
		"for the rest":    {true, true, true, nil},
		"silent":          {false, false, true, nil},
		"kubectl attach":  {true, false, false, nil},
		"attach and read": {true, true, false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := &containerIO{clients: map[*client]struct{}{}}
			if test.before {
				c.broadcast(streamStdout, []byte("before"))
			}
			var out bytes.Buffer
			done := make(chan error)
			go func() { done <- c.attach(t.Context(), nil, &out, nil, test.once) }()
			var session *client
			for deadline := time.Now().Add(30 * time.Second); session == nil; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("no session")
				}
				c.mu.Lock()
				for session = range c.clients {
				}
				c.mu.Unlock()
			}
			if test.during {
				c.broadcast(streamStdout, []byte("during"))
			}
			c.drop(session)
			if err := <-done; !errors.Is(err, test.want) || test.want == nil && err != nil {
				t.Errorf("%v, wants %v", err, test.want)
			}
			if want := map[bool]string{true: "during"}[test.during]; out.String() != want {
				t.Errorf("got %q, wants %q", &out, want)
			}
		})
	}
}
