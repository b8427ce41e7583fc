package kubelet

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// For exec, attach and port-forward the kubelet is a porter: it asks the
// runtime for a place to stream from and passes the connection through,
// WebSocket or SPDY alike, without reading it.

// httpError is an error with the status to answer it with.
type httpError struct {
	code int
	text string
}

func (e *httpError) Error() string { return e.text }

func fail(w http.ResponseWriter, err error) {
	var h *httpError
	if errors.As(err, &h) {
		http.Error(w, h.text, h.code)
		return
	}
	http.Error(w, message(err), http.StatusInternalServerError)
}

// findWorker finds the pod that a request names.
func (k *Kubelet) findWorker(r *http.Request) (*worker, error) {
	namespace, name, uid := chi.URLParam(r, "namespace"), chi.URLParam(r, "pod"), types.UID(chi.URLParam(r, "uid"))
	for _, w := range k.allWorkers() {
		pod, _, _ := w.view()
		// By a static pod's UID the API means its mirror's, which we may not know.
		if pod.Namespace == namespace && pod.Name == name && (uid == "" || uid == pod.UID || isStatic(pod)) {
			return w, nil
		}
	}
	return nil, &httpError{http.StatusNotFound, fmt.Sprintf("pod %q not found", name+"_"+namespace)}
}

// runningContainer finds a container to stream with.
func (k *Kubelet) runningContainer(r *http.Request) (string, error) {
	w, err := k.findWorker(r)
	if err != nil {
		return "", err
	}
	name := chi.URLParam(r, "container")
	seen, err := k.runtime.observe(r.Context(), w.uid)
	if err != nil {
		return "", err
	}
	c := seen.latest(name)
	if c == nil || !c.running() { // upstream knows only running ones here
		return "", &httpError{http.StatusNotFound, fmt.Sprintf("container not found (%q)", name)}
	}
	return c.Id, nil
}

func (k *Kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	id, err := k.runningContainer(r)
	if err != nil {
		fail(w, err)
		return
	}
	q := r.URL.Query()
	answer, err := k.runtime.runtime.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: q["command"],
		Tty: flag(q, "tty"), Stdin: flag(q, "input"), Stdout: flag(q, "output"), Stderr: flag(q, "error") && !flag(q, "tty")})
	if err != nil {
		fail(w, err)
		return
	}
	proxyStream(w, r, answer.Url)
}

func (k *Kubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	id, err := k.runningContainer(r)
	if err != nil {
		fail(w, err)
		return
	}
	q := r.URL.Query()
	answer, err := k.runtime.runtime.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: id,
		Tty: flag(q, "tty"), Stdin: flag(q, "input"), Stdout: flag(q, "output"), Stderr: flag(q, "error") && !flag(q, "tty")})
	if err != nil {
		fail(w, err)
		return
	}
	proxyStream(w, r, answer.Url)
}

func (k *Kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	worker, err := k.findWorker(r)
	if err != nil {
		fail(w, err)
		return
	}
	seen, err := k.runtime.observe(r.Context(), worker.uid)
	if err != nil {
		fail(w, err)
		return
	}
	sandbox := seen.sandbox()
	if sandbox == nil || sandbox.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		fail(w, &httpError{http.StatusNotFound, "pod not found (it has no running sandbox)"})
		return
	}
	request := &runtimeapi.PortForwardRequest{PodSandboxId: sandbox.Id}
	for _, text := range r.URL.Query()["port"] { // with SPDY the ports come in the stream
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil {
			fail(w, &httpError{http.StatusBadRequest, fmt.Sprintf("invalid port %q", text)})
			return
		}
		request.Port = append(request.Port, int32(port))
	}
	answer, err := k.runtime.runtime.PortForward(r.Context(), request)
	if err != nil {
		fail(w, err)
		return
	}
	proxyStream(w, r, answer.Url)
}

// flag reads upstream's way of writing true.
func flag(q url.Values, name string) bool { return q.Get(name) == "1" || q.Get(name) == "true" }

// proxyStream passes an upgraded connection through to the runtime's server.
func proxyStream(w http.ResponseWriter, r *http.Request, location string) {
	target, err := url.Parse(location)
	if err != nil {
		fail(w, err)
		return
	}
	handler := proxy.NewUpgradeAwareHandler(target, nil, false, true, streamErrors{})
	handler.ServeHTTP(w, r)
}

