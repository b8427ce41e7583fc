package sidecar

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/claims"
	"tinykube/client"
)

// deleteFinalizer keeps a volume until the driver has deleted what it stands for.
const deleteFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"

// identity is a volume attribute by which one sees who made it.
const identity = "storage.kubernetes.io/csiProvisionerIdentity"

// provisioner makes volumes for claims, and deletes them.
//
//	claim ──▶ CreateVolume("pvc-<uid of the claim>") ──▶ PersistentVolume of that name, promised to the claim
//
// The name is known before the call, so a call whose answer was lost is made
// again and finds the same volume.
//
// Upstream: kubernetes-csi/external-provisioner; sig-storage-lib-external-provisioner
func (s *Sidecar) provisioner() *loop {
	l := s.loop(Provisioner, s.provisionOrDelete)
	s.claims.OnChange(func(_, claim *corev1.PersistentVolumeClaim) {
		if claim != nil && s.wants(claim) {
			l.queue.Add(client.Key(claim))
		}
	})
	s.volumes.OnChange(func(_, volume *corev1.PersistentVolume) {
		if volume != nil && s.unwanted(volume) {
			l.queue.Add("/" + volume.Name)
		}
	})
	return l
}

// wants: the volume controller has asked this driver, and the node is known if
// it matters.
func (s *Sidecar) wants(claim *corev1.PersistentVolumeClaim) bool {
	asked := cmp.Or(claim.Annotations[claims.Provisioner], claim.Annotations[claims.BetaProvisioner])
	return asked == s.driver.name && claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

// unwanted: the claim is gone, and the volume is to go with it.
func (s *Sidecar) unwanted(volume *corev1.PersistentVolume) bool {
	return volume.Annotations[claims.ProvisionedBy] == s.driver.name && volume.Spec.CSI != nil && volume.Status.Phase == corev1.VolumeReleased &&
		volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete &&
		(volume.DeletionTimestamp == nil || slices.Contains(volume.Finalizers, deleteFinalizer)) // otherwise our part is done
}

func (s *Sidecar) provisionOrDelete(ctx context.Context, key string) error {
	if key[0] == '/' {
		if volume, ok := s.volumes.Get(key[1:]); ok && s.unwanted(volume) && s.here(volume) {
			return s.delete(ctx, volume)
		}
		return nil
	}
	claim, ok := s.claims.Get(key)
	if !ok || !s.wants(claim) {
		return nil
	}
	class, ok := s.classes.Get(claims.Class(claim))
	if !ok {
		return fmt.Errorf("storageclass.storage.k8s.io %q not found", claims.Class(claim))
	}
	if class.Provisioner != s.driver.name || claims.WaitsForPod(class) && claim.Annotations[claims.SelectedNode] == "" {
		return nil
	}
	if mine, err := s.mine(ctx, claim, class); err != nil || !mine {
		return err
	}
	name := "pvc-" + string(claim.UID)
	if _, done := s.volumes.Get(name); done {
		return nil
	}
	s.events.Event(claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", key)
	volume, err := s.provision(ctx, name, claim, class)
	if err != nil {
		s.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v", class.Name, err)
		return s.elsewhere(ctx, claim, err)
	}
	if _, err := wrote(ctx, client.PersistentVolumes)(client.For(s.api, client.PersistentVolumes).Create(ctx, volume)); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("write down volume %s: %w", name, err)
	}
	s.events.Event(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
	return nil
}

// elsewhere asks the scheduler to choose another node if there was no room on
// the one that it had chosen.
func (s *Sidecar) elsewhere(ctx context.Context, claim *corev1.PersistentVolumeClaim, failed error) error {
	if status.Code(failed) != codes.ResourceExhausted || claim.Annotations[claims.SelectedNode] == "" {
		return failed
	}
	s.roomChanged() // what was published is wrong, or it would not have been chosen
	changed := claim.DeepCopy()
	delete(changed.Annotations, claims.SelectedNode)
	if _, err := wrote(ctx, client.PersistentVolumeClaims)(client.For(s.api, client.PersistentVolumeClaims).Update(ctx, changed)); err != nil {
		return fmt.Errorf("%w; and the scheduler could not be told: %w", failed, err)
	}
	return nil
}

func (s *Sidecar) provision(ctx context.Context, name string, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*corev1.PersistentVolume, error) {
	parameters, refs, err := readParameters(class, claim, name)
	if err != nil {
		return nil, err
	}
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	fsType := cmp.Or(parameters[fsTypeKey], s.cfg.DefaultFSType)
	request := &csi.CreateVolumeRequest{Name: name, Parameters: driverParameters(parameters), CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()}}
	if limit, ok := claim.Spec.Resources.Limits[corev1.ResourceStorage]; ok {
		request.CapacityRange.LimitBytes = limit.Value()
	}
	block := claims.Mode(claim.Spec.VolumeMode) == corev1.PersistentVolumeBlock
	for _, mode := range claim.Spec.AccessModes {
		use, err := capability(mode, block, fsType, class.MountOptions, s.driver.single())
		if err != nil {
			return nil, err
		}
		request.VolumeCapabilities = append(request.VolumeCapabilities, use)
	}
	if s.cfg.Metadata {
		for key, value := range map[string]string{"pvc/name": claim.Name, "pvc/namespace": claim.Namespace, "pv/name": name} {
			request.Parameters["csi.storage.k8s.io/"+key] = value
		}
	}
	if request.VolumeContentSource, err = s.content(ctx, claim); err != nil {
		return nil, err
	}
	if request.AccessibilityRequirements, err = s.requirements(claim, class); err != nil {
		return nil, err
	}
	if request.Secrets, err = s.secret(ctx, refs.provision); err != nil {
		return nil, err
	}
	answer, err := s.driver.controller.CreateVolume(ctx, request)
	if err != nil {
		return nil, err
	}
	made := answer.GetVolume()
	if made.GetVolumeId() == "" {
		return nil, fmt.Errorf("driver %s made a volume without an identifier", s.driver.name)
	}
	if made.CapacityBytes != 0 {
		if made.CapacityBytes < size.Value() {
			return nil, fmt.Errorf("created volume capacity %d less than requested capacity %d", made.CapacityBytes, size.Value())
		}
		size = *resource.NewQuantity(made.CapacityBytes, resource.BinarySI)
	}
	attributes := map[string]string{identity: s.driver.name}
	for key, value := range made.VolumeContext {
		attributes[key] = value
	}
	policy := corev1.PersistentVolumeReclaimDelete
	if class.ReclaimPolicy != nil {
		policy = *class.ReclaimPolicy
	}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{claims.ProvisionedBy: s.driver.name}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: size}, AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode,
			PersistentVolumeReclaimPolicy: policy, StorageClassName: class.Name, MountOptions: class.MountOptions, NodeAffinity: affinity(made.AccessibleTopology),
			VolumeAttributesClassName: claim.Spec.VolumeAttributesClassName,
			// Promised to the claim from the first moment: nobody else gets it.
			ClaimRef: &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: s.driver.name, VolumeHandle: made.VolumeId, VolumeAttributes: attributes,
				ControllerPublishSecretRef: refs.controllerPublish, NodeStageSecretRef: refs.nodeStage, NodePublishSecretRef: refs.nodePublish,
				ControllerExpandSecretRef: refs.controllerExpand, NodeExpandSecretRef: refs.nodeExpand,
			}},
		},
	}
	if !block {
		volume.Spec.CSI.FSType = fsType
	}
	if policy == corev1.PersistentVolumeReclaimDelete {
		volume.Finalizers = []string{deleteFinalizer}
	}
	if refs.provision != nil {
		volume.Annotations["volume.kubernetes.io/provisioner-deletion-secret-name"] = refs.provision.Name
		volume.Annotations["volume.kubernetes.io/provisioner-deletion-secret-namespace"] = refs.provision.Namespace
	}
	return volume, nil
}

