package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// The verbs that stream: logs, exec, attach, cp, port-forward and run.

// lockedBuffer is written by a process while a test reads it.
type lockedBuffer struct {
	mu      sync.Mutex
	content bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.content.String()
}

// has is nil if the pattern matches so far.
func (b *lockedBuffer) has(pattern string) error {
	if out := b.String(); !regexp.MustCompile(pattern).MatchString(out) {
		return fmt.Errorf("no %q in\n%s", pattern, out)
	}
	return nil
}

// background starts kubectl and returns what it prints, and its end.
func (u *user) background(args ...string) (out *lockedBuffer, in io.WriteCloser, end func() error) {
	u.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	c := u.command(ctx, args...)
	out = &lockedBuffer{}
	c.Stdout, c.Stderr = out, out
	in, err := c.StdinPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		cancel()
		u.Fatal(err)
	}
	var once sync.Once
	var ended error
	end = func() error {
		once.Do(func() { ended = c.Wait(); cancel() })
		return ended
	}
	u.Cleanup(func() { cancel(); _ = end() })
	return out, in, end
}

// tool runs a pod of the tools image until it is Ready.
func (u *user) tool(name, script string) {
	u.Helper()
	u.ok(`created`, "run", name, "--image="+tools, "--overrides", `{"spec":{"terminationGracePeriodSeconds":1}}`, "--command", "--", "sh", "-c", script)
	u.ok(`condition met`, "wait", "pod/"+name, "--for=condition=Ready", "--timeout=60s")
}

