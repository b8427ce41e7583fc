package kubelet

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tinykube/internal/fakecri"
)

// A container that ignores its signal lives for the whole of its grace, of which
// the preStop hook uses a part; one that obeys is gone at once.
func TestGraceIsHonoured(t *testing.T) {
	for _, c := range []struct {
		stubborn    bool
		hook, lives int // seconds
	}{
		{stubborn: true, lives: 10},
		{stubborn: true, hook: 4, lives: 10},
		{stubborn: true, hook: 9, lives: 9 + minimumStop},
		{hook: 4, lives: 4},
		{},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t)
				n.runtime.Programs["app:1"] = fakecri.Program{Stubborn: c.stubborn}
				hook := ""
				if c.hook > 0 {
					hook = fmt.Sprintf(", lifecycle: {preStop: {sleep: {seconds: %d}}}", c.hook)
				}
				n.manifest("web", "  terminationGracePeriodSeconds: 10\n  containers: [{name: a, image: app:1"+hook+"}]\n")
				n.start()
				noticed := time.Now().Add(n.cfg.FileCheckFrequency) // by the next scan
				settle(2 * time.Second)
				n.expectRunning("a")
				n.removeManifest("web")
				for synctest.Wait(); len(n.running()) > 0 && time.Since(noticed) < time.Minute; synctest.Wait() {
					time.Sleep(100 * time.Millisecond)
				}
				if lived := time.Since(noticed); lived != time.Duration(c.lives)*time.Second {
					t.Errorf("lived %s, want %d s", lived, c.lives)
				}
				n.stop()
			})
		})
	}
}
