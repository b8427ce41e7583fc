package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"tinykube/api/claims"
	"tinykube/client"
)

// Finalizers and annotations of snapshots, which upstream's controller and
// sidecar agree on.
const (
	boundFinalizer    = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"
	contentFinalizer  = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
	defaultClassMark  = "snapshot.storage.kubernetes.io/is-default-class"
	beingDeletedMark  = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	deleteSnapshotToo = "Delete"
)

// snapshot is the part of VolumeSnapshot that we need.
//
// Upstream: kubernetes-csi/external-snapshotter client/apis/volumesnapshot/v1
type snapshot struct {
	Spec struct {
		Source struct {
			PersistentVolumeClaimName *string `json:"persistentVolumeClaimName,omitempty"`
			VolumeSnapshotContentName *string `json:"volumeSnapshotContentName,omitempty"`
		} `json:"source"`
		VolumeSnapshotClassName *string `json:"volumeSnapshotClassName,omitempty"`
	} `json:"spec"`
	Status snapshotStatus `json:"status"`
}

type snapshotStatus struct {
	BoundVolumeSnapshotContentName *string            `json:"boundVolumeSnapshotContentName,omitempty"`
	CreationTime                   *metav1.Time       `json:"creationTime,omitempty"`
	ReadyToUse                     *bool              `json:"readyToUse,omitempty"`
	RestoreSize                    *resource.Quantity `json:"restoreSize,omitempty"`
	Error                          *snapshotError     `json:"error,omitempty"`
}

type snapshotError struct {
	Time    *metav1.Time `json:"time,omitempty"`
	Message *string      `json:"message,omitempty"`
}

// content is the part of VolumeSnapshotContent that we need.
type content struct {
	Spec struct {
		VolumeSnapshotRef corev1.ObjectReference `json:"volumeSnapshotRef"`
		DeletionPolicy    string                 `json:"deletionPolicy"`
		Driver            string                 `json:"driver"`
		ClassName         *string                `json:"volumeSnapshotClassName,omitempty"`
		Source            struct {
			VolumeHandle   *string `json:"volumeHandle,omitempty"`
			SnapshotHandle *string `json:"snapshotHandle,omitempty"`
		} `json:"source"`
		SourceVolumeMode *corev1.PersistentVolumeMode `json:"sourceVolumeMode,omitempty"`
	} `json:"spec"`
	Status contentStatus `json:"status"`
}

type contentStatus struct {
	SnapshotHandle *string        `json:"snapshotHandle,omitempty"`
	CreationTime   *int64         `json:"creationTime,omitempty"` // nanoseconds
	RestoreSize    *int64         `json:"restoreSize,omitempty"`  // bytes
	ReadyToUse     *bool          `json:"readyToUse,omitempty"`
	Error          *snapshotError `json:"error,omitempty"`
}

type snapshotClass struct {
	Driver         string            `json:"driver"`
	Parameters     map[string]string `json:"parameters,omitempty"`
	DeletionPolicy string            `json:"deletionPolicy"`
}

var snapshotClasses = client.Kind[*unstructured.Unstructured]{Group: snapshotGroup, Version: "v1", Kind: "VolumeSnapshotClass", Plural: "volumesnapshotclasses"}

// as reads a custom resource into a type of ours.
func as[T any](u *unstructured.Unstructured) (v T, err error) {
	err = convert(u.Object, &v)
	return v, err
}

// convert goes by way of JSON.
func convert(from, to any) error {
	raw, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, to)
}

// snapshotter makes snapshots, and deletes them.
//
//	VolumeSnapshot ──▶ VolumeSnapshotContent ──▶ CreateSnapshot("snapshot-<uid>") ──▶ handle, ready
//	      ▲                                                                              │
//	      └───────────────── status.readyToUse, and may be restored ◀────────────────────┘
//
// Upstream it is two programs: a controller that knows the pairs of objects, one
// for the cluster, and a sidecar per driver that makes the calls. Here it is one
// per driver, which leaves those of other drivers alone.
//
// Upstream: kubernetes-csi/external-snapshotter pkg/common-controller, pkg/sidecar-controller
func (s *Sidecar) snapshotter() *loop {
	l := s.loop(Snapshotter, func(ctx context.Context, key string) error {
		if !client.WaitSynced(ctx, s.snapshots.Synced(), s.contents.Synced(), s.snapshotClasses.Synced()) {
			return nil
		}
		if key[0] == '/' {
			return s.syncContent(ctx, key[1:])
		}
		return s.syncSnapshot(ctx, key)
	})
	s.snapshots.OnChange(func(_, v *unstructured.Unstructured) {
		if v != nil {
			l.queue.Add(client.Key(v))
		}
	})
	s.contents.OnChange(func(old, v *unstructured.Unstructured) {
		if v == nil {
			v = old
		}
		l.queue.Add("/" + v.GetName())
		if c, err := as[content](v); err == nil {
			l.queue.Add(c.Spec.VolumeSnapshotRef.Namespace + "/" + c.Spec.VolumeSnapshotRef.Name)
		}
	})
	return l
}

