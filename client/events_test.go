package client_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"tinykube/client"
)

// What happens again raises a count, many like messages become one, and an
// object that never stops failing soon writes no more.
func TestEventsAreFew(t *testing.T) {
	var mu sync.Mutex
	var creates, patches []corev1.Event
	wire := roundTripper(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		event, answer := corev1.Event{}, httptest.NewRecorder()
		if r.Method == http.MethodPatch {
			_ = json.NewDecoder(r.Body).Decode(&event)
			patches = append(patches, event)
		} else {
			_ = json.NewDecoder(r.Body).Decode(&event)
			creates = append(creates, event)
		}
		fmt.Fprint(answer, `{"kind":"Event","apiVersion":"v1"}`)
		return answer.Result(), nil
	})
	synctest.Test(t, func(t *testing.T) {
		api, err := client.New(&client.Config{Host: "http://server", Transport: wire})
		if err != nil {
			t.Fatal(err)
		}
		events := client.NewRecorder(api, "kubelet", "node-1", nil)
		go func() { _ = events.Run(t.Context()) }()
		report := func(pod string, text string) {
			events.EventRef(corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod}, "Warning", "Unhealthy", "%s", text)
			synctest.Wait()
		}
		for range 100 {
			report("fails", "the same")
			time.Sleep(time.Second)
		}
		if len(creates) != 1 || len(patches) != 24 || patches[23].Count != 25 {
			t.Fatalf("%d creates and %d patches", len(creates), len(patches))
		}
		time.Sleep(5 * time.Minute)
		report("fails", "the same")
		if len(patches) != 25 || patches[24].Count != 101 {
			t.Errorf("after a while %d patches, the last with %d", len(patches), patches[len(patches)-1].Count)
		}

		creates, patches = nil, nil
		for i := range 15 {
			report("varies", fmt.Sprint("number ", i))
		}
		if len(creates) != 10 || len(patches) != 5 || !strings.HasSuffix(creates[8].Message, "number 8") ||
			creates[9].Message != "(combined from similar events): number 9" || patches[4].Message != "(combined from similar events): number 14" || patches[4].Count != 6 {
			t.Errorf("%v, %v", creates, patches)
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
