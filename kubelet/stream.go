package kubelet

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
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
	code := http.StatusInternalServerError
	if h := (*httpError)(nil); errors.As(err, &h) {
		code = h.code
	}
	say(w, code, "%s", err.Error())
}

// findWorker finds the pod that a request names.
func (k *Kubelet) findWorker(r *http.Request) (*worker, error) {
	namespace, name := chi.URLParam(r, "namespace"), chi.URLParam(r, "pod")
	for _, w := range k.allWorkers() {
		if pod, _, _ := w.view(); pod.Namespace == namespace && pod.Name == name {
			return w, nil
		}
	}
	return nil, &httpError{http.StatusNotFound, "pod does not exist"}
}

// isMeant says whether it is the pod of the UID that a request may have. By a
// static pod's UID the API means its mirror's, which we may not know.
func (w *worker) isMeant(r *http.Request) bool {
	pod, _, _ := w.view()
	uid := types.UID(chi.URLParam(r, "uid"))
	return uid == "" || uid == pod.UID || isStatic(pod)
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
	if c := seen.latest(name); c != nil && c.running() && w.isMeant(r) { // upstream knows only running ones here
		return c.Id, nil
	}
	if strings.HasPrefix(r.URL.Path, "/attach/") {
		return "", fmt.Errorf("container %s not found in pod %s_%s", name, chi.URLParam(r, "pod"), chi.URLParam(r, "namespace"))
	}
	return "", fmt.Errorf("container not found (%q)", name)
}

// streams are what a caller wants to have of a process.
type streams struct{ stdin, stdout, stderr, tty bool }

func parseStreams(r *http.Request) (streams, error) {
	wanted := func(name string) bool { return r.FormValue(name) == "1" }
	s := streams{wanted("input"), wanted("output"), wanted("error") && !wanted("tty"), wanted("tty")}
	if !s.stdin && !s.stdout && !s.stderr {
		return s, &httpError{http.StatusBadRequest, "you must specify at least 1 of stdin, stdout, stderr"}
	}
	return s, nil
}

func (k *Kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	k.serveStreams(w, r, func(id string, s streams) (string, error) {
		answer, err := k.runtime.runtime.Exec(r.Context(), &runtimeapi.ExecRequest{ContainerId: id, Cmd: r.URL.Query()["command"],
			Tty: s.tty, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr})
		return answer.GetUrl(), err
	})
}

func (k *Kubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	k.serveStreams(w, r, func(id string, s streams) (string, error) {
		answer, err := k.runtime.runtime.Attach(r.Context(), &runtimeapi.AttachRequest{ContainerId: id,
			Tty: s.tty, Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr})
		return answer.GetUrl(), err
	})
}

func (k *Kubelet) serveStreams(w http.ResponseWriter, r *http.Request, prepare func(containerID string, s streams) (location string, err error)) {
	wanted, err := parseStreams(r)
	var id, location string
	if err == nil {
		id, err = k.runningContainer(r)
	}
	if err == nil {
		location, err = prepare(id, wanted)
	}
	if err != nil {
		fail(w, err)
		return
	}
	proxyStream(w, r, location)
}

// serveRun runs a command to its end and answers with what it printed.
func (k *Kubelet) serveRun(w http.ResponseWriter, r *http.Request) {
	id, err := k.runningContainer(r)
	if err != nil {
		fail(w, err)
		return
	}
	command := strings.Split(r.FormValue("cmd"), " ")
	answer, err := k.runtime.runtime.ExecSync(r.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command})
	if err == nil && answer.ExitCode != 0 {
		err = fmt.Errorf("command '%s' exited with %d: %s", strings.Join(command, " "), answer.ExitCode, answer.Stderr)
	}
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json") // upstream says so of any text
	_, _ = w.Write(append(answer.Stdout, answer.Stderr...))
}