// watchSnapshots fills the caches of custom resources, once there are any.
func (s *Sidecar) watchSnapshots(ctx context.Context) error {
	if !s.whenServed(ctx) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, i := range []*client.Informer[*unstructured.Unstructured]{s.snapshotClasses, s.contents, s.snapshots} {
		g.Go(func() error { return i.Run(ctx) })
	}
	return g.Wait()
}

// whenServed waits until the server knows snapshots: their definitions are
// installed by whoever wants them.
func (s *Sidecar) whenServed(ctx context.Context) bool {
	for said := false; ; said = true {
		err := s.api.DoInto(ctx, client.Request{Method: http.MethodGet, Path: "/apis/" + snapshotGroup + "/v1"}, nil, nil)
		if err == nil {
			return true
		}
		if !said {
			s.log.Info("snapshots begin when their CustomResourceDefinitions are there", "group", snapshotGroup, "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(5 * time.Second):
		}
	}
}

// syncSnapshot gives a VolumeSnapshot its content, and the content's status.
func (s *Sidecar) syncSnapshot(ctx context.Context, key string) error {
	u, ok := s.snapshots.Get(key)
	if !ok {
		return nil
	}
	u = u.DeepCopy() // setFinalizer changes it
	v, err := as[snapshot](u)
	if err != nil {
		return err
	}
	name := "snapcontent-" + string(u.GetUID())
	if v.Spec.Source.VolumeSnapshotContentName != nil {
		name = *v.Spec.Source.VolumeSnapshotContentName
	}
	existing, found := s.contents.Get(name)
	if u.GetDeletionTimestamp() != nil {
		return s.endSnapshot(ctx, u, existing)
	}
	if !found {
		if v.Spec.Source.PersistentVolumeClaimName == nil {
			return nil // it may come
		}
		made, err := s.newContent(u, v, name)
		if err != nil || made == nil {
			return s.snapshotFailed(ctx, u, v.Status, err)
		}
		if err := s.setFinalizer(ctx, volumeSnapshots, u, boundFinalizer, true); err != nil {
			return err
		}
		_, err = wrote(ctx, snapshotContent)(client.For(s.api, snapshotContent).Create(ctx, made))
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	c, err := as[content](existing)
	if err != nil || c.Spec.Driver != s.driver.name {
		return err
	}
	status := snapshotStatus{BoundVolumeSnapshotContentName: &name, ReadyToUse: c.Status.ReadyToUse, Error: c.Status.Error}
	if c.Status.CreationTime != nil {
		status.CreationTime = &metav1.Time{Time: time.Unix(0, *c.Status.CreationTime).UTC().Truncate(time.Second)}
	}
	if c.Status.RestoreSize != nil {
		status.RestoreSize = resource.NewQuantity(*c.Status.RestoreSize, resource.BinarySI)
	}
	return s.writeStatus(ctx, volumeSnapshots, u, status)
}

// newContent is what a snapshot of a claim begins with; nil if another driver's.
func (s *Sidecar) newContent(u *unstructured.Unstructured, v snapshot, name string) (*unstructured.Unstructured, error) {
	claim, ok := s.claims.Get(u.GetNamespace() + "/" + *v.Spec.Source.PersistentVolumeClaimName)
	if !ok || !claims.Bound(claim) {
		return nil, fmt.Errorf("the PVC %s is not yet bound to a PV", *v.Spec.Source.PersistentVolumeClaimName)
	}
	volume, ok := s.volumes.Get(claim.Spec.VolumeName)
	if !ok || volume.Spec.CSI == nil || volume.Spec.CSI.Driver != s.driver.name {
		return nil, nil
	}
	className, class, err := s.snapshotClass(v.Spec.VolumeSnapshotClassName)
	if err != nil {
		return nil, err
	}
	var c content
	c.Spec.Driver, c.Spec.DeletionPolicy, c.Spec.ClassName = s.driver.name, class.DeletionPolicy, &className
	c.Spec.Source.VolumeHandle = &volume.Spec.CSI.VolumeHandle
	mode := claims.Mode(volume.Spec.VolumeMode)
	c.Spec.SourceVolumeMode = &mode
	c.Spec.VolumeSnapshotRef = corev1.ObjectReference{APIVersion: snapshotGroup + "/v1", Kind: "VolumeSnapshot", Namespace: u.GetNamespace(), Name: u.GetName(),
		UID: u.GetUID(), ResourceVersion: u.GetResourceVersion()}
	made := &unstructured.Unstructured{Object: map[string]any{}}
	if err := convert(map[string]any{"spec": c.Spec}, &made.Object); err != nil {
		return nil, err
	}
	made.SetGroupVersionKind(snapshotContent.GVK())
	made.SetName(name)
	made.SetFinalizers([]string{contentFinalizer})
	return made, nil
}

// snapshotClass is the class of a name, or without one the driver's default.
func (s *Sidecar) snapshotClass(name *string) (string, snapshotClass, error) {
	for _, u := range s.snapshotClasses.List() {
		class, err := as[snapshotClass](u)
		if err != nil {
			return "", class, err
		}
		switch {
		case name != nil && u.GetName() == *name && class.Driver != s.driver.name:
			return "", class, fmt.Errorf("snapshot class %s is of driver %s, and the volume of %s", *name, class.Driver, s.driver.name)
		case name != nil && u.GetName() == *name, name == nil && class.Driver == s.driver.name && u.GetAnnotations()[defaultClassMark] == "true":
			return u.GetName(), class, nil
		}
	}
	if name == nil {
		return "", snapshotClass{}, fmt.Errorf("cannot find default snapshot class for driver %s", s.driver.name)
	}
	return "", snapshotClass{}, fmt.Errorf("failed to get input parameters to create snapshot: volumesnapshotclass.%s %q not found", snapshotGroup, *name)
}

// endSnapshot lets a VolumeSnapshot go when its content has gone, or stays on
// purpose.
func (s *Sidecar) endSnapshot(ctx context.Context, u, existing *unstructured.Unstructured) error {
	if existing != nil {
		c, err := as[content](existing)
		if err != nil {
			return err
		}
		if c.Spec.Driver != s.driver.name {
			return nil
		}
		if c.Spec.VolumeSnapshotRef.UID == u.GetUID() && c.Spec.DeletionPolicy == deleteSnapshotToo {
			if existing.GetAnnotations()[beingDeletedMark] == "" {
				marked := existing.DeepCopy()
				unstructured.SetNestedField(marked.Object, "yes", "metadata", "annotations", beingDeletedMark)
				if _, err := wrote(ctx, snapshotContent)(client.For(s.api, snapshotContent).Update(ctx, marked)); err != nil {
					return err
				}
			}
			if existing.GetDeletionTimestamp() == nil {
				return ignoreNotFound(client.For(s.api, snapshotContent).Delete(ctx, "", existing.GetName(), metav1.DeleteOptions{}))
			}
			return nil // it comes again when the content is gone
		}
	}
	return s.setFinalizer(ctx, volumeSnapshots, u, boundFinalizer, false)
}

// syncContent makes the calls.
func (s *Sidecar) syncContent(ctx context.Context, name string) error {
	u, ok := s.contents.Get(name)
	if !ok {
		return nil
	}
	u = u.DeepCopy() // setFinalizer changes it
	c, err := as[content](u)
	if err != nil || c.Spec.Driver != s.driver.name {
		return err
	}
	if u.GetDeletionTimestamp() != nil {
		return s.deleteSnapshot(ctx, u, c)
	}
	if c.Status.ReadyToUse != nil && *c.Status.ReadyToUse {
		return nil
	}
	if err := s.setFinalizer(ctx, snapshotContent, u, contentFinalizer, true); err != nil {
		return err
	}
	status, err := s.makeSnapshot(ctx, c)
	if err != nil {
		text, now := "Failed to check and update snapshot content: "+err.Error(), metav1.Now().Rfc3339Copy()
		failed := c.Status
		failed.Error = &snapshotError{Time: &now, Message: &text}
		_ = s.writeStatus(ctx, snapshotContent, u, failed)
		return err
	}
	if err := s.writeStatus(ctx, snapshotContent, u, status); err != nil {
		return err
	}
	if !*status.ReadyToUse {
		return fmt.Errorf("snapshot %s is not ready yet", name)
	}
	return nil
}

func (s *Sidecar) makeSnapshot(ctx context.Context, c content) (status contentStatus, err error) {
	yes := true
	if handle := c.Spec.Source.SnapshotHandle; handle != nil { // it was there before
		return contentStatus{SnapshotHandle: handle, ReadyToUse: &yes}, nil
	}
	if c.Spec.Source.VolumeHandle == nil {
		return status, fmt.Errorf("the content names neither a volume nor a snapshot")
	}
	var class snapshotClass
	if c.Spec.ClassName != nil {
		if _, class, err = s.snapshotClass(c.Spec.ClassName); err != nil {
			return status, err
		}
	}
	secrets, err := s.snapshotSecret(ctx, class)
	if err != nil {
		return status, err
	}
	answer, err := s.driver.controller.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "snapshot-" + string(c.Spec.VolumeSnapshotRef.UID),
		SourceVolumeId: *c.Spec.Source.VolumeHandle, Parameters: driverParameters(class.Parameters), Secrets: secrets})
	if err != nil {
		return status, err
	}
	made, nanoseconds := answer.GetSnapshot(), answer.GetSnapshot().GetCreationTime().AsTime().UnixNano()
	return contentStatus{SnapshotHandle: &made.SnapshotId, CreationTime: &nanoseconds, RestoreSize: &made.SizeBytes, ReadyToUse: &made.ReadyToUse}, nil
}

