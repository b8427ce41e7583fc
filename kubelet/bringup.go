package kubelet

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imagePoll is how often a container that waits for its image looks for it.
const imagePoll = 2 * time.Second

// bringUp does what is missing until the pod is as it should be: it is the
// kubelet's main road. It returns when it wants to look again by itself.
func (w *worker) bringUp(ctx context.Context, pod *corev1.Pod, seen *observedPod) (time.Duration, error) {
	k := w.k
	if left, over := deadlineLeft(pod, w.publishedStatus(), time.Now()); over {
		const text = "Pod was active on the node longer than the specified deadline"
		k.eventf(pod, corev1.EventTypeNormal, "DeadlineExceeded", text)
		w.end(&endCase{reason: "DeadlineExceeded", message: text})
		return 0, nil
	} else if status := w.publish(pod, seen, false); isTerminal(status.Phase) {
		w.poke() // its work is done: on to terminate
		return 0, nil
	} else if rejection, err := w.admit(ctx, pod, seen); rejection != nil || err != nil {
		if rejection != nil {
			k.eventf(pod, corev1.EventTypeWarning, rejection.reason, "%s", rejection.message)
			w.end(&endCase{reason: rejection.reason, message: "Pod was rejected: " + rejection.message, rejected: true})
		}
		return 0, err
	} else if err := w.prepare(ctx, pod, seen); err != nil {
		return 0, err
	} else {
		resizeErr := w.actuate(ctx, pod, seen)
		next, err := w.advance(ctx, pod, seen)
		if err == nil {
			err = resizeErr
		}
		if left > 0 && (next == 0 || left < next) {
			next = left
		}
		return next, err
	}
}

// deadlineLeft is what is left of activeDeadlineSeconds.
func deadlineLeft(pod *corev1.Pod, status corev1.PodStatus, now time.Time) (left time.Duration, over bool) {
	if pod.Spec.ActiveDeadlineSeconds == nil || status.StartTime == nil {
		return 0, false
	}
	left = status.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second).Sub(now)
	return left, left <= 0
}

