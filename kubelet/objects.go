package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"tinykube/client"
)

// errNoServer is why a pod cannot have what only the API server knows.
var errNoServer = errors.New("this kubelet has no API server (no --kubeconfig)")

// apiObjects reads what pods refer to, afresh each time: a pod that starts
// after a change must see the change.
//
// Simplified: running pods are refreshed by asking again with each periodic
// resync, where upstream watches every object that a pod of the node refers to.
// The delay is the same (about a minute), the requests are more.
type apiObjects struct{ client *client.Client }

func get[T client.Object](ctx context.Context, a apiObjects, kind client.Kind[T], namespace, name string) (none T, err error) {
	if a.client == nil {
		return none, errNoServer
	}
	return client.For(a.client, kind).Get(ctx, namespace, name)
}

func (a apiObjects) configMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	cm, err := get(ctx, a, client.ConfigMaps, namespace, name)
	return cm, singular(err, "configmap", name)
}

func (a apiObjects) secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	secret, err := get(ctx, a, client.Secrets, namespace, name)
	return secret, singular(err, "secret", name)
}

func (a apiObjects) csiDriver(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	if a.client == nil {
		return nil, nil
	}
	driver, err := get(ctx, a, client.CSIDrivers, "", name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return driver, err
}

func (a apiObjects) attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error) {
	return get(ctx, a, client.VolumeAttachments, "", name)
}

func (a apiObjects) node(ctx context.Context, name string) (*corev1.Node, error) {
	return get(ctx, a, client.Nodes, "", name)
}

// runtimeHandler is what the runtime calls the pod's RuntimeClass; what it costs
// the API server has written into the pod. Without an API server there are no
// classes, and the runtime's default has to do.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/runtimeclass.
func (a apiObjects) runtimeHandler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil || *name == "" || a.client == nil {
		return "", nil
	}
	class, err := get(ctx, a, client.RuntimeClasses, "", *name)
	if apierrors.IsNotFound(err) {
		return "", apierrors.NewNotFound(nodev1.Resource("runtimeclass"), *name)
	}
	if err != nil {
		return "", fmt.Errorf("failed to lookup RuntimeClass %s: %w", *name, err)
	}
	return class.Handler, nil
}

// singular words a missing object as upstream's kubelet does.
func singular(err error, kind, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(corev1.Resource(kind), name)
	}
	return err
}

// tokens hands out service account tokens bound to pods, and asks for a new
// one before the old one ends.
type tokens struct {
	client *client.Client

	mu     sync.Mutex // guards issued
	issued map[tokenKey]issuedToken
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type issuedToken struct {
	token             string
	issuedAt, expires time.Time
}

const (
	defaultTokenSeconds = 3600
	// A token is replaced after four fifths of its life, or a day.
	tokenMaxUse = 24 * time.Hour
)

func (t issuedToken) fresh(now time.Time) bool {
	life := t.expires.Sub(t.issuedAt)
	return t.token != "" && now.Before(t.issuedAt.Add(min(life*4/5, tokenMaxUse)))
}

func (t *tokens) get(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (string, error) {
	issued, err := t.issue(ctx, pod, source)
	return issued.token, err
}

func (t *tokens) issue(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (issuedToken, error) {
	if t.client == nil {
		return issuedToken{}, errNoServer
	}
	key := tokenKey{pod.UID, source.Audience, ptr.Deref(source.ExpirationSeconds, defaultTokenSeconds)}
	now := time.Now()
	t.mu.Lock()
	known := t.issued[key]
	t.mu.Unlock()
	if known.fresh(now) {
		return known, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &key.seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	request.TypeMeta = metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	account := cmp.Or(pod.Spec.ServiceAccountName, "default")
	var answer authenticationv1.TokenRequest
	err := client.For(t.client, client.ServiceAccounts).CreateSub(ctx, pod.Namespace, account, "token", request, &answer)
	if err != nil {
		if now.Before(known.expires) { // an old token that still works is better than none
			return known, nil
		}
		return issuedToken{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.issued[key] = issuedToken{answer.Status.Token, now, answer.Status.ExpirationTimestamp.Time}
	return t.issued[key], nil
}

// forget drops the tokens of pods that are gone.
func (t *tokens) forget(alive []types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.issued, func(key tokenKey, _ issuedToken) bool { return !slices.Contains(alive, key.pod) })
}
