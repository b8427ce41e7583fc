package disruption

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/client"
	"tinykube/controllers/harness"
)

// sizeOf finds what a pod's controller asks for: of a ReplicaSet's, its
// Deployment's. The kinds that nearly all pods belong to are in our caches;
// any other is asked for its scale. An empty uid means that there is none.
func (c *controller) sizeOf(ctx context.Context, namespace string, ref *metav1.OwnerReference) (uid string, size int32, err error) {
	group, _, _ := strings.Cut(ref.APIVersion, "/")
	switch group + "/" + ref.Kind {
	case "apps/ReplicaSet":
		rs, ok := c.replicaSets.Get(namespace, ref.Name)
		if !ok || rs.UID != ref.UID {
			return "", 0, nil
		}
		owner := metav1.GetControllerOfNoCopy(rs)
		if owner == nil || owner.Kind != "Deployment" {
			return string(rs.UID), *rs.Spec.Replicas, nil
		}
		if d, ok := c.deployments.Get(namespace, owner.Name); ok && d.UID == owner.UID {
			return string(d.UID), *d.Spec.Replicas, nil
		}
		return "", 0, nil
	case "apps/StatefulSet":
		if set, ok := c.statefulSets.Get(namespace, ref.Name); ok && set.UID == ref.UID {
			return string(set.UID), *set.Spec.Replicas, nil
		}
		return "", 0, nil
	case "v1/ReplicationController":
		if rc, ok := c.replicationControllers.Get(namespace, ref.Name); ok && rc.UID == ref.UID {
			return string(rc.UID), *rc.Spec.Replicas, nil
		}
		return "", 0, nil
	}
	return c.askScale(ctx, namespace, ref)
}

// askScale reads the scale subresource of an owner of any kind.
func (c *controller) askScale(ctx context.Context, namespace string, ref *metav1.OwnerReference) (uid string, size int32, err error) {
	resources, _, err := harness.Discover(ctx, c.Client)
	if err != nil {
		return "", 0, err
	}
	group := ""
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err == nil {
		group = gv.Group
	}
	for _, r := range resources {
		if r.Kind != ref.Kind || r.Group != group {
			continue
		}
		scale := &autoscalingv1.Scale{}
		path := client.For(c.Client, r.Metadata()).Path(namespace, ref.Name, "scale")
		err := c.Client.DoInto(ctx, client.Request{Method: http.MethodGet, Path: path}, nil, scale)
		if apierrors.IsNotFound(err) {
			if _, err := client.For(c.Client, r.Metadata()).Get(ctx, namespace, ref.Name); err == nil {
				return "", 0, fmt.Errorf("%s does not implement the scale subresource", r.GroupResource())
			}
		}
		if apierrors.IsNotFound(err) || err == nil && scale.UID != ref.UID {
			return "", 0, nil
		}
		return string(scale.UID), scale.Spec.Replicas, err
	}
	return "", 0, nil
}
