package labs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/client"
)

// Two places are made of our own programs and nothing else, so they need no
// root and start in about a second: an API server alone, and a control plane
// with hollow nodes.

// programs are what a place has started, the last one last.
type programs struct {
	*run
	commands []*exec.Cmd
}

// start starts one of our own programs; what it says goes to a file.
func (p *programs) start(name string, args ...string) error {
	log, err := os.Create(p.log(name))
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(p.Self, append([]string{name}, args...)...)
	command.Stdout, command.Stderr, command.Env = log, log, append(os.Environ(), "TMPDIR="+p.scratch)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := command.Start(); err != nil {
		return err
	}
	p.commands = append(p.commands, command)
	return nil
}

func (p *programs) log(name string) string { return filepath.Join(p.scratch, name+".log") }

// leave ends them, in the opposite order. Most have no state; etcd's is in the
// lab's folder, which goes next.
func (p *programs) leave(context.Context) error {
	for _, command := range slices.Backward(p.commands) {
		command.Process.Kill()
		command.Wait() // killed: its error is that
	}
	return nil
}

// away is leave as a command.
func (p *programs) away() []string {
	line := "kill -KILL" // as leave does: nobody writes while the folder goes
	for _, command := range slices.Backward(p.commands) {
		line += " " + strconv.Itoa(command.Process.Pid)
	}
	return []string{line}
}

// until waits for a program to have done something.
func (p *programs) until(ctx context.Context, name, what string, done func(context.Context) bool) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for !done(ctx) {
		if err := pause(ctx); err != nil {
			said, _ := os.ReadFile(p.log(name))
			return errors.Join(fmt.Errorf("%s: %w\n%s", what, err, said), p.leave(ctx))
		}
	}
	return nil
}

// apiserver is an API server alone, with the etcd that it brings. $SERVER is
// its URL, $PKI the folder of the certificates that it made for itself.
func apiserver(ctx context.Context, r *run) (*site, error) {
	site, _, err := alone(ctx, r)
	return site, err
}

func alone(ctx context.Context, r *run) (*site, *programs, error) {
	if lo, err := net.InterfaceByName("lo"); err == nil && lo.Flags&net.FlagUp == 0 {
		return nil, nil, errors.New("nobody can be reached on 127.0.0.1 in this network namespace: ip link set lo up")
	}
	p, data := &programs{run: r}, filepath.Join(r.scratch, "apiserver")
	if err := p.start("kube-apiserver", "--bind-address=127.0.0.1", "--secure-port=0", "--allow-privileged", "--etcd-data-dir="+data); err != nil {
		return nil, nil, err
	}
	kubeconfig := filepath.Join(data, "pki", "admin.conf")
	if err := p.until(ctx, "kube-apiserver", "the API server did not become ready", func(ctx context.Context) bool { return answers(ctx, kubeconfig) }); err != nil {
		return nil, nil, err
	}
	config, err := client.LoadKubeconfig(kubeconfig)
	if err != nil {
		return nil, nil, errors.Join(err, p.leave(ctx))
	}
	return &site{shell: bash, leave: p.leave, away: p.away, env: []string{"KUBECONFIG=" + kubeconfig, "SERVER=" + config.Host, "PKI=" + filepath.Dir(kubeconfig),
		"ETCDCTL_ENDPOINTS=unix://" + filepath.Join(data, "etcd", "client.sock")}}, p, nil
}

// hollowNodes is how many machines a lab has that needs some and no more.
const hollowNodes = 5

// hollow is a control plane and nodes on which nothing really runs: enough for
// whatever is decided rather than done.
func hollow(ctx context.Context, r *run) (*site, error) {
	site, p, err := alone(ctx, r)
	if err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(r.scratch, "apiserver", "pki", "admin.conf")
	for _, program := range [][]string{
		{"kube-controller-manager", "--secure-port=0", "--leader-elect=false", "--root-ca-file", filepath.Join(filepath.Dir(kubeconfig), "ca.crt")},
		{"kube-scheduler", "--secure-port=0", "--leader-elect=false"},
		{"hollow", "--nodes", strconv.Itoa(hollowNodes)},
	} {
		if err := p.start(program[0], append(program[1:], "--kubeconfig", kubeconfig)...); err != nil {
			return nil, errors.Join(err, p.leave(ctx))
		}
	}
	err = p.until(ctx, "hollow", "the nodes did not become ready", func(ctx context.Context) bool { return readyNodes(ctx, kubeconfig) == hollowNodes })
	if err != nil {
		return nil, err
	}
	return site, nil
}

// readyNodes counts the nodes that say they are ready.
func readyNodes(ctx context.Context, kubeconfig string) (n int) {
	config, err := client.LoadKubeconfig(kubeconfig)
	if err != nil {
		return 0
	}
	api, err := client.New(config)
	if err != nil {
		return 0
	}
	nodes, err := client.For(api, client.Nodes).List(ctx, "", metav1.ListOptions{})
	if err != nil {
		return 0
	}
	for _, node := range nodes.Items {
		for _, condition := range node.Status.Conditions {
			if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
				n++
			}
		}
	}
	return n
}