type streamErrors struct{}

func (streamErrors) Error(w http.ResponseWriter, _ *http.Request, err error) { fail(w, err) }

// serveLogs answers kubectl logs.
func (k *Kubelet) serveLogs(w http.ResponseWriter, r *http.Request) {
	worker, err := k.findWorker(r)
	if err != nil {
		fail(w, err)
		return
	}
	q := r.URL.Query()
	options, err := parseLogOptions(q, time.Now())
	if err != nil {
		fail(w, &httpError{http.StatusBadRequest, err.Error()})
		return
	}
	pod, _, _ := worker.view()
	seen, err := k.runtime.observe(r.Context(), worker.uid)
	if err != nil {
		fail(w, err)
		return
	}
	c, err := logSource(pod, seen, worker.publishedStatus(), chi.URLParam(r, "container"), flag(q, "previous"))
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	ended := func() bool {
		_, now, _ := worker.view()
		if k.worker(worker.uid) != worker || now == nil {
			return true
		}
		for _, other := range now.running() {
			if other.Id == c.Id {
				return false
			}
		}
		return true
	}
	if err := readLog(r.Context(), c.LogPath, flushing{w, http.NewResponseController(w)}, options, ended); err != nil && r.Context().Err() == nil {
		fail(w, fmt.Errorf("read log of container %s: %w", c.name(), err))
	}
}

// logSource chooses the life of a container whose log is asked for.
func logSource(pod *corev1.Pod, seen *observedPod, status corev1.PodStatus, name string, previous bool) (*observedContainer, error) {
	if findContainer(pod, name) == nil {
		return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name)}
	}
	lives := seen.attempts(name)
	if previous {
		// In a backoff the life that ended last is the previous one already.
		if len(lives) > 0 && lives[0].exited() && waiting(status, name) {
			return lives[0], nil
		}
		if len(lives) < 2 {
			return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("previous terminated container %q in pod %q not found", name, pod.Name)}
		}
		return lives[1], nil
	}
	for _, c := range lives { // one that was created but never started has no log
		if c.running() || c.exited() {
			return c, nil
		}
	}
	reason := reasonCreating
	for _, s := range append(status.InitContainerStatuses, status.ContainerStatuses...) {
		if s.Name == name && s.State.Waiting != nil {
			reason = s.State.Waiting.Reason
		}
	}
	text := fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, pod.Name, reason)
	if reason == reasonErrImagePull || reason == reasonImageBackOff {
		text = fmt.Sprintf("container %q in pod %q is waiting to start: trying and failing to pull image", name, pod.Name)
	}
	return nil, &httpError{http.StatusBadRequest, text}
}

func waiting(status corev1.PodStatus, name string) bool {
	for _, s := range append(append([]corev1.ContainerStatus(nil), status.InitContainerStatuses...), status.ContainerStatuses...) {
		if s.Name == name {
			return s.State.Waiting != nil
		}
	}
	return false
}

// parseLogOptions reads the query of /containerLogs.
func parseLogOptions(q url.Values, now time.Time) (logOptions, error) {
	o := logOptions{follow: flag(q, "follow"), timestamps: flag(q, "timestamps"), tail: -1, limit: -1}
	for name, field := range map[string]*int64{"tailLines": &o.tail, "limitBytes": &o.limit} {
		if text := q.Get(name); text != "" && text != "all" {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil || n < 0 {
				return o, fmt.Errorf("%s: %q is not a number of at least 0", name, text)
			}
			*field = n
		}
	}
	if text := q.Get("sinceSeconds"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return o, fmt.Errorf("sinceSeconds: %q is not a number", text)
		}
		o.since = now.Add(-time.Duration(n) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		var t metav1.Time
		if err := t.UnmarshalQueryParameter(text); err != nil {
			return o, fmt.Errorf("sinceTime: %w", err)
		}
		o.since = t.Time
	}
	switch stream := q.Get("stream"); stream {
	case "", "All":
	case "Stdout", "Stderr":
		o.stream = map[string]string{"Stdout": "stdout", "Stderr": "stderr"}[stream]
	default:
		return o, fmt.Errorf("stream: %q is not All, Stdout or Stderr", stream)
	}
	return o, nil
}

// flushing sends each line as it comes: somebody follows it.
type flushing struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	return n, err
}
