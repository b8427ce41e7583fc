package critest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/nstest"
)

// rounds is how often each operation is measured; a figure is the median, with
// the 95th percentile behind it.
const rounds = 25

// times are what operations took, by name, in the order of their first call.
type times struct {
	order []string
	of    map[string][]time.Duration
}

// take measures one operation.
func (x *times) take(tb testing.TB, name string, operation func() error) {
	tb.Helper()
	began := time.Now()
	err := operation()
	took := time.Since(began)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	x.add(name, took)
}

func (x *times) add(name string, took time.Duration) {
	if x.of == nil {
		x.of = map[string][]time.Duration{}
	}
	if x.of[name] == nil {
		x.order = append(x.order, name)
	}
	x.of[name] = append(x.of[name], took)
}

// at is how long an operation took at most in so many percent of all cases.
func (x *times) at(name string, percent int) time.Duration {
	list := slices.Sorted(slices.Values(x.of[name]))
	return list[len(list)*percent/100]
}

func (x *times) figure(name string) string {
	if len(x.of[name]) == 0 {
		return "-"
	}
	return fmt.Sprintf("%7.1f %7.1f", ms(x.at(name, 50)), ms(x.at(name, 95)))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkRuntimes takes a pod and a container through their lives on both
// runtimes, turn and turn about, and beside them what neither can do without:
// runc alone, and the network plugins alone.
func BenchmarkRuntimes(b *testing.B) {
	unpack(b)
	ours.start(b)
	theirs.start(b)
	clients := []api{ours.dial(b), theirs.dial(b)}
	var measured [2]times
	var floor times
	bundle := makeBundle(b)
	for _, client := range clients {
		_, err := client.PullImage(b.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: defaultImage}})
		must(b, err)
		var warm times
		lifecycle(b, client, &warm, "warm")
	}
	for i := range rounds {
		for r, client := range clients {
			lifecycle(b, client, &measured[r], fmt.Sprint("bench", i))
		}
		floor.take(b, "runc run", func() error { return runcRun(bundle, fmt.Sprint("bench", i)) })
		plugins(b, &floor, fmt.Sprint("bench", i))
	}
	fmt.Printf("%-28s %15s %15s %15s   milliseconds: median, p95 of %d\n", "", ours.name, theirs.name, "alone", rounds)
	for _, name := range measured[0].order {
		fmt.Printf("%-28s %15s %15s\n", name, measured[0].figure(name), measured[1].figure(name))
	}
	for _, name := range floor.order {
		fmt.Printf("%-28s %15s %15s %15s\n", name, "", "", floor.figure(name))
	}
	parallel(b, clients)
}

// lifecycle is one pod with one container, from nothing to nothing.
func lifecycle(tb testing.TB, client api, x *times, name string) {
	ctx, config := tb.Context(), podConfig(name)
	var pod, id string
	x.take(tb, "RunPodSandbox", func() error {
		r, err := client.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
		pod = r.GetPodSandboxId()
		return err
	})
	x.take(tb, "CreateContainer", func() error {
		r, err := client.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig(name, "exec sleep 1000"), SandboxConfig: config})
		id = r.GetContainerId()
		return err
	})
	x.take(tb, "StartContainer", func() error {
		return failure(client.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id}))
	})
	x.take(tb, "ExecSync true", func() error {
		return failure(client.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}}))
	})
	x.take(tb, "ListContainers, status", func() error {
		if _, err := client.ListContainers(ctx, &cri.ListContainersRequest{}); err != nil {
			return err
		}
		return failure(client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id}))
	})
	x.take(tb, "ContainerStats", func() error {
		return failure(client.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id}))
	})
	x.take(tb, "StopContainer", func() error {
		return failure(client.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id}))
	})
	x.take(tb, "RemoveContainer", func() error {
		return failure(client.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id}))
	})
	x.take(tb, "StopPodSandbox", func() error {
		return failure(client.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}))
	})
	x.take(tb, "RemovePodSandbox", func() error {
		return failure(client.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod}))
	})
}

// parallel starts twenty pods at once.
func parallel(tb testing.TB, clients []api) {
	const pods = 20
	for r, client := range clients {
		began := time.Now()
		done := make(chan error, pods)
		for i := range pods {
			go func() {
				done <- failure(client.RunPodSandbox(context.Background(), &cri.RunPodSandboxRequest{Config: podConfig(fmt.Sprint("many", i))}))
			}()
		}
		for range pods {
			must(tb, <-done)
		}
		fmt.Printf("%d pods at once on %s: %.0f ms\n", pods, []string{ours.name, theirs.name}[r], float64(time.Since(began).Milliseconds()))
	}
}

// makeBundle is what runc wants: the files of an image, and a spec.
func makeBundle(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(tb.TempDir(), "bundle")
	must(tb, os.MkdirAll(filepath.Join(dir, "rootfs/bin"), 0o755))
	path, err := exec.LookPath("busybox")
	must(tb, err)
	data, err := os.ReadFile(path)
	must(tb, err)
	must(tb, os.WriteFile(filepath.Join(dir, "rootfs/bin/true"), data, 0o755))
	spec := exec.Command("runc", "spec")
	spec.Dir = dir
	must(tb, spec.Run())
	config := filepath.Join(dir, "config.json")
	data, err = os.ReadFile(config)
	must(tb, err)
	must(tb, os.WriteFile(config, []byte(strings.NewReplacer(`"sh"`, `"true"`, `"terminal": true`, `"terminal": false`,
		`"ociVersion"`, `"x":0,"ociVersion"`).Replace(string(data))), 0o644))
	return dir
}

func runcRun(bundle, id string) error {
	output, err := exec.Command("runc", "run", "--bundle", bundle, "critest-"+id).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// plugins runs the bridge plugin as a CRI server does, without one.
func plugins(tb testing.TB, x *times, name string) {
	ns := nstest.New(tb, name)
	for _, verb := range []string{"ADD", "DEL"} {
		x.take(tb, "CNI "+verb+" (bridge)", func() error { return plugin(verb, name, ns.Path) })
	}
}

func plugin(verb, name, netns string) error {
	cmd := exec.Command("/run/cni/bin/bridge")
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+name, "CNI_NETNS="+netns, "CNI_IFNAME=eth0", "CNI_PATH=/run/cni/bin")
	cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"critest","type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,
		"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.9.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`)
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}