func logs(u *user) {
	manifest := `apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: two}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: first, image: ` + tools + `, command: [sh, -c, 'i=0; while true; do i=$((i+1)); echo first $i; sleep 0.2; done']}
  - {name: second, image: ` + tools + `, command: [sh, -c, 'echo second out; echo second err >&2; sleep 3600']}
---
apiVersion: v1
kind: Pod
metadata: {name: crasher, labels: {app: crasher}}
spec:
  containers:
  - {name: crasher, image: ` + tools + `, command: [sh, -c, 'echo a life begins; echo last words >/dev/termination-log; sleep 1; exit 3']}
`
	u.input(manifest, `pod/two created\npod/crasher created`, "apply", "-f", "-")
	u.ok(`condition met`, "wait", "pod/two", "--for=condition=Ready", "--timeout=60s")
	u.ok(`^Defaulted container "first" out of: first, second\nfirst 1\n`, "logs", "two")
	u.ok(`^second out\nsecond err\n$|^second err\nsecond out\n$`, "logs", "two", "-c", "second")
	u.ok(`first 1\n.*second out|second out\n.*first 1`, "logs", "two", "--all-containers")
	u.ok(`\[pod/two/second\] second out`, "logs", "-l", "app=two", "--all-containers", "--prefix")
	u.ok(`^first 1\nfirst 2\n`, "logs", "two", "-c", "first", "--limit-bytes=16")
	u.ok(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z second`, "logs", "two", "-c", "second", "--timestamps")
	u.fails(1, `container nope is not valid for pod two`, "logs", "two", "-c", "nope")
	u.fails(1, `pods "nope" not found`, "logs", "nope")
	if got := u.ok(`^first`, "logs", "two", "-c", "first", "--tail=2"); strings.Count(got, "\n") != 2 {
		u.Errorf("--tail=2 printed %q", got)
	}
	if got := u.ok(``, "logs", "two", "-c", "first", "--tail=0"); got != "" {
		u.Errorf("--tail=0 printed %q", got)
	}
	if all, some := u.ok(`first 1\n`, "logs", "two", "-c", "first"), u.ok(`first`, "logs", "two", "-c", "first", "--since=1s"); len(some) >= len(all) && strings.Contains(all, "first 12\n") {
		u.Errorf("--since=1s printed all of\n%s", all)
	}
	// Follow: what is there and what comes.
	out, _, _ := u.background("logs", "-f", "two", "-c", "first", "--tail=1")
	eventually(u.T, 10*time.Second, "followed lines", func() error {
		if n := strings.Count(out.String(), "\n"); n < 4 {
			return fmt.Errorf("%d lines: %s", n, out)
		}
		return nil
	})
	// After a crash: this life, the one before, and why it ended.
	eventually(u.T, 30*time.Second, "restart", func() error {
		got := u.ok(``, "get", "pod", "crasher", "-o", "jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.exitCode} {.status.containerStatuses[0].lastState.terminated.message}")
		if !strings.HasPrefix(got, "1 3 last words") && !strings.HasPrefix(got, "2 3 last words") {
			return errors.New(got)
		}
		return nil
	})
	u.ok(`^a life begins\n$`, "logs", "crasher", "-p")
	u.ok(`Last State: +Terminated\n +Reason: +Error\n +Message: +last words\n.*Exit Code: +3\n`, "describe", "pod", "crasher")
	eventually(u.T, 30*time.Second, "CrashLoopBackOff", func() error {
		if got := u.ok(``, "get", "pod", "crasher"); !strings.Contains(got, "CrashLoopBackOff") {
			return errors.New(got)
		}
		return nil
	})
	u.ok(`Warning +BackOff .*Back-off restarting failed container`, "describe", "pod", "crasher")
	u.fails(1, `previous terminated container "second" in pod "two" not found`, "logs", "two", "-c", "second", "-p")
	// Following ends with the container.
	u.ok(`created`, "run", "short", "--image="+tools, "--restart=Never", "--", "sh", "-c", "echo begin; sleep 1; echo end")
	u.ok(``, "wait", "pod/short", "--for=jsonpath={.status.phase}=Running", "--timeout=30s")
	u.ok(`^begin\nend\n$`, "logs", "-f", "short")
	u.ok(`^a life begins\n|^$`, "logs", "-l", "app=crasher", "--tail=5")
}

func execute(u *user) {
	u.tool("p", "trap 'exit 0' TERM; while true; do sleep 0.1; done")
	u.ok(`^out\n$`, "exec", "p", "--", "echo", "out")
	u.ok(`^p\n$`, "exec", "pod/p", "-c", "p", "--", "hostname")
	u.input("abc\ndef\n", `^abc\ndef\n$`, "exec", "-i", "p", "--", "cat")
	for _, status := range []int{1, 7, 126} {
		u.fails(status, fmt.Sprintf(`command terminated with exit code %d`, status), "exec", "p", "--", "sh", "-c", fmt.Sprint("exit ", status))
	}
	u.fails(137, `command terminated with exit code 137`, "exec", "p", "--", "sh", "-c", "kill -9 $$")
	u.fails(1, `exec: "nothing-there": executable file not found in \$PATH`, "exec", "p", "--", "nothing-there")
	u.fails(1, `container nope is not valid for pod p|container not found \("nope"\)`, "exec", "p", "-c", "nope", "--", "true")
	u.fails(1, `pods "nope" not found`, "exec", "nope", "--", "true")
	u.input(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"half"},"spec":{"restartPolicy":"Never","terminationGracePeriodSeconds":0,"containers":[`+
		`{"name":"lives","image":"`+tools+`","command":["sleep","3600"]},{"name":"ends","image":"`+tools+`","command":["true"]}]}}`, `created`, "create", "-f", "-")
	u.ok(`condition met`, "wait", "pod/half", "--for=jsonpath={.status.containerStatuses[?(@.name==\"ends\")].state.terminated.exitCode}=0", "--timeout=30s")
	u.fails(1, `unable to upgrade connection: container not found \("ends"\)`, "exec", "half", "-c", "ends", "--", "true")
	u.ok(`created`, "run", "pending", "--image="+tools, "--overrides", `{"spec":{"nodeSelector":{"no":"where"}}}`)
	u.fails(1, `pod pending does not have a host assigned`, "exec", "pending", "--", "true")
	// Standard output and error arrive apart.
	ctx, cancel := context.WithTimeout(u.Context(), 30*time.Second)
	defer cancel()
	var stdout, stderr bytes.Buffer
	c := u.command(ctx, "exec", "p", "--", "sh", "-c", "echo good; echo bad >&2")
	c.Stdout, c.Stderr = &stdout, &stderr
	if err := c.Run(); err != nil || stdout.String() != "good\n" || !strings.HasSuffix(stderr.String(), "bad\n") {
		u.Errorf("%q, %q, %v", stdout.String(), stderr.String(), err)
	}
	// A megabyte and a half, there and back, to the byte.
	data := make([]byte, 3<<19)
	for i := range data {
		data[i] = byte(rand.IntN(256))
	}
	c = u.command(ctx, "exec", "-i", "p", "--", "cat")
	c.Stdin = bytes.NewReader(data)
	if back, err := c.Output(); err != nil || !bytes.Equal(back, data) {
		u.Errorf("%d of %d bytes came back, %v", len(back), len(data), err)
	}
	// The other transport.
	spdy := *u
	spdy.env = []string{"KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false"}
	spdy.input("by SPDY", `^by SPDY$`, "exec", "-i", "p", "--", "cat")
	spdy.fails(5, `exit code 5`, "exec", "p", "--", "sh", "-c", "exit 5")
	// A static pod is a pod.
	u.ok(`kube-scheduler simulate`, "exec", "-n", "kube-system", "kube-scheduler-node-0", "--", "kube-scheduler", "--help")
}

