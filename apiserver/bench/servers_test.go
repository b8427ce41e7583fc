package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"tinykube/cmd/kube-apiserver/app"
	"tinykube/internal/etcdtest"
)

// roleVariable makes the test binary one of the servers.
const roleVariable = "TINYKUBE_BENCH_ROLE"

// server is one of the competitors: its processes and how to reach it.
type server struct {
	name            string
	pid             int
	etcd            *etcdtest.Process // nil for bare
	base            string
	tls             *tls.Config
	ready, readyCPU time.Duration
	store           *clientv3.Client // of the raw etcd
}

// cpu is what the server and its etcd have used so far.
func (s *server) cpu() time.Duration {
	total := time.Duration(0)
	if s.pid != 0 {
		total += etcdtest.CPUTime(s.pid)
	}
	if s.etcd != nil {
		total += etcdtest.CPUTime(s.etcd.PID())
	}
	return total
}

// http is a client with a connection of its own.
func (s *server) http() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls, ForceAttemptHTTP2: true, DisableCompression: true}}
}

// world is everything that is measured.
type world struct {
	testing.TB
	dir                        string
	duration, slice            time.Duration // of a figure, and of one turn
	ours, bare, etcd, upstream *server
}

var cleanups []func()

func tearDown() {
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
}

// setUp starts everything.
func setUp(b *testing.B) *world {
	b.Helper()
	dir, err := os.MkdirTemp("", "tk")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	if folder := os.Getenv("BENCH_PROFILE"); folder != "" {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	w := &world{TB: b, dir: dir, duration: 2 * time.Second}
	if text := os.Getenv("BENCH_TIME"); text != "" {
		if w.duration, err = time.ParseDuration(text); err != nil {
			b.Fatal(err)
		}
	}
	pki := filepath.Join(dir, "pki")
	w.ours = w.startAPI("ours", os.Args[0], "--cert-dir="+pki)
	w.bare = w.startBare()
	w.etcd = &server{name: "etcd", etcd: w.ours.etcd}
	if w.etcd.store, err = clientv3.New(clientv3.Config{Endpoints: []string{w.etcd.etcd.Endpoint}, Logger: zap.NewNop()}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { w.etcd.store.Close() })
	if program := os.Getenv("KUBE_APISERVER"); program != "" {
		file := func(name string) string { return filepath.Join(pki, name) }
		w.upstream = w.startAPI("upstream", program, "--tls-cert-file="+file("apiserver.crt"), "--tls-private-key-file="+file("apiserver.key"),
			"--client-ca-file="+file("ca.crt"), "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file="+file("sa.key"), "--service-account-signing-key-file="+file("sa.key"),
			"--advertise-address=10.0.0.1", "--profiling=false")
	}
	for _, s := range []*server{w.ours, w.upstream} {
		if s != nil {
			w.prepare(s)
		}
	}
	return w
}

// prepare makes the objects that are read, and the namespaces that are filled.
func (w *world) prepare(s *server) {
	for _, namespace := range []string{"list", "maps", "watched"} {
		w.post(s, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": namespace}})
	}
	w.post(s, "/api/v1/namespaces/list/serviceaccounts", map[string]any{"metadata": map[string]any{"name": "default"}})
	w.post(s, "/api/v1/namespaces/default/configmaps", configMap("get", 1500))
	w.post(s, "/api/v1/namespaces/watched/configmaps", configMap("w", 1000))
}

// startAPI runs a kube-apiserver on an etcd of its own and waits until it is
// ready.
func (w *world) startAPI(name, program string, args ...string) *server {
	w.Helper()
	s := &server{name: name, etcd: etcdtest.StartSync(w, filepath.Join(w.dir, name))}
	port := 17443
	if name == "upstream" {
		port++
	}
	s.base = fmt.Sprintf("https://%s:%d", etcdtest.Loopback(), port)
	args = append(args, "--etcd-servers="+s.etcd.Endpoint, "--bind-address="+etcdtest.Loopback(), fmt.Sprint("--secure-port=", port),
		"--service-cluster-ip-range=10.96.0.0/12", "--authorization-mode=Node,RBAC")
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		w.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(program, args...)
	command.Env = append(os.Environ(), roleVariable+"=kube-apiserver")
	command.Stdout, command.Stderr = log, log
	start := time.Now()
	w.run(command)
	s.pid = command.Process.Pid
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		err := w.readyz(s)
		if err == nil {
			s.ready, s.readyCPU = time.Since(start), s.cpu()
			return s
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			w.Fatalf("%s is not ready: %v\n%s", name, err, said)
		}
	}
}

func (w *world) readyz(s *server) error {
	if s.tls == nil {
		ca, err := os.ReadFile(filepath.Join(w.dir, "pki", "ca.crt"))
		if err != nil {
			return err
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(w.dir, "pki", "admin.crt"), filepath.Join(w.dir, "pki", "admin.key"))
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(ca)
		s.tls = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	}
	client := s.http()
	defer client.CloseIdleConnections()
	_, err := fetch(client, s.base+"/readyz")
	return err
}

// run starts a child that ends when we do.
func (w *world) run(command *exec.Cmd) {
	w.Helper()
	if _, err := command.StdinPipe(); err != nil {
		w.Fatal(err)
	}
	if err := command.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
	})
}