// prepare makes what the pod needs around it: directories, cgroup, volumes.
func (w *worker) prepare(ctx context.Context, pod *corev1.Pod, seen *observedPod) error {
	k := w.k
	if err := k.networkReady(); err != nil && !pod.Spec.HostNetwork {
		k.eventf(pod, corev1.EventTypeWarning, "NetworkNotReady", "network is not ready: %v", err)
		return fmt.Errorf("network is not ready: %w", err)
	}
	if _, err := k.servicesFor(pod); err != nil {
		return err
	}
	if err := os.MkdirAll(k.volumes.podDir(pod.UID), 0o750); err != nil {
		return err
	}
	if err := os.MkdirAll(k.logDir(pod), 0o755); err != nil {
		return err
	}
	began, err := time.Now(), error(nil)
	// While its containers change, their group does with them: actuate.
	if inPlace, restarts := resizing(pod, seen); !restarts && len(inPlace) == 0 && !w.resizeInProgress() {
		err = k.cgroups.ensurePod(pod)
		since(k.metrics.cgroupTime.WithLabelValues("create"), began)
	}
	if err != nil {
		k.eventf(pod, corev1.EventTypeWarning, "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
		return err
	}
	// Volumes are made before the first container and refreshed now and then;
	// not every wink of a probe is a reason to ask the API server.
	if w.mounted != nil && !specChanged(w.mountedOf, pod) && time.Since(w.mountedAt) < volumeRefresh {
		return nil
	}
	mounted, err := k.volumes.setUp(ctx, k.facts(withUsedVolumes(pod), seen))
	if err != nil {
		k.eventf(pod, corev1.EventTypeWarning, "FailedMount", "%v", err)
		return err
	}
	w.mounted, w.mountedAt, w.mountedOf = mounted, time.Now(), pod
	return nil
}

// advance plans the next step and carries it out, over and over until nothing
// is left that could be done now.
func (w *worker) advance(ctx context.Context, pod *corev1.Pod, seen *observedPod) (time.Duration, error) {
	k := w.k
	for {
		k.probes.follow(w, pod, seen)
		plan := planPod(pod, seen, k.probes.verdict).orWhole(pod, seen)
		var wait time.Duration
		progress, err := false, error(nil)
		over := restartsAll(pod, seen)
		if over || !plan.empty() {
			if over {
				progress, err = true, w.restartAll(ctx, pod, seen)
			} else {
				progress, wait, err = w.carryOut(ctx, pod, seen, plan)
			}
			var again error
			if seen, again = k.runtime.observe(ctx, w.uid); again != nil {
				return 0, again
			}
			w.note(seen)
		}
		status := w.publish(pod, seen, false)
		if err != nil {
			return 0, err
		}
		if isTerminal(status.Phase) {
			w.poke()
			return 0, nil
		}
		if !progress || ctx.Err() != nil {
			k.probes.follow(w, pod, seen)
			return wait, ctx.Err()
		}
	}
}

// carryOut does one plan. progress says that something was started, so that
// another look is worth while; wait, when a backoff ends.
func (w *worker) carryOut(ctx context.Context, pod *corev1.Pod, seen *observedPod, plan podPlan) (progress bool, wait time.Duration, err error) {
	k := w.k
	if plan.stopPod {
		if plan.createSandbox && len(seen.sandboxes) > 0 {
			k.eventf(pod, corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		}
		if err := k.stopPod(ctx, pod, seen, (*endCase)(nil).graceSeconds(pod)); err != nil {
			return false, 0, err
		}
		progress = true
	}
	for _, order := range plan.stop {
		k.stopOne(ctx, pod, order.container, order.message, probeGrace(pod, order))
	}
	if ctx.Err() != nil {
		return false, 0, ctx.Err()
	}
	sandbox := seen.sandbox()
	if plan.createSandbox {
		if sandbox, err = w.createSandbox(ctx, pod, plan.attempt); err != nil {
			return false, 0, err
		}
	}
	if sandbox == nil {
		return false, 0, nil
	}
	for _, c := range plan.start {
		left, err := w.startContainer(ctx, pod, c, sandbox, seen)
		switch {
		case ctx.Err() != nil:
			return false, 0, ctx.Err()
		case err == nil:
			progress = true
		case left == 0: // it failed, and nobody knows when it may succeed
			left = retryMax
			fallthrough
		default:
			if wait == 0 || left < wait {
				wait = left
			}
		}
	}
	return progress, wait, nil
}

// createSandbox makes the pod's shared namespaces and network.
func (w *worker) createSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) (*runtimeapi.PodSandboxStatus, error) {
	k := w.k
	var userns *runtimeapi.UserNamespace
	handler, err := apiObjects{k.client}.runtimeHandler(ctx, pod)
	if err == nil {
		userns, err = k.userNamespace(pod, handler)
	}
	if err == nil {
		err = k.impossible(pod)
	}
	if err != nil {
		k.eventf(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	ctx, cancel := steady(ctx)
	defer cancel()
	answer, err := k.runtime.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{
		Config: k.sandboxConfig(pod, userns, attempt), RuntimeHandler: handler})
	if err != nil {
		k.eventf(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %s", message(err))
		return nil, fmt.Errorf("create sandbox: %w", err)
	}
	status, err := k.runtime.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: answer.PodSandboxId})
	if err != nil {
		return nil, fmt.Errorf("sandbox status: %w", err)
	}
	return status.Status, nil
}

// startContainer gives a container its next life, unless it must wait. left is
// how long, if that is known.
func (w *worker) startContainer(ctx context.Context, pod *corev1.Pod, c *corev1.Container, sandbox *runtimeapi.PodSandboxStatus, seen *observedPod) (left time.Duration, err error) {
	defer func() { // what the status will say
		w.k.metrics.containerStarted(pod, c.Name, err)
		if why, ok := err.(*waitError); ok {
			w.waiting[c.Name] = why
		} else if err == nil {
			delete(w.waiting, c.Name)
		}
	}()
	if left, err := w.crashBackoff(pod, c, seen); err != nil {
		return left, err
	}
	config := w.k.sandboxConfig(pod, sandbox.GetLinux().GetNamespaces().GetOptions().GetUsernsOptions(), sandbox.Metadata.GetAttempt())
	began := time.Now()
	image, err := w.k.ensureImage(ctx, pod, c, config)
	w.pulling += time.Since(began)
	if err != nil {
		// Meanwhile somebody may bring the image: look more often than we pull.
		left := min(w.k.imageBackoff.remaining(imageKey(pod, c), time.Now()), imagePoll)
		return left, w.imageError(pod, c, err)
	}
	if key, err := w.pullImageVolumes(ctx, pod, c, config); err != nil {
		return min(w.k.imageBackoff.remaining(key, time.Now()), imagePoll), w.imageError(pod, c, err)
	}
	id, err := w.create(ctx, pod, c, sandbox, config, image, seen)
	if err != nil {
		return 0, err
	}
	return 0, w.k.postStart(ctx, pod, c, id)
}

// pullImageVolumes brings the images that a container mounts. After an error,
// key is what its backoff goes by.
func (w *worker) pullImageVolumes(ctx context.Context, pod *corev1.Pod, c *corev1.Container, sandbox *runtimeapi.PodSandboxConfig) (key string, err error) {
	for _, volume := range pod.Spec.Volumes {
		if volume.Image == nil || !slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume.Name }) {
			continue
		}
		wanted := &corev1.Container{Image: volume.Image.Reference, ImagePullPolicy: volume.Image.PullPolicy}
		image, err := w.k.ensureImage(ctx, pod, wanted, sandbox)
		if err != nil {
			return imageKey(pod, wanted), err
		}
		w.mounted[volume.Name] = mountedVolume{readOnly: true,
			image: &runtimeapi.ImageSpec{Image: image.Id, UserSpecifiedImage: wanted.Image, Annotations: pod.Annotations}}
	}
	return "", nil
}