// terminal types at a real terminal, which script(1) makes.
func terminal(u *user) {
	if _, err := exec.LookPath("script"); err != nil {
		u.Fatal("script is missing: apt-get install bsdutils")
	}
	u.tool("p", "trap 'exit 0' TERM; while true; do sleep 0.1; done")
	typed := func(keys string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		inner := u.command(ctx, args...)
		line := "stty rows 33 cols 99;"
		for _, arg := range inner.Args {
			line += " '" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		c := exec.CommandContext(ctx, "script", "-qec", line, "/dev/null")
		c.Env, c.Stdin = inner.Env, strings.NewReader(keys)
		out, err := c.CombinedOutput()
		return string(out), err
	}
	out, err := typed("tty; stty | head -n 1; echo a$((1+1))b\nexit 9\n", "exec", "-it", "p", "--", "sh")
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 9 {
		u.Errorf("exec -it ended with %v, not with 9", err)
	}
	for _, want := range []string{"/dev/pts/", "a2b", "33", "99"} {
		if !strings.Contains(out, want) {
			u.Errorf("no %q on the terminal:\n%s", want, out)
		}
	}
	out, err = typed("echo c$((1+2))d\nexit\n", "run", "-it", "--rm", "t", "--image="+tools, "--restart=Never", "--", "sh")
	if err != nil || !strings.Contains(out, "c3d") || !strings.Contains(out, `pod "t" deleted`) {
		u.Errorf("run -it --rm: %v\n%s", err, out)
	}
	u.fails(1, `pods "t" not found`, "get", "pod", "t")
}

func copyFiles(u *user) {
	u.tool("p", "trap 'exit 0' TERM; while true; do sleep 0.1; done")
	here := u.TempDir()
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(rand.IntN(256))
	}
	if err := os.MkdirAll(filepath.Join(here, "tree/deep"), 0o755); err != nil {
		u.Fatal(err)
	}
	for name, content := range map[string][]byte{"big": data, "tree/one": []byte("1"), "tree/deep/two": []byte("2")} {
		if err := os.WriteFile(filepath.Join(here, name), content, 0o600); err != nil {
			u.Fatal(err)
		}
	}
	u.ok(`^$`, "cp", filepath.Join(here, "big"), "p:/tmp/big")
	u.ok(fmt.Sprintf("^%x ", sha256.Sum256(data)), "exec", "p", "--", "sha256sum", "/tmp/big")
	u.ok(``, "cp", "p:/tmp/big", filepath.Join(here, "back"))
	if back, err := os.ReadFile(filepath.Join(here, "back")); err != nil || !bytes.Equal(back, data) {
		u.Errorf("%d of %d bytes came back, %v", len(back), len(data), err)
	}
	u.ok(`^$`, "cp", filepath.Join(here, "tree"), u.namespace+"/p:/tmp/tree", "-c", "p")
	u.ok(`^2$`, "exec", "p", "--", "cat", "/tmp/tree/deep/two")
	u.ok(``, "cp", "p:/tmp/tree", filepath.Join(here, "tree-back"))
	if back, err := os.ReadFile(filepath.Join(here, "tree-back/deep/two")); err != nil || string(back) != "2" {
		u.Errorf("%q, %v", back, err)
	}
	u.fails(2, `no such file or directory`, "cp", "p:/tmp/none", filepath.Join(here, "none"))
}