func (s *Sidecar) snapshotSecret(ctx context.Context, class snapshotClass) (map[string]string, error) {
	name, namespace := class.Parameters[prefix+"snapshotter-secret-name"], class.Parameters[prefix+"snapshotter-secret-namespace"]
	if name == "" {
		return nil, nil
	}
	return s.secret(ctx, &corev1.SecretReference{Name: name, Namespace: namespace})
}

// deleteSnapshot undoes a content that is being deleted, if it is to.
func (s *Sidecar) deleteSnapshot(ctx context.Context, u *unstructured.Unstructured, c content) error {
	if !slices.Contains(u.GetFinalizers(), contentFinalizer) {
		return nil
	}
	if c.Spec.DeletionPolicy == deleteSnapshotToo && c.Status.SnapshotHandle != nil {
		var class snapshotClass
		if c.Spec.ClassName != nil {
			_, class, _ = s.snapshotClass(c.Spec.ClassName) // it may be gone by now
		}
		secrets, err := s.snapshotSecret(ctx, class)
		if err != nil {
			return err
		}
		if _, err := s.driver.controller.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: *c.Status.SnapshotHandle, Secrets: secrets}); err != nil {
			return fmt.Errorf("delete snapshot %s: %w", u.GetName(), err)
		}
	}
	return s.setFinalizer(ctx, snapshotContent, u, contentFinalizer, false)
}