// imageError reports that an image is not there. During a backoff it goes on
// saying what went wrong when it was last tried.
func (w *worker) imageError(pod *corev1.Pod, c *corev1.Container, err error) error {
	why, ok := err.(*waitError)
	if !ok {
		return err
	}
	before, event := w.waiting[c.Name], w.k.containerEvents(pod, c)
	if why.reason == reasonImageBackOff {
		if before != nil && before.reason == reasonImageBackOff {
			return before // said already
		}
		event(corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", c.Image)
		if before != nil {
			why.text += ": " + before.reason + ": " + before.text
		}
	}
	event(corev1.EventTypeWarning, "Failed", "Error: %s", why.reason)
	return why
}

// crashBackoff makes a container that keeps ending wait, longer each time. Its
// last end counts that is known: when we have just stopped it ourselves, that is
// the one before.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/kuberuntime doBackOff.
func (w *worker) crashBackoff(pod *corev1.Pod, c *corev1.Container, seen *observedPod) (time.Duration, error) {
	lives := slices.DeleteFunc(seen.attempts(c.Name), func(life *observedContainer) bool { return !life.exited() })
	if len(lives) == 0 {
		return 0, nil
	}
	latest := lives[0]
	key, now := string(pod.UID)+"/"+c.Name+"/"+containerHash(c), time.Now()
	ended := time.Unix(0, latest.FinishedAt)
	left, delay := w.k.crashes.since(key, ended, now)
	if left <= 0 {
		w.k.crashes.next(key, ended, now)
		return 0, nil
	}
	if why := w.waiting[c.Name]; why == nil || why.reason != reasonCrashLoop || why.delay != delay {
		w.k.containerEvents(pod, c)(corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s", c.Name, podTitle(pod))
	}
	return left, &waitError{reasonCrashLoop, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, c.Name, podTitle(pod)), delay}
}

// create makes the container in the runtime and starts it.
func (w *worker) create(ctx context.Context, pod *corev1.Pod, c *corev1.Container, sandbox *runtimeapi.PodSandboxStatus, sandboxConfig *runtimeapi.PodSandboxConfig, image *runtimeapi.Image, seen *observedPod) (string, error) {
	k := w.k
	event := k.containerEvents(pod, c)
	facts := k.facts(pod, seen)
	facts.volumes = w.mounted
	if ip := sandbox.Network.GetIp(); ip != "" && !pod.Spec.HostNetwork { // newer than seen, perhaps
		facts.podIPs = (&observedPod{sandboxes: []*runtimeapi.PodSandboxStatus{sandbox}}).ips()
	}
	config, err := k.containerConfig(ctx, containerInput{facts: facts, container: c, image: image,
		attempt: k.nextAttempt(pod, c.Name, seen), volumes: w.mounted, handler: sandbox.RuntimeHandler, target: debugTarget(pod, c, seen)})
	if err != nil {
		event(corev1.EventTypeWarning, "Failed", "Error: %v", err)
		return "", &waitError{reason: reasonConfigError, text: err.Error()}
	}
	if err := k.runtime.given.setContainer(pod, c); err != nil {
		event(corev1.EventTypeWarning, "Failed", "Error: %v", err)
		return "", &waitError{reason: reasonConfigError, text: err.Error()}
	}
	ctx, cancel := steady(ctx)
	defer cancel()
	// We died between creating and starting: what was created never lived.
	if latest := seen.latest(c.Name); latest != nil && latest.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		if err := k.runtime.removeContainer(ctx, latest.Id); err != nil {
			return "", err
		}
	}
	answer, err := k.runtime.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.Id, Config: config, SandboxConfig: sandboxConfig})
	if err != nil {
		event(corev1.EventTypeWarning, "Failed", "Error: %s", message(err))
		return "", &waitError{reason: reasonCreateError, text: message(err)}
	}
	event(corev1.EventTypeNormal, "Created", "Container created")
	if _, err := k.runtime.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: answer.ContainerId}); err != nil {
		event(corev1.EventTypeWarning, "Failed", "Error: %s", message(err))
		return "", &waitError{reason: reasonRunError, text: message(err)}
	}
	event(corev1.EventTypeNormal, "Started", "Container started")
	k.linkLog(pod, c.Name, answer.ContainerId, filepath.Join(sandboxConfig.LogDirectory, config.LogPath))
	return answer.ContainerId, nil
}

// linkLog makes the flat name under which log collectors expect a container's
// log.
func (k *Kubelet) linkLog(pod *corev1.Pod, container, id, logPath string) {
	link := filepath.Join(k.cfg.ContainerLogsDir, fmt.Sprintf("%s_%s_%s-%s.log", pod.Name, pod.Namespace, container, id))
	if err := os.Symlink(logPath, link); err != nil && !os.IsExist(err) {
		k.log.Debug("log link not made", "key", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// debugTarget finds the container whose processes an ephemeral one shall see.
func debugTarget(pod *corev1.Pod, c *corev1.Container, seen *observedPod) string {
	for _, e := range pod.Spec.EphemeralContainers {
		if e.Name == c.Name && e.TargetContainerName != "" {
			if target := seen.latest(e.TargetContainerName); target != nil {
				return target.Id
			}
		}
	}
	return ""
}

// steady is a context for a step that must not be torn in the middle: a
// sandbox half made because its pod was deleted meanwhile would be a leak.
func steady(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 4*time.Minute)
}
