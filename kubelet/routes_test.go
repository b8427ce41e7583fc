package kubelet

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"tinykube/internal/fakecri"
)

// nodeAPI is a kubelet that does not run, with one pod, and its node API.
func nodeAPI(t *testing.T, change func(*Config)) (k *Kubelet, ask func(readOnly bool, method, path, token string) string) {
	cfg, err := NewConfig(DefaultConfiguration(), "n", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	change(&cfg)
	if k, err = New(cfg, Deps{Runtime: fakecri.New().Conn()}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	pod.Name, pod.Namespace, pod.UID = "p", "default", "1-2"
	k.workers[pod.UID] = newWorker(k, pod)
	a, err := k.newAuthenticator()
	if err != nil {
		t.Fatal(err)
	}
	return k, func(readOnly bool, method, path, token string) string {
		handler := k.routes(a.wrap)
		if readOnly {
			handler = k.readOnlyRoutes()
		}
		w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), method, path, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		handler.ServeHTTP(w, r)
		return fmt.Sprintf("%d %s", w.Code, w.Body)
	}
}

func TestReadOnlyPort(t *testing.T) {
	_, ask := nodeAPI(t, func(*Config) {})
	for path, want := range map[string]string{
		"GET /pods":                      `200 {"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"p","namespace":"default"`,
		"GET /healthz":                   "200 ok",
		"GET /healthz?verbose":           "200 [+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n",
		"GET /healthz/nothing":           "404 404 page not found\n",
		"GET /metrics/probes":            "200 ",
		"GET /stats/summary":             `200 {"node":{"nodeName":"n"`,
		"POST /pods":                     "405 405: Method Not Allowed",
		"GET /pods/p":                    "404 404: Page Not Found",
		"GET /configz":                   "404 404 page not found\n",
		"GET /containerLogs/default/p/c": "405 Debug endpoints are disabled.\n",
		"POST /exec/default/p/c":         "405 Debug endpoints are disabled.\n",
		"POST /run/default/p/c":          "405 Debug endpoints are disabled.\n",
		"GET /logs/":                     "405 Debug endpoints are disabled.\n",
		"GET /runningpods/":              "405 Debug endpoints are disabled.\n",
	} {
		method, url, _ := strings.Cut(path, " ")
		if got := ask(true, method, url, ""); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %.200q, want %q", path, got, want)
		}
	}
}

func TestWhoeverIsLetIn(t *testing.T) {
	for name, test := range map[string]struct {
		anonymous bool
		mode      string
		token     string
		want      string
	}{
		"nobody, as by default":        {false, "Webhook", "", "401 Unauthorized"},
		"nobody, though all may":       {false, "AlwaysAllow", "", "401 Unauthorized"},
		"anonymous, and all may":       {true, "AlwaysAllow", "", "200 "},
		"anonymous, nobody to ask":     {true, "Webhook", "", "403 Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"},
		"a token that nobody looks at": {true, "AlwaysAllow", "x", "200 "},
	} {
		_, ask := nodeAPI(t, func(c *Config) { c.Server.Anonymous, c.Server.AuthorizationMode = test.anonymous, test.mode })
		if got := ask(false, http.MethodGet, "/pods", test.token); !strings.HasPrefix(got, test.want) {
			t.Errorf("%s: %.100q, want %q", name, got, test.want)
		}
	}
}

// TestNodeAPIAnswers are upstream's words to whoever asks for what is not there.
func TestNodeAPIAnswers(t *testing.T) {
	open := func(c *Config) { c.Server.Anonymous, c.Server.AuthorizationMode = true, "AlwaysAllow" }
	_, ask := nodeAPI(t, open)
	for path, want := range map[string]string{
		"GET /containerLogs/default/x/c":                `404 pod "x" does not exist`,
		"GET /containerLogs/default/p/x":                `404 container "x" not found in pod "p"`,
		"GET /containerLogs/default/p/c":                `400 container "c" in pod "p" is waiting to start: ContainerCreating`,
		"GET /containerLogs/default/p/c?previous=true":  `400 previous terminated container "c" in pod "p" not found`,
		"GET /containerLogs/default/p/c?tailLines=-1":   `422 {"message": "Invalid request."}`,
		"GET /containerLogs/default/p/c?limitBytes=0":   `422 {"message": "Invalid request."}`,
		"GET /containerLogs/default/p/c?tailLines=many": `400 {"message": "Unable to decode query."}`,
		"GET /containerLogs/default/p/c?sinceTime=now":  `400 {"message": "Unable to decode query."}`,
		"GET /containerLogs/default/p/c?stream=Stdout":  `400 unable to return the given log stream: "Stdout". Please enable PodLogsQuerySplitStreams feature gate in kubelet`,
		"GET /containerLogs/default/p/c?stream=Both":    `422 {"message": "Invalid request."}`,
		"POST /containerLogs/default/p/c":               "405 405: Method Not Allowed",
		"POST /exec/default/p/c?command=ls":             "400 you must specify at least 1 of stdin, stdout, stderr",
		"POST /exec/default/x/c?command=ls&output=1":    "404 pod does not exist",
		"POST /exec/default/p/c?command=ls&output=1":    `500 container not found ("c")`,
		"POST /attach/default/p/other-uid/c?output=1":   "500 container c not found in pod p_default",
		"POST /run/default/x/c?cmd=ls":                  "404 pod does not exist",
		"GET /run/default/p/c?cmd=ls":                   "405 405: Method Not Allowed",
		"POST /portForward/default/x":                   "404 pod does not exist",
		"POST /portForward/default/p/other-uid":         "404 pod not found",
		"POST /portForward/default/p":                   `500 pod not found ("p_default")`,
		"POST /checkpoint/default/p/x":                  "404 container x does not exist",
		"POST /checkpoint/default/p/c":                  "501 checkpoints are not supported by this kubelet",
		"GET /debug/pprof/cmdline":                      "200 ",
		"GET /logs/../../etc/passwd":                    "404 ",
		"GET /configz":                                  `200 {"kubeletconfig":{`,
		"GET /nothing":                                  "404 404 page not found\n",
	} {
		method, url, _ := strings.Cut(path, " ")
		if got := ask(false, method, url, ""); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %.200q, want %q", path, got, want)
		}
	}
	_, ask = nodeAPI(t, func(c *Config) { open(c); c.Server.SystemLogs, c.Server.Profiling = false, false })
	for path, want := range map[string]string{"/logs/x": "405 logs endpoint is disabled.\n", "/debug/pprof/": "405 profiling endpoint is disabled.\n"} {
		if got := ask(false, http.MethodGet, path, ""); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
}

// TestSubresources: what only looks has a name of its own in RBAC.
func TestSubresources(t *testing.T) {
	for request, want := range map[string]string{
		"GET /pods": "get [pods proxy]", "GET /runningpods/": "get [pods proxy]", "GET /healthz/ping": "get [healthz proxy]", "GET /configz": "get [configz proxy]",
		"GET /stats/summary": "get [stats]", "GET /metrics/cadvisor": "get [metrics]", "GET /logs/x": "get [log]", "POST /checkpoint/a/b/c": "create [checkpoint]",
		"GET /podsandmore": "get [proxy]", "GET /exec/a/b/c": "create [proxy]", "POST /run/a/b/c": "create [proxy]", "HEAD /pods": " [pods proxy]",
	} {
		method, url, _ := strings.Cut(request, " ")
		verb, names := requestAttributes(httptest.NewRequest(method, url, nil))
		if got := fmt.Sprint(verb, " ", names); got != want {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
}
