package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"tinykube/api/version"
)

// Health has three questions: /livez (would a restart help?), /readyz (send me
// work?) and /healthz, the old name of the first. ?verbose lists the checks,
// ?exclude=NAME leaves one out, and each check has a path of its own.

// healthPatience bounds one check, below what a kubelet's probe allows.
const healthPatience = 5 * time.Second

// check is one health check.
type check struct {
	name string
	run  func(ctx context.Context) error
}

// checks are those of /livez, and with ready those of /readyz as well.
func (s *Server) checks(ready bool) []check {
	list := []check{
		{"ping", func(context.Context) error { return nil }},
		{"etcd", func(ctx context.Context) error {
			select {
			case <-s.store.Ready():
				return s.store.Ping(ctx)
			default:
				return errors.New("storage has not been read yet")
			}
		}},
	}
	if !ready {
		return list
	}
	return append(list,
		check{"informer-sync", func(context.Context) error {
			select {
			case <-s.store.Ready():
				return nil
			default:
				return errors.New("the watch caches have not been filled yet")
			}
		}},
		check{"poststarthook/bootstrap", func(context.Context) error {
			if !s.seeded.Load() {
				return errors.New("namespaces and roles are not there yet")
			}
			return nil
		}},
		check{"shutdown", func(context.Context) error {
			select {
			case <-s.stopping:
				return errors.New("process is shutting down")
			default:
				return nil
			}
		}},
	)
}

// servePlain adds what is neither a resource nor discovery.
func (s *Server) servePlain(mux *http.ServeMux) {
	for _, path := range []string{"livez", "healthz", "readyz"} {
		list := s.checks(path == "readyz")
		mux.HandleFunc("/"+path, func(w http.ResponseWriter, r *http.Request) { serveHealth(w, r, path, list) })
		for _, one := range list {
			mux.HandleFunc("/"+path+"/"+one.name, func(w http.ResponseWriter, r *http.Request) { serveHealth(w, r, path, []check{one}) })
		}
	}
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, _ := json.MarshalIndent(version.Info(), "", "  ")
		w.Write(body)
	})
	mux.HandleFunc("/openapi/", s.serveOpenAPI)
	s.serveIssuer(mux)
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write(marshal(map[string][]string{"paths": {issuerPath, "/api", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", keysPath, "/readyz", "/version"}}))
	})
}

// serveHealth runs the checks and prints them as upstream does.
func serveHealth(w http.ResponseWriter, r *http.Request, path string, list []check) {
	ctx, cancel := context.WithTimeout(r.Context(), healthPatience)
	defer cancel()
	excluded := r.URL.Query()["exclude"]
	var out strings.Builder
	failed := 0
	for _, c := range list {
		if contains(excluded, c.name) {
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.run(ctx); err != nil {
			failed++
			fmt.Fprintf(&out, "[-]%s failed: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.name)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache, private")
	if failed > 0 {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, "%s%s check failed\n", out.String(), path)
		return
	}
	if r.URL.Query().Has("verbose") {
		fmt.Fprintf(w, "%s%s check passed\n", out.String(), path)
		return
	}
	w.Write([]byte("ok"))
}

func contains(list []string, value string) bool {
	for _, one := range list {
		if one == value {
			return true
		}
	}
	return false
}
