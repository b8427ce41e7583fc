package labs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/yaml"

	"tinykube/client"
)

// site is where one lab runs.
type site struct {
	shell []string // what starts a terminal
	env   []string // what a terminal must know
	// leave takes away what the lab had for itself.
	leave func(context.Context) error
	// away is the same as commands, for whoever keeps the lab; nil if it is
	// nothing.
	away func() []string
}

// places make sites, by the name that a lab's README gives to what it needs.
var places = map[string]func(context.Context, *run) (*site, error){
	"nothing":   nothing,
	"network":   network,
	"apiserver": apiserver,
	"hollow":    hollow,
	"machine":   machine,
	"cluster":   onCluster,
}

func placeNames() []string { return slices.Sorted(maps.Keys(places)) }

const (
	readyTimeout = time.Minute
	poll         = 50 * time.Millisecond
)

var bash = []string{"bash", "--noprofile", "--norc"}

func stay(context.Context) error { return nil }

// nothing is a folder and a shell.
func nothing(context.Context, *run) (*site, error) { return &site{shell: bash, leave: stay}, nil }

// network is a network of its own with nothing in it, where the reader is
// root without being it: a user and a network namespace. Its /run is empty and
// its own, so that `ip netns add` and iptables find a place to write.
func network(ctx context.Context, r *run) (*site, error) {
	// The namespaces live as long as cat, and cat as long as we hold its stdin:
	// they go with us, however we end. Only who keeps the lab has them stay.
	hold := "cat"
	if r.Keep {
		hold = "sleep infinity"
	}
	holder := exec.Command("unshare", "-Urnm", "sh", "-c", "mount -t tmpfs run /run && ip link set lo up && echo ready && exec "+hold)
	holder.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	holder.Stderr = os.Stderr
	stdin, err := holder.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := holder.Start(); err != nil {
		return nil, err
	}
	leave := func(context.Context) error {
		stdin.Close()
		return holder.Wait()
	}
	if line := bufio.NewScanner(out); !line.Scan() || line.Text() != "ready" {
		leave(ctx) // what it printed says more
		return nil, errors.New("no network namespace of our own: does this kernel let users have namespaces? (sysctl user.max_user_namespaces)")
	}
	enter := []string{"nsenter", "--preserve-credentials", "-U", "-n", "-m", "--wd=" + r.scratch, "-t", strconv.Itoa(holder.Process.Pid)}
	away := func() []string { return []string{"kill " + strconv.Itoa(holder.Process.Pid)} }
	return &site{shell: append(enter, bash...), leave: leave, away: away}, nil
}

// machine is a node on which only containerd was started. It is the lab's own.
func machine(ctx context.Context, r *run) (*site, error) {
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("lab %s needs a machine of its own, and only root can make one: use sudo", r.lab.Number)
	}
	dir := filepath.Join(r.scratch, "cluster")
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(r.Out, "  … bringing up a bare machine in %s\n", dir)
	down := func(ctx context.Context) error { return r.down(ctx, dir) }
	if err := r.self(ctx, nil, "up", "--bare", "--nodes", "1", "--dir", dir, "--api-port", strconv.Itoa(port)); err != nil {
		return nil, errors.Join(err, down(context.WithoutCancel(ctx)))
	}
	return &site{shell: bash, leave: down, env: []string{"TINYKUBE_DIR=" + dir},
		away: func() []string { return []string{quoted(r.Self) + " down --dir " + quoted(dir)} }}, nil
}

