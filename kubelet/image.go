package kubelet

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
)

// The reasons for which a container waits, as kubectl shows them.
const (
	reasonCreating         = "ContainerCreating"
	reasonInitializing     = "PodInitializing"
	reasonCrashLoop        = "CrashLoopBackOff"
	reasonErrImagePull     = "ErrImagePull"
	reasonImageBackOff     = "ImagePullBackOff"
	reasonErrImageNever    = "ErrImageNeverPull"
	reasonInvalidImage     = "InvalidImageName"
	reasonImageInspect     = "ImageInspectError"
	reasonConfigError      = "CreateContainerConfigError"
	reasonCreateError      = "CreateContainerError"
	reasonRunError         = "RunContainerError"
	reasonPostStart        = "PostStartHookError"
	imagePullTimeout       = 30 * time.Minute
	defaultRegistry        = "docker.io"
	legacyDockerHubAddress = "https://index.docker.io/v1/"
)

// waitError is why a container could not be started: shown in its status
// until the next try succeeds.
type waitError struct {
	reason, text string
	delay        time.Duration // of a CrashLoopBackOff
}

func (e *waitError) Error() string { return e.text }

// ensureImage makes sure the image is on the node and returns it.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/images/image_manager.go EnsureImageExists.
func (k *Kubelet) ensureImage(ctx context.Context, pod *corev1.Pod, c *corev1.Container, sandbox *runtimeapi.PodSandboxConfig) (*runtimeapi.Image, error) {
	event := k.containerEvents(pod, c)
	spec := &runtimeapi.ImageSpec{Image: withTag(c.Image), UserSpecifiedImage: c.Image, Annotations: pod.Annotations}
	if _, err := reference.ParseNormalizedNamed(c.Image); err != nil {
		text := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", c.Image, c.Image, err)
		event(corev1.EventTypeWarning, "InspectFailed", "%s", text)
		return nil, &waitError{reason: reasonInvalidImage, text: text}
	}
	present, err := k.runtime.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if ctx.Err() != nil {
		return nil, ctx.Err() // the pod is to end: nothing failed
	}
	if err != nil {
		text := fmt.Sprintf("Failed to inspect image %q: %s", c.Image, message(err))
		event(corev1.EventTypeWarning, "InspectFailed", "%s", text)
		return nil, &waitError{reason: reasonImageInspect, text: text}
	}
	policy := pullPolicy(c)
	credentials := sync.OnceValue(func() []pullCredential { return k.pullCredentials(ctx, pod, c.Image) })
	switch {
	case present.Image != nil && policy != corev1.PullAlways && k.pulled.mayUse(c.Image, present.Image.Id, credentials):
		event(corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		return present.Image, nil
	case policy == corev1.PullNever: // whether it is there, but not for this pod, is not told
		event(corev1.EventTypeWarning, "ErrImageNeverPull", "Container image %q is not present with pull policy of Never", c.Image)
		return nil, &waitError{reason: reasonErrImageNever, text: fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)}
	}
	key := imageKey(pod, c)
	if wait := k.imageBackoff.remaining(key, time.Now()); wait > 0 {
		return nil, &waitError{reason: reasonImageBackOff, text: fmt.Sprintf("Back-off pulling image %q", c.Image)}
	}
	image, err := k.pull(ctx, pod, c, spec, sandbox, credentials())
	if err != nil {
		k.imageBackoff.next(key, time.Now(), time.Now())
		return nil, err
	}
	k.imageBackoff.forget(key)
	return image, nil
}

