package custom

import (
	"encoding/json"
	"fmt"

	"tinykube/api/extensions"
)

// A kube-apiserver stores definitions as v1beta1, a form that it no longer
// serves, because it is smaller: what all versions have in common is said once,
// beside them. So this is what we find when we take over its etcd. We write v1,
// which it reads as well.
//
// Upstream: kubernetes@v1.36 pkg/controlplane/apiserver/apiextensions.go CreateAPIExtensionsConfig

const betaVersion = extensions.DefinitionGroup + "/v1beta1"

// beta is the part of v1beta1 that v1 does not have.
type beta struct {
	APIVersion string `json:"apiVersion"`
	Spec       struct {
		Version                  string                                 `json:"version"`
		Validation               *extensions.CustomResourceValidation   `json:"validation"`
		Subresources             *extensions.CustomResourceSubresources `json:"subresources"`
		AdditionalPrinterColumns []betaColumn                           `json:"additionalPrinterColumns"`
		SelectableFields         []extensions.SelectableField           `json:"selectableFields"`
		Versions                 []struct {
			AdditionalPrinterColumns []betaColumn `json:"additionalPrinterColumns"`
		} `json:"versions"`
		PreserveUnknownFields *bool `json:"preserveUnknownFields"`
		Conversion            *struct {
			WebhookClientConfig      *extensions.WebhookClientConfig `json:"webhookClientConfig"`
			ConversionReviewVersions []string                        `json:"conversionReviewVersions"`
		} `json:"conversion"`
	} `json:"spec"`
}

// betaColumn spells the path in capitals.
type betaColumn struct {
	extensions.CustomResourceColumnDefinition
	Path string `json:"JSONPath"`
}

// DecodeStored reads a definition as it lies in etcd, in either version.
func DecodeStored(data []byte) (*extensions.CustomResourceDefinition, error) {
	d := &extensions.CustomResourceDefinition{}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("read a definition: %w", err)
	}
	if d.APIVersion != betaVersion {
		return d, nil
	}
	old := &beta{}
	if err := json.Unmarshal(data, old); err != nil {
		return nil, fmt.Errorf("read a definition of %s: %w", betaVersion, err)
	}
	fromBeta(d, old)
	return d, nil
}

// fromBeta says in every version what v1beta1 says once.
func fromBeta(d *extensions.CustomResourceDefinition, old *beta) {
	d.APIVersion = extensions.DefinitionGroup + "/v1"
	spec := &d.Spec
	if len(spec.Versions) == 0 && old.Spec.Version != "" {
		spec.Versions = []extensions.CustomResourceDefinitionVersion{{Name: old.Spec.Version, Served: true, Storage: true}}
	}
	for i := range spec.Versions {
		v := &spec.Versions[i]
		if old.Spec.Validation != nil {
			v.Schema = old.Spec.Validation
		}
		if old.Spec.Subresources != nil {
			v.Subresources = old.Spec.Subresources
		}
		if old.Spec.SelectableFields != nil {
			v.SelectableFields = old.Spec.SelectableFields
		}
		columns := old.Spec.AdditionalPrinterColumns
		if columns == nil && i < len(old.Spec.Versions) {
			columns = old.Spec.Versions[i].AdditionalPrinterColumns
		}
		v.AdditionalPrinterColumns = nil
		for _, c := range columns {
			c.JSONPath = c.Path
			v.AdditionalPrinterColumns = append(v.AdditionalPrinterColumns, c.CustomResourceColumnDefinition)
		}
	}
	// v1beta1 kept unknown fields unless told not to.
	spec.PreserveUnknownFields = old.Spec.PreserveUnknownFields == nil || *old.Spec.PreserveUnknownFields
	if c := old.Spec.Conversion; c != nil && spec.Conversion != nil && (c.WebhookClientConfig != nil || len(c.ConversionReviewVersions) > 0) {
		spec.Conversion.Webhook = &extensions.WebhookConversion{ClientConfig: c.WebhookClientConfig, ConversionReviewVersions: c.ConversionReviewVersions}
	}
	Complete(d)
}