// onCluster is a namespace of a whole cluster: of the one that is there, of
// one that serves all labs of this run, or of the lab's own.
func onCluster(ctx context.Context, r *run) (*site, error) {
	dir, release := r.Dir, stay
	if r.lab.Alone {
		dir = filepath.Join(r.scratch, "cluster")
		release = func(ctx context.Context) error { return r.down(ctx, dir) }
	}
	if err := r.up(ctx, dir, r.lab.Alone); err != nil {
		return nil, err
	}
	namespace := "lab-" + r.lab.Number
	kubeconfig := filepath.Join(r.scratch, "kubeconfig")
	if err := inNamespace(filepath.Join(dir, "admin.conf"), kubeconfig, namespace); err != nil {
		return nil, err
	}
	kubectl := func(ctx context.Context, args ...string) error {
		return r.self(ctx, []string{"KUBECONFIG=" + kubeconfig, "KUBECACHEDIR=" + filepath.Join(r.scratch, "cache")}, append([]string{"kubectl"}, args...)...)
	}
	if err := kubectl(ctx, "create", "namespace", namespace); err != nil {
		return nil, fmt.Errorf("%w\nif this lab was kept, or killed: tinykube kubectl delete namespace %s", err, namespace)
	}
	away := func() []string {
		if r.lab.Alone || slices.Contains(r.brought, dir) {
			return []string{quoted(r.Self) + " down --dir " + quoted(dir)}
		}
		return []string{"KUBECONFIG=" + quoted(kubeconfig) + " " + quoted(r.Self) + " kubectl delete namespace " + namespace}
	}
	return &site{shell: bash, away: away, env: []string{"KUBECONFIG=" + kubeconfig, "TINYKUBE_DIR=" + dir},
		leave: func(ctx context.Context) error {
			return errors.Join(kubectl(ctx, "delete", "namespace", namespace, "--timeout=2m"), release(ctx))
		}}, nil
}

// up makes sure that a cluster runs in dir. One that was not there before goes
// when the run ends.
func (r *run) up(ctx context.Context, dir string, alone bool) error {
	if answers(ctx, filepath.Join(dir, "admin.conf")) {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("lab %s needs a cluster, there is none in %s, and only root can make one: sudo tinykube up", r.lab.Number, dir)
	}
	_, err := os.Stat(filepath.Join(dir, "cluster.json"))
	ours := errors.Is(err, fs.ErrNotExist)
	args := []string{"up", "--dir", dir}
	if ours {
		// Whoever else has a cluster may have the usual port as well.
		port, err := freePort()
		if err != nil {
			return err
		}
		args = append(args, "--nodes", "3", "--api-port", strconv.Itoa(port))
	}
	fmt.Fprintf(r.Out, "  … bringing up a cluster in %s\n", dir)
	if ours && !alone {
		r.brought = append(r.brought, dir)
	}
	if err := r.self(ctx, nil, args...); err != nil {
		if alone {
			return errors.Join(err, r.down(ctx, dir))
		}
		return err
	}
	return nil
}

func (r *Runner) down(ctx context.Context, dir string) error {
	return r.self(ctx, nil, "down", "--dir", dir)
}

// self runs this program and fails with what it printed.
func (r *Runner) self(ctx context.Context, env []string, args ...string) error {
	command := exec.CommandContext(ctx, r.Self, args...)
	command.Env = append(os.Environ(), env...)
	if out, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("tinykube %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// answers reports whether the API server of a kubeconfig is ready.
func answers(ctx context.Context, kubeconfig string) bool {
	config, err := client.LoadKubeconfig(kubeconfig)
	if err != nil {
		return false
	}
	api, err := client.New(config)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := api.Do(ctx, client.Request{Method: http.MethodGet, Path: "/readyz"})
	if err != nil {
		return false
	}
	return response.Body.Close() == nil
}

// inNamespace copies a kubeconfig whose commands are about a namespace.
func inNamespace(from, to, namespace string) error {
	raw, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var config map[string]any
	if err := yaml.Unmarshal(raw, &config); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	contexts, _ := config["contexts"].([]any)
	for _, entry := range contexts {
		if entry, ok := entry.(map[string]any); ok {
			if context, ok := entry["context"].(map[string]any); ok {
				context["namespace"] = namespace
			}
		}
	}
	if raw, err = json.Marshal(config); err != nil { // JSON is YAML
		return err
	}
	return os.WriteFile(to, raw, 0o600)
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

// pause waits a moment between two looks.
func pause(ctx context.Context) error {
	timer := time.NewTimer(poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