func (k *Kubelet) pull(ctx context.Context, pod *corev1.Pod, c *corev1.Container, spec *runtimeapi.ImageSpec, sandbox *runtimeapi.PodSandboxConfig, credentials []pullCredential) (*runtimeapi.Image, error) {
	event := k.containerEvents(pod, c)
	event(corev1.EventTypeNormal, "Pulling", "Pulling image %q", c.Image)
	waitStart := time.Now()
	select { // one pull at a time, unless configured otherwise
	case k.pulls <- struct{}{}:
		defer func() { <-k.pulls }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, imagePullTimeout)
	defer cancel()
	if err := k.pulled.begin(c.Image); err != nil {
		text := fmt.Sprintf("Failed to record image pull intent for container image %q: %v", c.Image, err)
		return nil, &waitError{reason: reasonErrImagePull, text: text}
	}
	var answer *runtimeapi.PullImageResponse
	var used pullCredential
	var err error
	for _, used = range credentials {
		if !k.pullRate.Allow() {
			err = errors.New("pull QPS exceeded")
			break
		}
		answer, err = k.runtime.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec, Auth: used.auth, SandboxConfig: sandbox})
		if err == nil {
			break
		}
	}
	if err := k.pulled.end(c.Image, answer.GetImageRef(), used.secret); err != nil {
		k.log.Warn("who may use an image could not be recorded", "key", c.Image, "err", err)
	}
	if err != nil && context.Cause(ctx) == context.Canceled {
		return nil, ctx.Err()
	}
	if err != nil {
		event(corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %s", c.Image, message(err))
		return nil, &waitError{reason: reasonErrImagePull, text: message(err)}
	}
	image := &runtimeapi.Image{Id: answer.ImageRef}
	status, err := k.runtime.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: answer.ImageRef}})
	if err == nil && status.Image != nil {
		image = status.Image
	}
	event(corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.",
		c.Image, time.Since(start).Truncate(time.Millisecond), time.Since(waitStart).Truncate(time.Millisecond), image.Size)
	return image, nil
}

func imageKey(pod *corev1.Pod, c *corev1.Container) string { return string(pod.UID) + "_" + c.Image }

// pullPolicy is what the API defaults to, for pods that never saw the API.
func pullPolicy(c *corev1.Container) corev1.PullPolicy {
	if c.ImagePullPolicy != "" {
		return c.ImagePullPolicy
	}
	if strings.HasSuffix(withTag(c.Image), ":latest") {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

// withTag adds the default tag to a bare name.
func withTag(image string) string {
	if strings.Contains(image, "@") || strings.Contains(image[strings.LastIndex(image, "/")+1:], ":") {
		return image
	}
	return image + ":latest"
}

// pullCredential is one way to pull an image, and whose it is.
type pullCredential struct {
	auth   *runtimeapi.AuthConfig
	secret *kubeletv1beta1.ImagePullSecret // both nil: as nobody
}

// pullCredentials returns what to try, in order: every pull secret for the
// image's registry; as nobody, if there is none.
func (k *Kubelet) pullCredentials(ctx context.Context, pod *corev1.Pod, image string) []pullCredential {
	registry := registryOf(image)
	var out []pullCredential
	for _, ref := range pod.Spec.ImagePullSecrets {
		secret, err := k.objects.secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			k.eventf(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		for address, a := range registryLogins(secret) {
			if registryOf(strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")+"/x") != registry &&
				!(registry == defaultRegistry && address == legacyDockerHubAddress) {
				continue
			}
			auth := &runtimeapi.AuthConfig{Username: a.Username, Password: a.Password, ServerAddress: address}
			if raw, err := base64.StdEncoding.DecodeString(a.Auth); err == nil && auth.Username == "" {
				auth.Username, auth.Password, _ = strings.Cut(string(raw), ":")
			}
			out = append(out, pullCredential{auth, &kubeletv1beta1.ImagePullSecret{UID: string(secret.UID), Namespace: secret.Namespace,
				Name: secret.Name, CredentialHash: credentialHash(auth)}})
		}
	}
	if len(out) == 0 {
		return []pullCredential{{}}
	}
	return out
}

type registryLogin struct{ Username, Password, Auth string }

// registryLogins reads a pull secret in either of its two forms.
func registryLogins(secret *corev1.Secret) map[string]registryLogin {
	var config struct{ Auths map[string]registryLogin }
	if json.Unmarshal(secret.Data[corev1.DockerConfigJsonKey], &config) == nil {
		return config.Auths
	}
	var old map[string]registryLogin
	if json.Unmarshal(secret.Data[corev1.DockerConfigKey], &old) != nil {
		return nil
	}
	return old
}

func registryOf(image string) string {
	host, _, found := strings.Cut(image, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		return defaultRegistry
	}
	return host
}
