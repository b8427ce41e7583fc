package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	garbagePeriod = time.Minute
	// deadPerContainer is how many dead lives of a container are kept: the one
	// that kubectl logs --previous shows.
	deadPerContainer = 1
)

// collectGarbage removes what pods leave behind while they live: dead
// containers beyond the last, old sandboxes, long logs.
func (k *Kubelet) collectGarbage(ctx context.Context) error {
	garbage, logs := time.NewTicker(garbagePeriod), time.NewTicker(k.cfg.LogPeriod)
	defer garbage.Stop()
	defer logs.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-garbage.C:
			k.volumes.tokens.forget(k.workerUIDs())
			if err := k.removeDead(ctx, false); err != nil && ctx.Err() == nil {
				k.log.Warn("garbage collection", "err", err)
			}
			k.removeOrphanLogs()
		case <-logs.C:
			if err := k.rotateLogs(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn("log rotation", "err", err)
			}
		}
	}
}

// removeDead removes dead containers and sandboxes that nobody will ask for;
// with all set, also the last containers of pods that have ended.
func (k *Kubelet) removeDead(ctx context.Context, all bool) error {
	for _, w := range k.allWorkers() {
		seen, err := k.runtime.observe(ctx, w.uid)
		if err != nil {
			return err
		}
		dead := deadContainers(seen)
		if all && isTerminal(w.publishedStatus().Phase) && !seen.alive() {
			dead = seen.containers
		}
		for _, c := range dead {
			if err := k.runtime.removeContainer(ctx, c.Id); err != nil {
				return err
			}
			k.removeLog(c)
		}
		// An old sandbox goes once no container belongs to it.
		for i, s := range seen.sandboxes {
			used := slices.ContainsFunc(seen.containers, func(c *observedContainer) bool { return c.sandboxID == s.Id })
			if i == 0 || used || isReady(s) {
				continue
			}
			if err := k.runtime.removeSandbox(ctx, s.Id); err != nil {
				return err
			}
		}
	}
	return nil
}

// deadContainers lists what may go. The newest life of a container always
// stays, running or not: the restart count is counted on from it.
func deadContainers(seen *observedPod) []*observedContainer {
	kept := map[string]int{}
	var out []*observedContainer
	for _, c := range seen.containers { // newest first
		n := kept[c.name()]
		if n == 0 || c.running() || c.exited() && n <= deadPerContainer {
			kept[c.name()]++
			continue
		}
		out = append(out, c)
	}
	return out
}

// removeLog removes a collected container's log, rotated parts and flat name.
func (k *Kubelet) removeLog(c *observedContainer) {
	if c.LogPath == "" || !strings.HasPrefix(c.LogPath, k.cfg.PodLogsDir+"/") {
		return // not a path that we gave
	}
	files, _ := filepath.Glob(c.LogPath + "*") // never a bad pattern
	links, _ := filepath.Glob(filepath.Join(k.cfg.ContainerLogsDir, "*-"+c.Id+".log"))
	for _, file := range append(files, links...) {
		os.Remove(file) // what cannot be removed now is garbage next time
	}
}

// removeOrphanLogs removes log directories, links and promises of pods that are
// gone.
func (k *Kubelet) removeOrphanLogs() {
	if _, complete := k.wanted(); !complete {
		return
	}
	alive := k.workerUIDs()
	k.allocated.keep(alive)
	k.runtime.given.keep(alive)
	directories, err := os.ReadDir(k.cfg.PodLogsDir)
	if err != nil {
		return
	}
	for _, d := range directories {
		i := strings.LastIndexByte(d.Name(), '_')
		if i < 0 || slices.Contains(alive, types.UID(d.Name()[i+1:])) {
			continue
		}
		os.RemoveAll(filepath.Join(k.cfg.PodLogsDir, d.Name()))
	}
	k.removeDangling("*.log")
}

func (k *Kubelet) workerUIDs() []types.UID {
	var out []types.UID
	for _, w := range k.allWorkers() {
		out = append(out, w.uid)
	}
	return out
}

// removeDangling removes flat names whose logs are gone.
func (k *Kubelet) removeDangling(pattern string) {
	links, _ := filepath.Glob(filepath.Join(k.cfg.ContainerLogsDir, pattern)) // never a bad pattern
	for _, link := range links {
		if _, err := os.Stat(link); os.IsNotExist(err) {
			os.Remove(link)
		}
	}
}

// rotateLogs rotates the logs that grew too long.
func (k *Kubelet) rotateLogs(ctx context.Context) error {
	if k.cfg.ContainerLogMaxSize <= 0 {
		return nil
	}
	for _, w := range k.allWorkers() {
		_, seen, _ := w.view()
		if seen == nil {
			continue
		}
		for _, c := range seen.running() {
			info, err := os.Stat(c.LogPath)
			if err != nil || info.Size() < k.cfg.ContainerLogMaxSize {
				continue
			}
			err = rotateLog(c.LogPath, k.cfg.ContainerLogMaxFiles, time.Now(), func() error {
				_, err := k.runtime.runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.Id})
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
