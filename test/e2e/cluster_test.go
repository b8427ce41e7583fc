// Package e2e runs the all-in-one as its users do: bin/tinykube up, kubectl,
// and whatever can go wrong. `make test` builds the program first.
//
// One cluster serves all tests of a run, in the order of the files; each test
// leaves it healthy. What a test needs beyond bin/tinykube is found here.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	apiPort  = "36443"
	webPort  = "38080"
	nodePort = "30080"
)

var (
	root    = mustAbs("../..")
	program = filepath.Join(root, "bin/tinykube")
	dir     string // of the cluster
	webURL  = "http://127.0.0.1:" + webPort
)

func mustAbs(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return abs
}

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: needs root to make nodes")
		os.Exit(1)
	}
	if _, err := os.Stat(program); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: bin/tinykube is missing: run make")
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	// For who writes tests: a cluster that is up already, and stays.
	if dir = os.Getenv("TINYKUBE_E2E_DIR"); dir != "" {
		program, webURL = filepath.Join(dir, "payload/bin/tinykube"), "http://"+os.Getenv("TINYKUBE_E2E_WEB")
		return m.Run()
	}
	scratch, err := os.MkdirTemp("", "tinykube-e2e-")
	if err != nil {
		panic(err)
	}
	dir = filepath.Join(scratch, "cluster")
	before := traces()
	defer func() {
		if code != 0 {
			diagnose()
		}
		if out, err := tinykube("down"); err != nil {
			fmt.Fprintf(os.Stderr, "down: %v\n%s", err, out)
			code = 1
		}
		os.RemoveAll(scratch)
		if left := difference(before, traces()); left != "" {
			fmt.Fprintf(os.Stderr, "the cluster left on the machine:\n%s", left)
			code = 1
		}
	}()
	started := time.Now()
	// $TINYKUBE_E2E_UP is more flags for it: another runtime, say.
	out, err := tinykube(append([]string{"up", "--nodes", "3", "--api-port", apiPort, "--publish", webPort + ":" + nodePort}, strings.Fields(os.Getenv("TINYKUBE_E2E_UP"))...)...)
	fmt.Printf("%s\n", out)
	if err != nil {
		fmt.Fprintf(os.Stderr, "up: %v\n", err)
		return 1
	}
	fmt.Printf("up took %.1f s\n", time.Since(started).Seconds())
	return m.Run()
}

// diagnose prints what a person would look at first.
func diagnose() {
	for _, args := range [][]string{{"status"}, {"kubectl", "get", "nodes,pods", "-A", "-o", "wide"},
		{"kubectl", "get", "events", "-A", "--sort-by=.lastTimestamp"}, {"logs", "node-0", "kubelet", "--tail=30"}, {"logs", "node-0", "kube-apiserver", "--tail=30"}} {
		out, err := tinykube(args...)
		fmt.Printf("--- tinykube %s (%v)\n%s\n", strings.Join(args, " "), err, lastLines(out, 60))
	}
	log, err := os.ReadFile(filepath.Join(dir, "relay.log"))
	fmt.Printf("--- relay.log (%v)\n%s\n", err, lastLines(string(log), 20))
}

func lastLines(s string, n int) string {
	lines := strings.Split(s, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// tinykube runs the program against the cluster of this run.
func tinykube(args ...string) (string, error) { return command(nil, program, args...) }

func command(stdin []byte, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), "TINYKUBE_DIR="+dir, "KUBECONFIG="+filepath.Join(dir, "admin.conf"), "KUBECACHEDIR="+filepath.Join(dir, "kubectl-cache"))
	c.Stdin = bytes.NewReader(stdin)
	out, err := c.CombinedOutput()
	return string(out), err
}

