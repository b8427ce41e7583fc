package resources

import (
	storagev1 "k8s.io/api/storage/v1"

	"tinykube/api/validation"
)

func storageRows() []*Row {
	needsVersion := Strategy{RequireResourceVersion: true}
	return group("storage.k8s.io", "v1",
		kind[storagev1.CSIDriver, storagev1.CSIDriverList](Row{
			Strategy: lifecycle(true).with(func(s *Strategy) {
				s.PrepareCreate = nil // upstream starts this kind's generation at 0
				s.RequireResourceVersion = true
			}),
		}).prints(csiDriverColumns, cells(csiDriverCells)).warns(onCreate(validation.CSIDriverWarnings)).returnsDeleted().
			validates(check(validation.CSIDriver), checkUpdate(validation.CSIDriverUpdate)),
		kind[storagev1.CSINode, storagev1.CSINodeList](Row{Strategy: needsVersion}).prints(csiNodeColumns, cells(csiNodeCells)).returnsDeleted().
			validates(check(validation.CSINode), checkUpdate(validation.CSINodeUpdate)),
		kind[storagev1.CSIStorageCapacity, storagev1.CSIStorageCapacityList](Row{
			Plural: "csistoragecapacities", Namespaced: true, Strategy: needsVersion,
		}).
			validates(check(validation.CSIStorageCapacity), checkUpdate(validation.CSIStorageCapacityUpdate)),
		kind[storagev1.StorageClass, storagev1.StorageClassList](Row{
			Plural: "storageclasses", ShortNames: names("sc"),
		}).prints(storageClassColumns, cells(storageClassCells)).warns(always(validation.StorageClassWarnings)).returnsDeleted().
			validates(check(validation.StorageClass), checkUpdate(validation.StorageClassUpdate)),
		kind[storagev1.VolumeAttachment, storagev1.VolumeAttachmentList](Row{
			Status:   true,
			Strategy: lifecycle(false).keepsMetadata().with(func(s *Strategy) { s.RequireResourceVersion = true }),
		}).prints(attachmentColumns, cells(attachmentCells)).returnsDeleted().
			validates(check(validation.VolumeAttachment), checkUpdate(validation.VolumeAttachmentUpdate)),
		kind[storagev1.VolumeAttributesClass, storagev1.VolumeAttributesClassList](Row{
			Plural: "volumeattributesclasses", ShortNames: names("vac"),
		}).prints(attributesClassColumns, cells(attributesClassCells)).returnsDeleted().
			validates(check(validation.VolumeAttributesClass), checkUpdate(validation.VolumeAttributesClassUpdate)),
	)
}