// delete makes the driver delete a volume, and then forgets it.
func (s *Sidecar) delete(ctx context.Context, volume *corev1.PersistentVolume) error {
	if node := s.attachedTo(volume.Name); node != "" {
		return fmt.Errorf("persistentvolume %s is still attached to node %s", volume.Name, node)
	}
	var ref *corev1.SecretReference
	if name := volume.Annotations["volume.kubernetes.io/provisioner-deletion-secret-name"]; name != "" {
		ref = &corev1.SecretReference{Name: name, Namespace: volume.Annotations["volume.kubernetes.io/provisioner-deletion-secret-namespace"]}
	}
	secrets, err := s.secret(ctx, ref)
	if err != nil {
		return err
	}
	if _, err := s.driver.controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: volume.Spec.CSI.VolumeHandle, Secrets: secrets}); err != nil {
		s.events.Event(volume, corev1.EventTypeWarning, "VolumeFailedDelete", "%v", err)
		return fmt.Errorf("delete volume %s: %w", volume.Name, err)
	}
	// Our finalizer goes last: without it, and not yet being deleted, the volume
	// would look as if the driver still had to be asked.
	if err := client.For(s.api, client.PersistentVolumes).Delete(ctx, "", volume.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &volume.UID}}); err != nil {
		return ignoreNotFound(err)
	}
	_, err = setFinalizer(ctx, s, client.PersistentVolumes, volume, deleteFinalizer, false)
	return ignoreNotFound(err)
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