// kubectl runs the embedded kubectl and fails the test if it fails.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tinykube(append([]string{"kubectl"}, args...)...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// eventually polls until f returns nil, and fails with what it last said.
func eventually(t *testing.T, within time.Duration, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

var web = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// echo sends one request from outside through NodePort, frontend, DNS, the
// backend's Service and backend.
func echo() error { return echoAt(webURL) }

func echoAt(url string) error {
	response, err := web.Post(url+"/api/echo", "text/plain", strings.NewReader("ping"))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && (response.StatusCode/100 != 2 || !bytes.Contains(body, []byte("ping"))) {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return err
}

// load sends requests until stopped.
type load struct {
	stop             context.CancelFunc
	done             sync.WaitGroup
	ok, failed, late atomic.Int64
	lastError        atomic.Value
}

// late reports whether a frontend says that its backend closed the connection
// kept alive between them while the request was on its way. Which of the two
// comes first nobody can know, and Go's client makes no POST again by itself.
func late(err error) bool {
	return strings.Contains(err.Error(), "200 OK: ") && strings.Contains(err.Error(), ": EOF")
}

func startLoad() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	l.done.Go(func() {
		for ctx.Err() == nil {
			err := echo()
			switch {
			case err == nil:
				l.ok.Add(1)
			case late(err):
				l.late.Add(1)
			default:
				l.failed.Add(1)
				l.lastError.Store(err.Error())
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	return l
}

func (l *load) end() { l.stop(); l.done.Wait() }

// pods maps the webapp's pods, by name, to "uid node phase".
func pods(t *testing.T, namespace string) map[string]string {
	t.Helper()
	found := map[string]string{}
	out := kubectl(t, "-n", namespace, "get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} {.spec.nodeName} {.status.phase}{"\n"}{end}`)
	for _, line := range strings.Split(out, "\n") {
		if name, rest, ok := strings.Cut(line, " "); ok {
			found[name] = rest
		}
	}
	return found
}

// nodePID is the PID 1 of a node, as the machine numbers it.
func nodePID(t *testing.T, name string) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "nodes", name, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

// find returns the pids, as the machine numbers them, of a node's processes
// whose command line contains all the given words.
func find(t *testing.T, nodeName string, words ...string) []int {
	t.Helper()
	var spec struct{ CgroupRoot string }
	raw, err := os.ReadFile(filepath.Join(dir, "nodes", nodeName, "spec.json"))
	if err == nil {
		err = json.Unmarshal(raw, &spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, entry := range entries {
		if !belongs(entry, spec.CgroupRoot) {
			continue
		}
		cmdline, _ := os.ReadFile(entry + "/cmdline")
		text := strings.ReplaceAll(string(cmdline), "\x00", " ")
		match := text != ""
		for _, word := range words {
			match = match && strings.Contains(text, word)
		}
		var pid int
		if match {
			if _, err := fmt.Sscan(filepath.Base(entry), &pid); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}

// belongs reports whether a process is in one of the node's cgroups.
func belongs(entry, group string) bool {
	raw, _ := os.ReadFile(entry + "/cgroup")
	return strings.Contains(string(raw), group+"/")
}

// kill9 ends exactly one process of a node, and waits until it is gone.
func kill9(t *testing.T, nodeName string, words ...string) {
	t.Helper()
	pids := find(t, nodeName, words...)
	if len(pids) == 0 {
		t.Fatalf("no process %v on %s", words, nodeName)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatalf("kill %v on %s: %v", words, nodeName, err)
	}
	eventually(t, 5*time.Second, "end of process", func() error {
		if err := syscall.Kill(pids[0], 0); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return errors.New("still there")
	})
}

func traces() string {
	out, err := exec.Command(program, "traces", "--dir", dir).Output()
	if err != nil {
		panic(err)
	}
	return string(out)
}

// difference lists what the second list has more of.
func difference(before, after string) string {
	had := map[string]int{}
	for line := range strings.Lines(before) {
		had[line]++
	}
	var b strings.Builder
	for line := range strings.Lines(after) {
		if had[line]--; had[line] < 0 {
			b.WriteString("> " + line)
		}
	}
	return b.String()
}