// snapshotFailed writes why a snapshot has no content yet.
func (s *Sidecar) snapshotFailed(ctx context.Context, u *unstructured.Unstructured, status snapshotStatus, failed error) error {
	if failed == nil {
		return nil
	}
	text, now, no := failed.Error(), metav1.Now().Rfc3339Copy(), false
	if status.Error == nil || status.Error.Message == nil || *status.Error.Message != text {
		status.Error, status.ReadyToUse = &snapshotError{Time: &now, Message: &text}, &no
		if err := s.writeStatus(ctx, volumeSnapshots, u, status); err != nil {
			return err
		}
	}
	return failed
}

func (s *Sidecar) writeStatus(ctx context.Context, kind client.Kind[*unstructured.Unstructured], u *unstructured.Unstructured, status any) error {
	changed := u.DeepCopy()
	var object map[string]any
	if err := convert(status, &object); err != nil {
		return err
	}
	changed.Object["status"] = object
	if equality.Semantic.DeepEqual(u.Object["status"], changed.Object["status"]) {
		return nil
	}
	_, err := wrote(ctx, kind)(client.For(s.api, kind).UpdateStatus(ctx, changed))
	return ignoreNotFound(err)
}

func (s *Sidecar) setFinalizer(ctx context.Context, kind client.Kind[*unstructured.Unstructured], u *unstructured.Unstructured, finalizer string, want bool) error {
	if slices.Contains(u.GetFinalizers(), finalizer) == want {
		return nil
	}
	changed := u.DeepCopy()
	if want {
		changed.SetFinalizers(append(changed.GetFinalizers(), finalizer))
	} else {
		changed.SetFinalizers(slices.DeleteFunc(changed.GetFinalizers(), func(f string) bool { return f == finalizer }))
	}
	updated, err := wrote(ctx, kind)(client.For(s.api, kind).Update(ctx, changed))
	if err != nil {
		return ignoreNotFound(err)
	}
	*u = *updated.DeepCopy()
	return nil
}
