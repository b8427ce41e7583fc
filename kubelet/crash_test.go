package kubelet

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/fakecri"
)

// TestKilledAtEveryCall cuts the kubelet off from its runtime after each of
// its first calls, one more each time, as a kill -9 would; then a new kubelet
// has to find what there is, finish it, and start nothing twice.
func TestKilledAtEveryCall(t *testing.T) {
	const pod = "  initContainers: [{name: i, image: once}]\n  containers: [{name: a, image: app:1}, {name: b, image: app:1}]\n"
	for i := 2; i < 120; i++ {
		after, lost := i/2, i%2 == 1
		synctest.Test(t, func(t *testing.T) {
			n := newNode(t)
			n.quiet = true
			n.runtime.Programs["once"] = programOnce
			n.manifest("web", pod)
			var knife cut
			knife.install(n.runtime)
			knife.off(after, lost)
			n.start()
			settle(10 * time.Second)
			n.stop()
			knife.heal()
			n.start()
			settle(40 * time.Second)
			if got := fmt.Sprint(n.running()); got != "[a b]" {
				t.Errorf("cut off after %d calls: running %s", after, got)
			}
			ready := 0
			for _, s := range n.runtime.Sandboxes() {
				if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
					ready++
				}
			}
			if ready != 1 {
				t.Errorf("cut off after %d calls: %d sandboxes are ready", after, ready)
			}
			for _, name := range []string{"a", "b"} {
				if s := n.container("web", name); s.RestartCount != 0 || !s.Ready {
					t.Errorf("cut off after %d calls: %s has restart count %d, ready %v", after, name, s.RestartCount, s.Ready)
				}
			}
			// And at every call of its end.
			n.removeManifest("web")
			knife.off(after, lost)
			settle(45 * time.Second)
			n.stop()
			knife.heal()
			n.start()
			settle(45 * time.Second)
			if left := len(n.runtime.Sandboxes()) + len(n.runtime.Containers()); left > 0 || len(n.kubelet.volumes.podsOnDisk()) > 0 {
				t.Errorf("cut off after %d calls of its end: %d things are left in the runtime, %v on disk", after, left, n.kubelet.volumes.podsOnDisk())
			}
			n.stop()
		})
	}
}

// cut is a knife between the kubelet and its runtime.
type cut struct {
	left atomic.Int64 // calls that still get through
	lost atomic.Bool  // the first one after them is carried out, unheard
}

// off makes every call after the next few fail.
func (c *cut) off(after int, lost bool) {
	c.lost.Store(lost)
	c.left.Store(int64(after))
}

func (c *cut) heal() { c.off(math.MaxInt, false) }

func (c *cut) install(r *fakecri.Runtime) {
	failure := errors.New("cut off")
	c.heal()
	r.Fault = func(string) error {
		if left := c.left.Add(-1); left < -1 || left == -1 && !c.lost.Load() {
			return failure
		}
		return nil
	}
	r.Lost = func(string) error {
		if c.left.Load() < 0 {
			return failure
		}
		return nil
	}
}
