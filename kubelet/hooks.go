package kubelet

import (
	"context"
	"errors"
	"fmt"
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
	k.containerEvents(pod, c)(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
	k.containerEvents(pod, c)(corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
	if stop := k.runtime.stopContainer(ctx, id, (*endCase)(nil).graceSeconds(pod)); stop != nil {
		err = errors.Join(err, stop)
	}
	return &waitError{reason: reasonPostStart, text: err.Error()}
}

// runHook runs one lifecycle handler to its end.
func (k *Kubelet) runHook(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string, hook *corev1.LifecycleHandler) error {
	switch {
	case hook.Exec != nil:
		output, code, err := k.runtime.exec(ctx, id, hook.Exec.Command, 0)
		if err == nil && code != 0 {
			err = fmt.Errorf("command exited with %d: %.200s", code, output)
		}
		return err
	case hook.HTTPGet != nil:
		target, err := k.httpTarget(pod, c, hook.HTTPGet)
		if err != nil {
			return err
		}
		result, text := httpProbe(ctx, target, 0)
		if result != probeSuccess {
			return errors.New(text)
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

// exec runs a command in a container and waits for it. A timeout of zero means
// as long as ctx.
func (r *containerRuntime) exec(ctx context.Context, id string, command []string, timeout time.Duration) (output []byte, code int32, err error) {
	answer, err := r.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
		ContainerId: id, Cmd: command, Timeout: int64(timeout / time.Second)})
	if err != nil {
		return nil, 0, err
	}
	return append(answer.Stdout, answer.Stderr...), answer.ExitCode, nil
}
