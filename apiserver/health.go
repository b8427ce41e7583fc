package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/pprof"
	"slices"
	"strconv"
	"strings"
	"time"

	"tinykube/api/version"
)

// Health has three questions: /livez (would a restart help?), /readyz (send me
// work?) and /healthz, the old name of the first. ?verbose lists the checks,
// ?exclude=NAME leaves one out, and each check has a path of its own, which
// alone says what is wrong: everybody may ask the first three.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/server/healthz/healthz.go

// healthPatience bounds one check, below what a kubelet's probe allows.
const healthPatience = 5 * time.Second

// check is one health check.
type check struct {
	name string
	run  func(ctx context.Context) error
}

// Upstream's names of what goes on after the start, in its order, and what of
// ours has then been done: the caches are filled, the custom resources are
// served, the cluster's first objects are there.
var hooks = []struct {
	name string
	done func(*Server) <-chan struct{}
}{
	{"generic-apiserver-start-informers", filled},
	{"priority-and-fairness-config-consumer", filled},
	{"start-apiextensions-informers", extended},
	{"start-apiextensions-controllers", extended},
	{"crd-informer-synced", extended},
	{"start-system-namespaces-controller", seeded},
	{"start-cluster-authentication-info-controller", seeded},
	{"storage-readiness", filled},
	{"start-service-ip-repair-controllers", seeded},
	{"rbac/bootstrap-roles", seeded},
	{"scheduling/bootstrap-system-priority-classes", seeded},
	{"priority-and-fairness-config-producer", seeded},
	{"bootstrap-controller", seeded},
	{"start-kubernetes-service-cidr-controller", seeded},
}

func filled(s *Server) <-chan struct{}   { return s.store.Ready() }
func extended(s *Server) <-chan struct{} { return s.extensions }
func seeded(s *Server) <-chan struct{}   { return s.ready }

// checks are those of /livez, and with ready those of /readyz as well.
func (s *Server) checks(ready bool) []check {
	etcd := func(ctx context.Context) error {
		select {
		case <-s.store.Ready():
			return s.store.Ping(ctx)
		default:
			return errors.New("storage has not been read yet")
		}
	}
	list := []check{{"ping", func(context.Context) error { return nil }}, {"etcd", etcd}}
	if ready {
		list = append(list, check{"etcd-readiness", etcd}, check{"informer-sync", func(context.Context) error {
			return s.closed(s.store.Ready(), "the watch caches have not been filled yet")
		}})
	}
	for _, hook := range hooks {
		list = append(list, check{"poststarthook/" + hook.name, func(context.Context) error { return s.closed(hook.done(s), "not finished") }})
	}
	if !ready {
		return list
	}
	return append(list, check{"shutdown", func(context.Context) error {
		if s.closed(s.stopping, "not yet") == nil {
			return errors.New("process is shutting down")
		}
		return nil
	}})
}

// closed returns nil if a channel is closed.
func (s *Server) closed(channel <-chan struct{}, text string) error {
	select {
	case <-channel:
		return nil
	default:
		return errors.New(text)
	}
}

// servePlain adds what is neither a resource nor discovery.
func (s *Server) servePlain(mux *http.ServeMux) {
	for _, path := range []string{"livez", "healthz", "readyz"} {
		list := s.checks(path == "readyz")
		mux.HandleFunc("/"+path, func(w http.ResponseWriter, r *http.Request) { s.serveHealth(w, r, path, list) })
		for _, one := range list {
			mux.HandleFunc("/"+path+"/"+one.name, func(w http.ResponseWriter, r *http.Request) { serveCheck(w, r, one) })
		}
	}
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body, _ := json.MarshalIndent(version.Info(), "", "  ")
		w.Write(body)
	})
	mux.HandleFunc("/openapi/", s.serveOpenAPI)
	s.serveIssuer(mux)
	if s.cfg.Profiling {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		for name, handler := range map[string]http.HandlerFunc{"cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace} {
			mux.HandleFunc("/debug/pprof/"+name, handler)
		}
	}
	mux.Handle("GET /metrics", s.metrics.handler())
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		body, _ := json.MarshalIndent(map[string][]string{"paths": s.known()}, "", "  ")
		w.Write(body)
	})
}

// known are the paths that GET / lists.
func (s *Server) known() []string {
	paths := []string{issuerPath, "/api", "/apis", "/metrics", "/openapi/v2", "/openapi/v3", keysPath, "/version"}
	paths = slices.AppendSeq(paths, maps.Keys(s.served.Load().discovery.legacy))
	for _, path := range []string{"/livez", "/healthz", "/readyz"} {
		paths = append(paths, path)
		for _, one := range s.checks(path == "/readyz") {
			paths = append(paths, path+"/"+one.name)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// serveHealth runs the checks and prints them as upstream does.
func (s *Server) serveHealth(w http.ResponseWriter, r *http.Request, path string, list []check) {
	ctx, cancel := context.WithTimeout(r.Context(), healthPatience)
	defer cancel()
	excluded := r.URL.Query()["exclude"]
	var out strings.Builder
	failed := 0
	for _, c := range list {
		if i := slices.Index(excluded, c.name); i >= 0 {
			excluded = slices.Delete(excluded, i, i+1)
			fmt.Fprintf(&out, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := c.run(ctx); err != nil {
			failed++
			fmt.Fprintf(&out, "[-]%s failed: reason withheld\n", c.name)
			s.log.Debug("Health check failed", "key", path+"/"+c.name, "err", err)
			continue
		}
		fmt.Fprintf(&out, "[+]%s ok\n", c.name)
	}
	if len(excluded) > 0 {
		for i := range excluded {
			excluded[i] = strconv.Quote(excluded[i])
		}
		slices.Sort(excluded)
		fmt.Fprintf(&out, "warn: some health checks cannot be excluded: no matches for %s\n", strings.Join(slices.Compact(excluded), ","))
	}
	if failed > 0 {
		http.Error(w, out.String()+path+" check failed", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		fmt.Fprintf(w, "%s%s check passed\n", out.String(), path)
		return
	}
	w.Write([]byte("ok"))
}

// serveCheck runs one check, and says what is wrong.
func serveCheck(w http.ResponseWriter, r *http.Request, c check) {
	ctx, cancel := context.WithTimeout(r.Context(), healthPatience)
	defer cancel()
	if err := c.run(ctx); err != nil {
		http.Error(w, "internal server error: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write([]byte("ok"))
}
