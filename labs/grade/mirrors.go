package grade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/client"
)

// mirrors judges lab 14: which mirror pods must be made, and which must go, for
// the API to show the static pods. Checks write files, and do in the API what
// people do there.
var mirrors = suite{
	programs: []string{"kubelet"},
	open:     withCluster,
	checks: []Check{
		{
			Name: painted, Points: 2, run: mirrored("painted", isPainted),
			Hint: "create what is static, and has no mirror",
		},
		{
			Name: "as long as nothing changes, nothing is written", Points: 2, Needs: []string{painted}, run: mirrored("still", staysStill),
			Hint: "a mirror whose annotation mirror is the pod's hash is right: leave it alone",
		},
		{
			Name: "who deletes the mirror gets another one, and the pod does not notice", Points: 2, Needs: []string{painted}, run: mirrored("deleted", paintedAgain),
			Hint: "a mirror with a DeletionTimestamp waits for us: remove it; when it is gone, one is missing",
		},
		{
			Name: "another file is another picture", Points: 2, Needs: []string{painted}, run: mirrored("changed", paintedNew),
			Hint: "a mirror of an earlier version shows another hash: remove it",
		},
		{
			Name: "without the file there is no picture", Points: 2, Needs: []string{painted}, run: mirrored("removed", takenDown),
			Hint: "a mirror that no static pod has: remove it",
		},
		{
			Name: "a picture of a pod that never was is taken down", Points: 1, Needs: []string{painted}, run: mirrored("honest", forged),
			Hint: "whoever made it",
		},
		{
			Name: "two of one name, in two namespaces, are two", Points: 1, Needs: []string{painted}, run: mirrored("twin", twins),
			Hint: "client.Key is namespace and name",
		},
	},
}

const (
	painted = "a static pod is shown in the API, with its hash, and with what became of it"
	another = "kube-public" // a namespace beside the one for checks

	mirrorAnnotation, hashAnnotation = "kubernetes.io/config.mirror", "kubernetes.io/config.hash"
)

// mirroredPod is a static pod and its picture.
type mirroredPod struct {
	*staticPod
	pods *client.Resource[*corev1.Pod]
}

func mirrored(name string, check func(context.Context, *mirroredPod) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		p := &mirroredPod{&staticPod{b.ward, name}, client.For(b.straight, client.Pods)}
		if err := p.write(two); err != nil {
			return err
		}
		return check(ctx, p)
	}
}

func (p *mirroredPod) mirror() string { return p.name + "-" + nodeName }

// picture waits for a mirror that shows the pod running, and is not the one
// with that UID.
func (p *mirroredPod) picture(ctx context.Context, in string, not corev1.Pod) (found *corev1.Pod, err error) {
	err = p.until(ctx, func() error {
		if found, err = p.pods.Get(ctx, in, p.mirror()); err != nil {
			return err
		}
		switch {
		case found.UID == not.UID:
			return errors.New("the mirror is still the one that was there")
		case found.Annotations[mirrorAnnotation] == "" || found.Annotations[mirrorAnnotation] != found.Annotations[hashAnnotation]:
			return fmt.Errorf("its annotations are %v", found.Annotations)
		case found.Status.Phase != corev1.PodRunning:
			return fmt.Errorf("it says that the pod is %s", found.Status.Phase)
		}
		return nil
	})
	return found, err
}

func isPainted(ctx context.Context, p *mirroredPod) error {
	_, err := p.picture(ctx, namespace, corev1.Pod{})
	return err
}

func staysStill(ctx context.Context, p *mirroredPod) error {
	before, err := p.picture(ctx, namespace, corev1.Pod{})
	if err != nil {
		return err
	}
	// Other pods come and go meanwhile, and the kubelet compares each time.
	for range 2 {
		if err := p.looked(ctx); err != nil {
			return err
		}
	}
	now, err := p.pods.Get(ctx, namespace, p.mirror())
	if err == nil && now.UID != before.UID {
		err = errors.New("the mirror was removed and made again")
	}
	return err
}

func paintedAgain(ctx context.Context, p *mirroredPod) error {
	before, err := p.picture(ctx, namespace, corev1.Pod{})
	if err != nil {
		return err
	}
	if err := p.pods.Delete(ctx, namespace, p.mirror(), metav1.DeleteOptions{}); err != nil {
		return err
	}
	if _, err := p.picture(ctx, namespace, *before); err != nil {
		return err
	}
	return errors.Join(p.lived(ctx, "a", 1, stateRuns), p.lived(ctx, "b", 1, stateRuns))
}

func paintedNew(ctx context.Context, p *mirroredPod) error {
	before, err := p.picture(ctx, namespace, corev1.Pod{})
	if err != nil {
		return err
	}
	if err := p.write(strings.ReplaceAll(two, "image: x", "image: other")); err != nil {
		return err
	}
	// For a moment there may be one more of the old pod, as long as that one lives.
	return p.until(ctx, func() error {
		after, err := p.picture(ctx, namespace, *before)
		if err == nil && (after.Annotations[hashAnnotation] == before.Annotations[hashAnnotation] || after.Spec.Containers[0].Image != "other") {
			err = errors.New("the new mirror shows the old pod")
		}
		return err
	})
}

// gone waits until there is no mirror of that name.
func (p *mirroredPod) gone(ctx context.Context, name string) error {
	return p.until(ctx, func() error {
		if _, err := p.pods.Get(ctx, namespace, name); !apierrors.IsNotFound(err) {
			return fmt.Errorf("pod %s is still there (%v)", name, err)
		}
		return nil
	})
}

func takenDown(ctx context.Context, p *mirroredPod) error {
	if _, err := p.picture(ctx, namespace, corev1.Pod{}); err != nil {
		return err
	}
	if err := os.Remove(p.file()); err != nil {
		return err
	}
	return p.gone(ctx, p.mirror())
}

func forged(ctx context.Context, p *mirroredPod) error {
	honest, err := p.picture(ctx, namespace, corev1.Pod{})
	if err != nil {
		return err
	}
	picture := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "forged-" + nodeName, Namespace: namespace,
		Annotations: map[string]string{mirrorAnnotation: "0123", hashAnnotation: "0123"}, OwnerReferences: honest.OwnerReferences},
		Spec: corev1.PodSpec{NodeName: nodeName, Containers: []corev1.Container{{Name: "a", Image: "x"}}}}
	if _, err := p.pods.Create(ctx, picture); err != nil {
		return err
	}
	if err := p.gone(ctx, picture.Name); err != nil {
		return err
	}
	if slices.ContainsFunc(p.runtime.Containers(), func(c *runtimeapi.ContainerStatus) bool { return c.Labels["io.kubernetes.pod.name"] == picture.Name }) {
		return errors.New("it was run")
	}
	return nil
}

func twins(ctx context.Context, p *mirroredPod) error {
	if _, err := p.picture(ctx, namespace, corev1.Pod{}); err != nil {
		return err // the second comes when the first is there already
	}
	text, err := os.ReadFile(p.file())
	if err != nil {
		return err
	}
	other := strings.Replace(string(text), "metadata: {", "metadata: {namespace: "+another+", ", 1)
	if err := os.WriteFile(p.path("manifests/other-twin.yaml"), []byte(other), 0o600); err != nil {
		return err
	}
	_, err = p.picture(ctx, another, corev1.Pod{})
	return err
}