// play is what a child does.
func play(role string) {
	go func() { // the parent holds the other end: when it is gone, so are we
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	switch role {
	case "bare":
		serveBare()
	default:
		if err := app.NewCommand().Execute(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// profileOnSignal writes a CPU profile of what happens between two SIGUSR1.
func profileOnSignal() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	for range signals {
		file, err := os.Create(profileOf(os.Getpid()) + ".part")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		pprof.StartCPUProfile(file)
		<-signals
		pprof.StopCPUProfile()
		file.Close()
		os.Rename(file.Name(), profileOf(os.Getpid()))
	}
}

// profileOf is where a process leaves its profile.
func profileOf(pid int) string {
	return filepath.Join(os.Getenv("BENCH_PROFILE"), fmt.Sprint(pid, ".pprof"))
}

// profiled measures a row at a server, and profiles the server and its etcd
// meanwhile if that is asked for.
func (w *world) profiled(row string, s *server, measure func(*world, *server) figure) figure {
	if os.Getenv("BENCH_PROFILE") == "" || s == w.upstream {
		return measure(w, s)
	}
	processes := map[string]int{}
	if s.pid != 0 {
		processes[s.name] = s.pid
	}
	if s.etcd != nil {
		processes[s.name+" etcd"] = s.etcd.PID()
	}
	for _, pid := range processes {
		syscall.Kill(pid, syscall.SIGUSR1)
	}
	result := measure(w, s)
	for name, pid := range processes {
		syscall.Kill(pid, syscall.SIGUSR1)
		to := filepath.Join(os.Getenv("BENCH_PROFILE"), strings.NewReplacer(" ", "-", ",", "").Replace(row+" "+name)+".pprof")
		for deadline := time.Now().Add(limit); os.Rename(profileOf(pid), to) != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				w.Fatalf("no profile of %s", name)
			}
		}
	}
	return result
}

// startBare runs the bare handler.
func (w *world) startBare() *server {
	w.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), roleVariable+"=bare")
	command.Stderr = os.Stderr
	out, err := command.StdoutPipe()
	if err != nil {
		w.Fatal(err)
	}
	w.run(command)
	line, err := bufio.NewReaderSize(out, 64<<10).ReadString('\n')
	if err != nil {
		w.Fatal(err)
	}
	base, encoded, _ := strings.Cut(strings.TrimSpace(line), " ")
	der, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		w.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		w.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	return &server{name: "bare", pid: command.Process.Pid, base: base, tls: &tls.Config{RootCAs: pool}}
}

// serveBare answers GET with what was PUT, and sends every POST to every watch.
func serveBare() {
	var body atomic.Pointer[[]byte]
	events := &fanOut{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/watch":
			events.serve(rw, r)
		case r.Method == http.MethodGet:
			rw.Header().Set("Content-Type", "application/json")
			rw.Write(*body.Load())
		default:
			data, _ := io.ReadAll(r.Body)
			if r.Method == http.MethodPost {
				events.send(data)
			} else {
				body.Store(&data)
			}
		}
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	fmt.Println(s.URL, base64.StdEncoding.EncodeToString(s.Certificate().Raw))
	select {}
}

// fanOut is the least a watch could be: every event to every connection.
type fanOut struct {
	mu    sync.Mutex // guards the fields below
	lines [][]byte
	bells map[chan struct{}]bool
}

func (f *fanOut) serve(rw http.ResponseWriter, r *http.Request) {
	bell := make(chan struct{}, 1)
	f.mu.Lock()
	at := len(f.lines)
	if f.bells == nil {
		f.bells = map[chan struct{}]bool{}
	}
	f.bells[bell] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.bells, bell)
		f.mu.Unlock()
	}()
	control := http.NewResponseController(rw)
	rw.Write([]byte("\n")) // as ours sends the present state first
	control.Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-bell:
		}
		f.mu.Lock()
		batch := f.lines[at:]
		at = len(f.lines)
		f.mu.Unlock()
		var out []byte
		for _, line := range batch {
			out = append(out, line...)
		}
		rw.Write(out)
		control.Flush()
	}
}

func (f *fanOut) send(line []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, line)
	for bell := range f.bells {
		select {
		case bell <- struct{}{}:
		default:
		}
	}
}

func loadAverage() string {
	data, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

func processors() int { return runtime.NumCPU() }

// fetch reads a whole answer and says how long it is.
func fetch(c *http.Client, url string) (int, error) {
	response, err := c.Get(url)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(url + ": " + response.Status)
	}
	return int(n), err
}

// do sends a request with a body; anything but success is an error.
func do(ctx context.Context, c *http.Client, method, url, contentType string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(string(body)))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", contentType)
	response, err := c.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, url, response.Status, text)
	}
	return err
}
