package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tinykube/client"
	kubectl "tinykube/cmd/kubectl/app"
	"tinykube/internal/node"
)

func newStatus() *cobra.Command {
	var dir string
	command := &cobra.Command{
		Use: "status", Short: "Show nodes, their processes and the API server", Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			c, err := requireCluster(dir)
			if err != nil {
				return err
			}
			return c.status(command.Context())
		},
	}
	addDirFlag(command.Flags(), &dir)
	return command
}

// status exits with an error if any part is down, so that scripts can ask.
func (c *cluster) status(ctx context.Context) error {
	var down []string
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "NODE\tADDRESS\tPID\tSTATE\tPROCESSES\tMEMORY")
	for _, s := range c.specs() {
		status, alive := s.ReadStatus()
		state := status.Phase
		if !alive {
			state = "down"
			down = append(down, s.Name)
		}
		pids := node.Processes(s.CgroupRoot)
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d MiB\n", s.Name, s.Address.Addr(), status.PID, state, len(pids), residentMiB(pids))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Println()
	for _, d := range c.doors() {
		fmt.Printf("relay: %s → %s\n", d.listen, strings.Join(d.targets, ", "))
	}
	if c.relayPID() == 0 {
		down = append(down, "relay")
	}
	api, err := c.client()
	if err == nil {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		_, err = api.Do(try, client.Request{Method: http.MethodGet, Path: "/readyz"})
	}
	if err != nil {
		down = append(down, "API server")
		fmt.Printf("API server: %v\n", err)
	} else {
		fmt.Printf("API server: ready\n")
	}
	if len(down) > 0 {
		return fmt.Errorf("down: %s; `tinykube up` starts what is missing", strings.Join(down, ", "))
	}
	return nil
}

// residentMiB adds up what the processes hold in memory; shared pages count
// for each.
func residentMiB(pids []int) int {
	pages := 0
	for _, pid := range pids {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)) // gone meanwhile: counts nothing
		if fields := strings.Fields(string(raw)); len(fields) > 1 {
			n, _ := strconv.Atoi(fields[1])
			pages += n
		}
	}
	return pages * os.Getpagesize() >> 20
}

// runKubectl is `tinykube kubectl …`: the real one, pointed at the cluster,
// leaving no cache in the user's home.
func runKubectl(args []string) {
	dir := os.Getenv("TINYKUBE_DIR")
	if dir == "" {
		dir = defaultDir
	}
	if c, exists, err := loadCluster(dir); err == nil && exists {
		if os.Getenv("KUBECONFIG") == "" {
			os.Setenv("KUBECONFIG", c.adminConf())
		}
		if os.Getenv("KUBECACHEDIR") == "" {
			os.Setenv("KUBECACHEDIR", c.path("kubectl-cache"))
		}
	}
	kubectl.Main(args)
}

func newLogs() *cobra.Command {
	var dir string
	var lines int
	command := &cobra.Command{
		Use: "logs NODE COMPONENT", Short: "Print what a node's component wrote, also while the API server is down", Args: cobra.ExactArgs(2),
		Long: "COMPONENT is containerd, cri, kubelet or node (PID 1), or a container of a static pod: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.",
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := requireCluster(dir)
			if err != nil {
				return err
			}
			s, err := c.spec(args[0])
			if err != nil {
				return err
			}
			file, err := findLog(s, args[1])
			if err != nil {
				return err
			}
			fmt.Println(tail(file, lines))
			return nil
		},
	}
	command.Flags().IntVar(&lines, "tail", 100, "number of lines")
	addDirFlag(command.Flags(), &dir)
	return command
}

// findLog finds a component's newest log among PID 1's children and the pods.
func findLog(s *node.Spec, component string) (string, error) {
	if component == "node" {
		return filepath.Join(s.Dir, "node.log"), nil
	}
	if file := filepath.Join(s.Path(node.LogDir), component+".log"); exists(file) {
		return file, nil
	}
	pods, _ := filepath.Glob(filepath.Join(s.Path("/var/log/pods"), "*_*", component, "*.log"))
	if len(pods) == 0 {
		return "", fmt.Errorf("node %s has no log of %q", s.Name, component)
	}
	return slices.MaxFunc(pods, func(a, b string) int { return modified(a).Compare(modified(b)) }), nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

func modified(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func newNode() *cobra.Command {
	var dir string
	command := &cobra.Command{Use: "node", Short: "Enter, start or pull the plug of one node"}
	addDirFlag(command.PersistentFlags(), &dir)
	with := func(do func(*node.Spec, []string) error) func(*cobra.Command, []string) error {
		return func(_ *cobra.Command, args []string) error {
			c, err := requireCluster(dir)
			if err != nil {
				return err
			}
			s, err := c.spec(args[0])
			if err != nil {
				return err
			}
			return do(s, args[1:])
		}
	}
	command.AddCommand(
		&cobra.Command{Use: "shell NAME [-- COMMAND …]", Short: "Open a shell, or run a command, inside a node", Args: cobra.MinimumNArgs(1), RunE: with(enter)},
		&cobra.Command{Use: "load NAME ARCHIVE…", Short: "Bring images onto a node: OCI archives, or what docker save writes", Args: cobra.MinimumNArgs(2),
			RunE: with(func(s *node.Spec, archives []string) error {
				for _, archive := range archives {
					if err := s.Load(context.Background(), archive); err != nil {
						return err
					}
				}
				return nil
			})},
		&cobra.Command{Use: "stop NAME", Short: "Pull the plug: everything on the node ends at once", Args: cobra.ExactArgs(1),
			RunE: with(func(s *node.Spec, _ []string) error { return s.Kill(killTimeout) })},
		&cobra.Command{Use: "start NAME", Short: "Put the plug back", Args: cobra.ExactArgs(1),
			RunE: with(func(s *node.Spec, _ []string) error { return node.Start(s) })},
		&cobra.Command{Use: "init SPEC", Hidden: true, Args: cobra.ExactArgs(1),
			RunE: func(command *cobra.Command, args []string) error { return node.Init(command.Context(), args[0]) }},
	)
	return command
}

// enter joins a node's namespaces with nsenter, which is part of util-linux
// and so of every Linux.
func enter(s *node.Spec, args []string) error {
	pid := s.PID()
	if pid == 0 {
		return fmt.Errorf("node %s is down; start it with `tinykube node start %s`", s.Name, s.Name)
	}
	if len(args) == 0 {
		args = []string{"sh", "-i"}
	}
	command := exec.Command("nsenter", append([]string{"--all", "--target", strconv.Itoa(pid), "--"}, args...)...)
	command.Stdin, command.Stdout, command.Stderr = os.Stdin, os.Stdout, os.Stderr
	command.Env = []string{"PATH=" + node.ToolsDir + "/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		"TERM=" + os.Getenv("TERM"), "PS1=" + s.Name + "# ", "KUBECONFIG=/etc/kubernetes/admin.conf", "CONTAINER_RUNTIME_ENDPOINT=" + s.RuntimeEndpoint}
	err := command.Run()
	if exit, ok := err.(*exec.ExitError); ok && len(args) > 0 {
		os.Exit(exit.ExitCode())
	}
	return err
}