// serveCheckpoint refuses, but first what would be wrong anywhere.
func (k *Kubelet) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	worker, err := k.findWorker(r)
	if err != nil {
		fail(w, err)
		return
	}
	if pod, _, _ := worker.view(); findContainer(pod, chi.URLParam(r, "container")) == nil {
		say(w, http.StatusNotFound, "container %s does not exist", chi.URLParam(r, "container"))
		return
	}
	say(w, http.StatusNotImplemented, "checkpoints are not supported by this kubelet")
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
	if !worker.isMeant(r) {
		fail(w, &httpError{http.StatusNotFound, "pod not found"})
		return
	}
	sandbox := seen.sandbox()
	if sandbox == nil || sandbox.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		fail(w, fmt.Errorf("pod not found (%q)", chi.URLParam(r, "pod")+"_"+chi.URLParam(r, "namespace")))
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
	options, err := parseLogOptions(r.URL.Query(), time.Now())
	if err != nil {
		fail(w, err)
		return
	}
	worker, err := k.findWorker(r)
	if err != nil {
		say(w, http.StatusNotFound, "pod %q does not exist", chi.URLParam(r, "pod"))
		return
	}
	pod, _, _ := worker.view()
	name := chi.URLParam(r, "container")
	if findContainer(pod, name) == nil {
		say(w, http.StatusNotFound, "container %q not found in pod %q", name, pod.Name)
		return
	}
	if options.stream != "" && !k.cfg.SplitLogStreams {
		say(w, http.StatusBadRequest, "unable to return the given log stream: %q. Please enable PodLogsQuerySplitStreams feature gate in kubelet", r.URL.Query().Get("stream"))
		return
	}
	seen, err := k.runtime.observe(r.Context(), worker.uid)
	if err != nil {
		fail(w, err)
		return
	}
	c, err := logSource(pod, seen, worker.publishedStatus(), name, options.previous)
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
	out := flushing{w, http.NewResponseController(w)}
	if _, err := out.Write(nil); err != nil { // whoever follows a silent container shall know that he does
		return
	}
	if err := readLog(r.Context(), c.LogPath, out, options, ended); err != nil && r.Context().Err() == nil {
		fmt.Fprintf(w, "failed to read log file %q: %v", c.LogPath, err)
	}
}

// logSource chooses the life of a container whose log is asked for.
func logSource(pod *corev1.Pod, seen *observedPod, status corev1.PodStatus, name string, previous bool) (*observedContainer, error) {
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
	switch reason {
	case reasonErrImagePull:
		reason = "image can't be pulled"
	case reasonImageBackOff:
		reason = "trying and failing to pull image"
	}
	return nil, &httpError{http.StatusBadRequest, fmt.Sprintf("container %q in pod %q is waiting to start: %s", name, pod.Name, reason)}
}

func waiting(status corev1.PodStatus, name string) bool {
	for _, s := range append(append([]corev1.ContainerStatus(nil), status.InitContainerStatuses...), status.ContainerStatuses...) {
		if s.Name == name {
			return s.State.Waiting != nil
		}
	}
	return false
}

// parseLogOptions reads the query of /containerLogs. What is no option is a 400;
// what is one, and makes no sense, a 422.
//
// Upstream: kubernetes@v1.36 pkg/apis/core/v1/validation ValidatePodLogOptions.
func parseLogOptions(q url.Values, now time.Time) (logOptions, error) {
	o := logOptions{follow: flag(q, "follow"), timestamps: flag(q, "timestamps"), previous: flag(q, "previous"), tail: -1, limit: -1}
	invalid := &httpError{http.StatusUnprocessableEntity, `{"message": "Invalid request."}`}
	unreadable := &httpError{http.StatusBadRequest, `{"message": "Unable to decode query."}`}
	if q.Has("tail") { // the old name
		q.Set("tailLines", q.Get("tail"))
	}
	if q.Get("tail") == "all" {
		q.Del("tailLines")
	}
	var seconds int64
	for name, number := range map[string]struct {
		into  *int64
		least int64
	}{"tailLines": {&o.tail, 0}, "limitBytes": {&o.limit, 1}, "sinceSeconds": {&seconds, 1}} {
		if !q.Has(name) {
			continue
		}
		n, err := strconv.ParseInt(q.Get(name), 10, 64)
		if err != nil {
			return o, unreadable
		}
		if *number.into = n; n < number.least {
			return o, invalid
		}
	}
	if seconds > 0 {
		o.since = now.Add(-time.Duration(seconds) * time.Second)
	}
	if text := q.Get("sinceTime"); text != "" {
		var t metav1.Time
		if err := t.UnmarshalQueryParameter(text); err != nil {
			return o, unreadable
		}
		if o.since = t.Time; seconds > 0 {
			return o, invalid
		}
	}
	stream, known := map[string]string{"All": "", "Stdout": "stdout", "Stderr": "stderr"}[q.Get("stream")]
	if o.stream = stream; q.Has("stream") && !known || stream != "" && o.tail >= 0 {
		return o, invalid
	}
	return o, nil
}

// flag reads a choice as upstream's decoder does: whatever does not deny it.
func flag(q url.Values, name string) bool {
	return q.Has(name) && q.Get(name) != "0" && !strings.EqualFold(q.Get(name), "false")
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
