package kubelet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// postStart runs the hook right after a container's start. If it fails the
// container is as good as not started: it is stopped, and tried again.
func (k *Kubelet) postStart(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := k.runHook(ctx, pod, c, id, c.Lifecycle.PostStart)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	k.log.Warn("postStart hook failed", "key", pod.Namespace+"/"+pod.Name, "err", err)
	// The event must not tell what the hook said: it may be a secret.
	k.containerEvents(pod, c)(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	failed := &observedContainer{ContainerStatus: &runtimeapi.ContainerStatus{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: c.Name}}}
	if err := k.stopOne(ctx, pod, failed, "FailedPostStartHook", (*endCase)(nil).graceSeconds(pod)); err != nil {
		k.log.Warn("a container whose postStart hook failed", "key", pod.Namespace+"/"+pod.Name, "err", err)
	}
	return &waitError{reason: reasonPostStart, text: err.Error()}
}

// runHook runs one lifecycle handler to its end.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/lifecycle/handlers.go.
func (k *Kubelet) runHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, hook *corev1.LifecycleHandler) error {
	where := fmt.Sprintf("for Container %q in Pod %q failed - error", c.Name, podTitle(pod))
	switch {
	case hook.Exec != nil:
		answer, err := k.runtime.exec(ctx, id, hook.Exec.Command, 0)
		if err == nil && answer.ExitCode != 0 {
			err = fmt.Errorf("command '%s' exited with %d: %.*s", strings.Join(hook.Exec.Command, " "), answer.ExitCode, maxHookOutput, answer.Stderr)
		}
		if err != nil {
			return fmt.Errorf("Exec lifecycle hook (%v) %s: %w, message: %.*q", hook.Exec.Command, where, err, maxHookOutput, answer.both())
		}
		return nil
	case hook.HTTPGet != nil:
		if err := k.httpHook(ctx, pod, c, hook.HTTPGet); err != nil {
			return fmt.Errorf("HTTP lifecycle hook (%s) %s: %w", hook.HTTPGet.Path, where, err)
		}
		return nil
	case hook.Sleep != nil:
		select {
		case <-time.After(time.Duration(hook.Sleep.Seconds) * time.Second):
		case <-ctx.Done():
		}
		return nil
	}
	return errors.New("the hook names no action")
}

// maxHookOutput is what is told of the words of a hook that failed.
const maxHookOutput = 10 << 10

// httpHook sends a hook's request. Any answer will do, and nobody reads it: the
// hook tells the container something, it does not ask. As many hooks say https
// where nobody speaks it, those are told again without.
func (k *Kubelet) httpHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, get *corev1.HTTPGetAction) error {
	request, err := k.httpTarget(pod, c, get, hookUserAgent)
	if err != nil {
		return err
	}
	answer, err := probeClient(0).Do(request.WithContext(ctx))
	if err != nil && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		request.URL.Scheme = "http"
		request.Header.Del("Authorization")
		if answer, err = probeClient(0).Do(request.WithContext(ctx)); err == nil {
			k.eventf(pod, corev1.EventTypeWarning, "LifecycleHTTPFallback",
				"request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", request.URL.Host)
		}
	}
	if err != nil {
		return err
	}
	return answer.Body.Close()
}
