package kubelet

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The node API: what the API server asks a kubelet on behalf of kubectl logs,
// exec, attach and port-forward, and what monitoring reads. It has two halves.
// What only looks is on both ports; what shows what containers print or runs
// commands in them is on the port that asks who is there (auth.go), and can be
// turned off altogether.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/server/server.go.
func (k *Kubelet) routes(auth func(http.Handler) http.Handler) http.Handler {
	r := chi.NewRouter()
	r.Use(k.metrics.count("readwrite"), auth)
	k.watchingRoutes(r)
	if k.cfg.Server.EnableDebuggingHandlers {
		k.debuggingRoutes(r)
	} else {
		closedRoutes(r)
	}
	return r
}

// readOnlyRoutes is the port without authentication.
func (k *Kubelet) readOnlyRoutes() http.Handler {
	r := chi.NewRouter()
	r.Use(k.metrics.count("readonly"))
	k.watchingRoutes(r)
	closedRoutes(r)
	return r
}

func (k *Kubelet) watchingRoutes(r chi.Router) {
	k.healthRoutes(r, "ping", "log", "syncloop")
	r.Get("/pods", k.servePods)
	r.Get("/pods/", k.servePods)
	r.Get("/stats/summary", k.serveSummary)
	r.Post("/stats/summary", k.serveSummary)
	metrics := k.metricPages()
	r.Handle("/metrics", metrics.kubelet)
	r.Handle("/metrics/resource", metrics.resource)
	r.Handle("/metrics/probes", metrics.probes)
	r.Handle("/metrics/cadvisor", metrics.cadvisor)
	wrongRoutes(r)
}

// wrongRoutes answers what has no handler, in upstream's words, which depend on
// the part of upstream that the path belongs to.
func wrongRoutes(routes chi.Router) {
	routes.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
				allowed = append(allowed, method)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		say(w, http.StatusMethodNotAllowed, "405: Method Not Allowed")
	})
	routes.NotFound(func(w http.ResponseWriter, r *http.Request) {
		root, _, below := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		switch {
		case slices.Contains([]string{"/stats", "/logs", "/runningpods", "/debug/pprof"}, r.URL.Path):
			http.Redirect(w, r, r.URL.Path+"/", http.StatusTemporaryRedirect)
		case below && slices.Contains([]string{"pods", "stats", "run", "exec", "attach", "portForward", "containerLogs", "checkpoint"}, root):
			say(w, http.StatusNotFound, "404: Page Not Found")
		default:
			http.NotFound(w, r)
		}
	})
}

func (k *Kubelet) debuggingRoutes(r chi.Router) {
	r.Get("/runningpods/", k.serveRunningPods)
	r.Handle("/configz", http.HandlerFunc(k.serveConfigz))
	r.Get("/containerLogs/{namespace}/{pod}/{container}", k.serveLogs)
	for _, path := range []string{"/{namespace}/{pod}/{container}", "/{namespace}/{pod}/{uid}/{container}"} {
		r.Post("/run"+path, k.serveRun)
		r.Get("/exec"+path, k.serveExec)
		r.Post("/exec"+path, k.serveExec)
		r.Get("/attach"+path, k.serveAttach)
		r.Post("/attach"+path, k.serveAttach)
	}
	for _, path := range []string{"/{namespace}/{pod}", "/{namespace}/{pod}/{uid}"} {
		r.Get("/portForward"+path, k.servePortForward)
		r.Post("/portForward"+path, k.servePortForward)
	}
	r.Post("/checkpoint/{namespace}/{pod}/{container}", k.serveCheckpoint)
	if k.cfg.Server.SystemLogs {
		r.Get("/logs/*", k.serveSystemLogs)
	} else {
		r.Handle("/logs/*", closed("logs endpoint is disabled."))
	}
	r.Handle("/debug/flags/v", closed("flags endpoint is disabled."))
	if k.cfg.Server.Profiling {
		r.Get("/debug/pprof/*", pprof.Index)
		r.Get("/debug/pprof/profile", pprof.Profile)
		r.Get("/debug/pprof/symbol", pprof.Symbol)
		r.Get("/debug/pprof/cmdline", pprof.Cmdline)
		r.Get("/debug/pprof/trace", pprof.Trace)
	} else {
		r.Handle("/debug/pprof/*", closed("profiling endpoint is disabled."))
	}
}

