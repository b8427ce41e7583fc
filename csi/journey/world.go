package journey

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/duration"

	"tinykube/client"
)

// World is all that a claim's way can be read from.
type World struct {
	Now         time.Time
	Claim       *corev1.PersistentVolumeClaim // nil if it is gone
	Volumes     []*corev1.PersistentVolume
	Classes     []*storagev1.StorageClass
	Pods        []*corev1.Pod // of the claim's namespace
	Nodes       []*corev1.Node
	CSINodes    []*storagev1.CSINode
	Drivers     []*storagev1.CSIDriver
	Attachments []*storagev1.VolumeAttachment
	Events      []*corev1.Event // of the claim's namespace, and of volumes
	Capacities  []*storagev1.CSIStorageCapacity
	// What the claim is to be a copy of, if that is there.
	SourceClaim    *corev1.PersistentVolumeClaim
	SourceSnapshot *unstructured.Unstructured
}

// snapshots are custom resources, whose types we do not have.
var snapshots = client.Kind[*unstructured.Unstructured]{Group: "snapshot.storage.k8s.io", Version: "v1", Kind: "VolumeSnapshot", Plural: "volumesnapshots", Namespaced: true}

// Fetch asks an API server for it.
func Fetch(ctx context.Context, api *client.Client, namespace, name string) (*World, error) {
	w := &World{Now: time.Now()}
	claim, err := client.For(api, client.PersistentVolumeClaims).Get(ctx, namespace, name)
	if err == nil {
		w.Claim = claim
	} else if !apierrors.IsNotFound(err) {
		return nil, err
	}
	if err := w.fetchSource(ctx, api); err != nil {
		return nil, err
	}
	for _, fetch := range []func() error{
		func() error { return list(ctx, api, client.PersistentVolumes, "", &w.Volumes) },
		func() error { return list(ctx, api, client.StorageClasses, "", &w.Classes) },
		func() error { return list(ctx, api, client.Pods, namespace, &w.Pods) },
		func() error { return list(ctx, api, client.Nodes, "", &w.Nodes) },
		func() error { return list(ctx, api, client.CSINodes, "", &w.CSINodes) },
		func() error { return list(ctx, api, client.CSIDrivers, "", &w.Drivers) },
		func() error { return list(ctx, api, client.VolumeAttachments, "", &w.Attachments) },
		func() error { return list(ctx, api, client.CSIStorageCapacities, "", &w.Capacities) },
		func() error { return list(ctx, api, client.Events, namespace, &w.Events) },
		// Of objects without a namespace they are in this one.
		func() error { return list(ctx, api, client.Events, metav1.NamespaceDefault, &w.Events) },
	} {
		if err := fetch(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// fetchSource asks for what the claim is to be a copy of.
func (w *World) fetchSource(ctx context.Context, api *client.Client) (err error) {
	if w.Claim == nil || w.Claim.Spec.DataSource == nil {
		return nil
	}
	switch from := w.Claim.Spec.DataSource; from.Kind {
	case "PersistentVolumeClaim":
		w.SourceClaim, err = client.For(api, client.PersistentVolumeClaims).Get(ctx, w.Claim.Namespace, from.Name)
	case snapshots.Kind:
		w.SourceSnapshot, err = client.For(api, snapshots).Get(ctx, w.Claim.Namespace, from.Name)
	}
	if apierrors.IsNotFound(err) {
		w.SourceClaim, w.SourceSnapshot, err = nil, nil, nil
	}
	return err
}

func list[T client.Object](ctx context.Context, api *client.Client, kind client.Kind[T], namespace string, into *[]T) error {
	items, err := client.For(api, kind).List(ctx, namespace, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list %s: %w", kind.Plural, err)
	}
	*into = append(*into, items.Items...)
	return nil
}

// find is the object of that name, or nil.
func find[T any, P interface {
	*T
	GetName() string
}](all []P, name string) P {
	for _, one := range all {
		if one.GetName() == name {
			return one
		}
	}
	return nil
}

// said is the last event about an object with one of the reasons, as a line;
// none if there is none. Events are forgotten after an hour, and what one
// complains of may have been mended since: so it says when that was.
func (w *World) said(about metav1.Object, reasons ...string) (lines []string) {
	event := w.event(about, "", reasons...)
	if event == nil {
		return nil
	}
	times := ""
	if n := max(event.Count, 1); event.Series != nil && event.Series.Count > n {
		times = fmt.Sprintf(", %d times", event.Series.Count)
	} else if n > 1 {
		times = fmt.Sprintf(", %d times", n)
	}
	return []string{fmt.Sprintf("%s%s, %s ago: %s", event.Reason, times, duration.HumanDuration(w.Now.Sub(moment(event))),
		strings.Join(strings.Fields(event.Message), " "))}
}

// event is the last one about an object that has one of the reasons and speaks
// of what; "" for anything. What the binder says of provisioning is about classes
// that are missing, which one sees without it.
func (w *World) event(about metav1.Object, what string, reasons ...string) (last *corev1.Event) {
	for _, event := range w.Events {
		if event.InvolvedObject.UID != about.GetUID() || !strings.Contains(event.Message, what) ||
			event.Source.Component == "persistentvolume-controller" && event.Reason == "ProvisioningFailed" || last != nil && moment(event).Before(moment(last)) {
			continue
		}
		for _, reason := range reasons {
			if event.Reason == reason {
				last = event
			}
		}
	}
	return last
}

func moment(event *corev1.Event) time.Time {
	latest := event.LastTimestamp.Time
	if event.EventTime.After(latest) {
		latest = event.EventTime.Time
	}
	if event.Series != nil && event.Series.LastObservedTime.After(latest) {
		latest = event.Series.LastObservedTime.Time
	}
	return latest
}