func portForward(u *user) {
	u.input(shop, `created`, "apply", "-f", "-")
	u.ok(`successfully rolled out`, "rollout", "status", "deployment/shop", "--timeout=60s")
	for _, target := range []string{"service/shop :80", "deployment/shop :9898"} {
		out, _, _ := u.background(append([]string{"port-forward"}, strings.Fields(target)...)...)
		ready := regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+) -> 9898`)
		eventually(u.T, 10*time.Second, "port-forward to "+target, func() error { return out.has(ready.String()) })
		base := "http://" + ready.FindStringSubmatch(out.String())[1]
		for range 3 {
			response, err := web.Get(base + "/version")
			if err != nil {
				u.Fatalf("%s: %v\n%s", target, err, out)
			}
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || !bytes.Contains(body, []byte("6.9.2")) {
				u.Errorf("%s: %s, %v", target, body, err)
			}
		}
	}
	// Nothing listens there: one connection fails and says so, the rest live on.
	out, _, _ := u.background("port-forward", "deployment/shop", ":12345")
	ready := regexp.MustCompile(`Forwarding from (127\.0\.0\.1:\d+) -> 12345`)
	eventually(u.T, 10*time.Second, "port-forward", func() error { return out.has(ready.String()) })
	connection, err := net.Dial("tcp", ready.FindStringSubmatch(out.String())[1])
	if err != nil {
		u.Fatal(err)
	}
	defer connection.Close()
	eventually(u.T, 10*time.Second, "error of port-forward", func() error { return out.has(`12345.*connection refused`) })
	u.fails(1, `does not have a service port 81`, "port-forward", "service/shop", ":81")
}

func attach(u *user) {
	u.ok(`created`, "run", "p", "--image="+tools, "-i", "--restart=Never", "--attach=false", "--command", "--", "sh", "-c", "while read line; do echo \"heard $line\"; [ \"$line\" = end ] && exit 4; done")
	u.ok(`condition met`, "wait", "pod/p", "--for=condition=Ready", "--timeout=60s")
	out, in, end := u.background("attach", "-i", "p")
	fmt.Fprintln(in, "one")
	eventually(u.T, 10*time.Second, "an answer", func() error { return out.has(`heard one`) })
	// A second one sees the same.
	other, _, endOther := u.background("attach", "p")
	eventually(u.T, 10*time.Second, "the other's start", func() error { return other.has(`If you don't see a command prompt|attached`) })
	eventually(u.T, 10*time.Second, "output at both", func() error {
		fmt.Fprintln(in, "two")
		return other.has(`heard two`)
	})
	fmt.Fprintln(in, "end")
	_, _ = end(), endOther()
	u.ok(`condition met`, "wait", "pod/p", "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}=4", "--timeout=30s")
	u.fails(1, `cannot attach a container in a completed pod; current phase is Failed`, "attach", "p")
}

func runPods(u *user) {
	u.ok(`pod/p created`, "run", "p", "--image="+podinfo, "--port=9898", "--labels=app=p,tier=x", "--env=A=b")
	u.ok(`^p x b 9898$`, "get", "pod", "p", "-o", "jsonpath={.metadata.labels.app} {.metadata.labels.tier} {.spec.containers[0].env[0].value} {.spec.containers[0].ports[0].containerPort}")
	u.ok(`service/web created\npod/web created`, "run", "web", "--image="+podinfo, "--port=9898", "--expose")
	u.ok(`kind: Pod`, "run", "x", "--image="+podinfo, "--dry-run=client", "-o", "yaml")
	u.input("from stdin\n", `from stdin`, "run", "i", "--image="+tools, "--restart=Never", "--rm", "-i", "--quiet", "--", "cat")
	u.fails(3, `pod .*/bad terminated \(Error\)|terminated with exit code 3`, "run", "bad", "--image="+tools, "--restart=Never", "--rm", "-i", "--", "sh", "-c", "sleep 1; exit 3")
	u.fails(1, `pods "p" already exists`, "run", "p", "--image="+podinfo)
	u.fails(1, `Invalid image name`, "run", "y", "--image=Not An Image")
	u.ok(`deleted`, "delete", "pod,service", "--all", "--wait=false")
}