// closedRoutes says of what is not served here that it is not missing.
func closedRoutes(r chi.Router) {
	for _, path := range []string{"/run/", "/exec/", "/attach/", "/portForward/", "/containerLogs/", "/runningpods/", "/debug/pprof/", "/logs/"} {
		r.Handle(path+"*", closed("Debug endpoints are disabled."))
	}
}

func closed(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, text, http.StatusMethodNotAllowed) }
}

// say answers with a line of text as upstream does: without a newline.
func say(w http.ResponseWriter, code int, format string, args ...any) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintf(w, format, args...)
}

// healthRoutes serves some checks by themselves and together. Whether the runtime
// answers is syncloop; that the kubelet does is shown by its answer.
func (k *Kubelet) healthRoutes(r chi.Router, checks ...string) {
	check := func(name string) error {
		if name == "syncloop" && k.relist.started() {
			return k.relist.healthy(time.Now())
		}
		return nil
	}
	for _, name := range checks {
		r.HandleFunc("/healthz/"+name, func(w http.ResponseWriter, _ *http.Request) {
			if err := check(name); err != nil {
				http.Error(w, "internal server error: "+err.Error(), http.StatusInternalServerError)
				return
			}
			fmt.Fprint(w, "ok")
		})
	}
	r.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		var text strings.Builder
		query, failed := r.URL.Query(), false
		for _, name := range checks {
			if slices.Contains(query["exclude"], name) {
				fmt.Fprintf(&text, "[+]%s excluded: ok\n", name)
			} else if err := check(name); err != nil {
				fmt.Fprintf(&text, "[-]%s failed: %v\n", name, err)
				failed = true
			} else {
				fmt.Fprintf(&text, "[+]%s ok\n", name)
			}
		}
		unknown := slices.DeleteFunc(query["exclude"], func(name string) bool { return slices.Contains(checks, name) })
		if len(unknown) > 0 {
			fmt.Fprintf(&text, "warn: some health checks cannot be excluded: no matches for %s\n", strings.ReplaceAll(strings.Trim(fmt.Sprintf("%q", unknown), "[]"), " ", ","))
		}
		switch {
		case failed:
			http.Error(w, text.String()+"healthz check failed", http.StatusInternalServerError)
		case query.Has("verbose"):
			fmt.Fprint(w, text.String()+"healthz check passed\n")
		default:
			fmt.Fprint(w, "ok")
		}
	})
}

// servePods lists the pods of this node as the kubelet sees them.
func (k *Kubelet) servePods(w http.ResponseWriter, _ *http.Request) {
	list := newPodList()
	for _, worker := range k.allWorkers() {
		pod, _, status := worker.view()
		shown := *pod
		shown.TypeMeta, shown.Status = metav1.TypeMeta{}, status // what the items of a list are, it says once
		list.Items = append(list.Items, shown)
	}
	writeJSON(w, list)
}

// newPodList has no items rather than none of them: upstream prints null.
func newPodList() *corev1.PodList {
	return &corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
}

// serveRunningPods lists what the runtime runs, whether or not anybody wants it.
func (k *Kubelet) serveRunningPods(w http.ResponseWriter, r *http.Request) {
	uids, err := k.runtime.podUIDs(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	list := newPodList()
	for uid := range uids {
		if seen, err := k.runtime.observe(r.Context(), uid); err == nil && seen.alive() {
			pod := orphan(seen)
			pod.TypeMeta = metav1.TypeMeta{}
			list.Items = append(list.Items, *pod)
		}
	}
	writeJSON(w, list)
}

func (k *Kubelet) serveConfigz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, map[string]any{"kubeletconfig": k.cfg.Source})
}

// serveSystemLogs shows the files below /var/log. Whoever may write there
// cannot show others through it: no link leads out.
func (k *Kubelet) serveSystemLogs(w http.ResponseWriter, r *http.Request) {
	root, err := os.OpenRoot("/var/log")
	if err != nil {
		fail(w, err)
		return
	}
	defer root.Close()
	http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
