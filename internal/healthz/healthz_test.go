package healthz

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHandler(t *testing.T) {
	ready := make(chan struct{})
	s := &Server{Ready: ready, Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	get := func(path, from string) int {
		request := httptest.NewRequest("GET", path, nil)
		request.RemoteAddr = from
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, request)
		return w.Code
	}
	check := func(path, from string, want int) {
		t.Helper()
		if got := get(path, from); got != want {
			t.Errorf("%s from %s: %d, want %d", path, from, got, want)
		}
	}
	check("/livez", "10.0.0.1:5", 200)
	check("/readyz", "10.0.0.1:5", 500)
	close(ready)
	check("/readyz", "10.0.0.1:5", 200)
	check("/metrics", "127.0.0.1:5", 200)
	check("/metrics", "[::1]:5", 200)
	check("/metrics", "10.0.0.1:5", 403)
	check("/configz", "127.0.0.1:5", 404)
}
