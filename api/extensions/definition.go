package extensions

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// DefinitionGroup is the group of CustomResourceDefinitions.
const DefinitionGroup = "apiextensions.k8s.io"

// CleanupFinalizer keeps a definition until all its objects are gone.
const CleanupFinalizer = "customresourcecleanup.apiextensions.k8s.io"

// Scope says whether objects live in namespaces.
type Scope string

// ConversionStrategy says how an object is shown in another version.
type ConversionStrategy string

// ConditionType is a question about a definition.
type ConditionType string

// The values that definitions are made of.
const (
	ClusterScoped   Scope = "Cluster"
	NamespaceScoped Scope = "Namespaced"

	NoneConverter    ConversionStrategy = "None"
	WebhookConverter ConversionStrategy = "Webhook"

	Established      ConditionType = "Established"
	NamesAccepted    ConditionType = "NamesAccepted"
	Terminating      ConditionType = "Terminating"
	NonStructural    ConditionType = "NonStructuralSchema"
	ApprovedByPolicy ConditionType = "KubernetesAPIApprovalPolicyConformant"
)

// CustomResourceDefinition declares a kind that the server does not know.
//
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1/types.go
type CustomResourceDefinition struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec CustomResourceDefinitionSpec `json:"spec"`
	// +optional
	Status CustomResourceDefinitionStatus `json:"status,omitempty"`
}

// CustomResourceDefinitionList is a list of them.
type CustomResourceDefinitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []CustomResourceDefinition `json:"items"`
}

// CustomResourceDefinitionSpec is what the author says.
type CustomResourceDefinitionSpec struct {
	Group string                        `json:"group"`
	Names CustomResourceDefinitionNames `json:"names"`
	Scope Scope                         `json:"scope"`
	// +listType=atomic
	Versions []CustomResourceDefinitionVersion `json:"versions"`
	// +optional
	Conversion            *CustomResourceConversion `json:"conversion,omitempty"`
	PreserveUnknownFields bool                      `json:"preserveUnknownFields,omitempty"`
}

// CustomResourceDefinitionNames are all the names of one kind.
type CustomResourceDefinitionNames struct {
	Plural   string `json:"plural"`
	Singular string `json:"singular,omitempty"`
	// +listType=atomic
	ShortNames []string `json:"shortNames,omitempty"`
	Kind       string   `json:"kind"`
	ListKind   string   `json:"listKind,omitempty"`
	// +listType=atomic
	Categories []string `json:"categories,omitempty"`
}

// CustomResourceDefinitionVersion is one form of the kind.
type CustomResourceDefinitionVersion struct {
	Name               string  `json:"name"`
	Served             bool    `json:"served"`
	Storage            bool    `json:"storage"`
	Deprecated         bool    `json:"deprecated,omitempty"`
	DeprecationWarning *string `json:"deprecationWarning,omitempty"`

	Schema       *CustomResourceValidation   `json:"schema,omitempty"`
	Subresources *CustomResourceSubresources `json:"subresources,omitempty"`
	// +listType=atomic
	AdditionalPrinterColumns []CustomResourceColumnDefinition `json:"additionalPrinterColumns,omitempty"`
	// +listType=atomic
	SelectableFields []SelectableField `json:"selectableFields,omitempty"`
}

// CustomResourceConversion says how versions become each other.
type CustomResourceConversion struct {
	Strategy ConversionStrategy `json:"strategy"`
	Webhook  *WebhookConversion `json:"webhook,omitempty"`
}

// WebhookConversion asks another program to convert.
type WebhookConversion struct {
	ClientConfig *WebhookClientConfig `json:"clientConfig,omitempty"`
	// +listType=atomic
	ConversionReviewVersions []string `json:"conversionReviewVersions"`
}

// WebhookClientConfig is where that program is.
type WebhookClientConfig struct {
	URL      *string                  `json:"url,omitempty"`
	Service  *WebhookServiceReference `json:"service,omitempty"`
	CABundle []byte                   `json:"caBundle,omitempty"`
}

// WebhookServiceReference names a Service.
type WebhookServiceReference struct {
	Namespace string  `json:"namespace"`
	Name      string  `json:"name"`
	Path      *string `json:"path,omitempty"`
	Port      *int32  `json:"port,omitempty"`
}

// CustomResourceValidation holds the schema of a version.
type CustomResourceValidation struct {
	OpenAPIV3Schema *JSONSchemaProps `json:"openAPIV3Schema,omitempty"`
}

// CustomResourceSubresources says which subresources there are.
type CustomResourceSubresources struct {
	Status *CustomResourceSubresourceStatus `json:"status,omitempty"`
	Scale  *CustomResourceSubresourceScale  `json:"scale,omitempty"`
}

// CustomResourceSubresourceStatus turns /status on.
type CustomResourceSubresourceStatus struct{}

// CustomResourceSubresourceScale says where /scale finds its numbers.
type CustomResourceSubresourceScale struct {
	SpecReplicasPath   string  `json:"specReplicasPath"`
	StatusReplicasPath string  `json:"statusReplicasPath"`
	LabelSelectorPath  *string `json:"labelSelectorPath,omitempty"`
}

// CustomResourceColumnDefinition is a column of kubectl get.
type CustomResourceColumnDefinition struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Format      string `json:"format,omitempty"`
	Description string `json:"description,omitempty"`
	Priority    int32  `json:"priority,omitempty"`
	JSONPath    string `json:"jsonPath"`
}

// SelectableField is a field that field selectors may name.
type SelectableField struct {
	JSONPath string `json:"jsonPath"`
}

// CustomResourceDefinitionStatus is what the server says.
type CustomResourceDefinitionStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []CustomResourceDefinitionCondition `json:"conditions"`
	// +optional
	AcceptedNames CustomResourceDefinitionNames `json:"acceptedNames"`
	// +listType=atomic
	StoredVersions     []string `json:"storedVersions,omitempty"`
	ObservedGeneration int64    `json:"observedGeneration,omitempty"`
}

// CustomResourceDefinitionCondition is one answer about a definition.
type CustomResourceDefinitionCondition struct {
	Type               ConditionType          `json:"type"`
	Status             metav1.ConditionStatus `json:"status"`
	LastTransitionTime metav1.Time            `json:"lastTransitionTime,omitempty"`
	Reason             string                 `json:"reason,omitempty"`
	Message            string                 `json:"message,omitempty"`
	ObservedGeneration int64                  `json:"observedGeneration,omitempty"`
}

// DeepCopyObject copies by way of JSON: definitions are few and seldom copied.
func (d *CustomResourceDefinition) DeepCopyObject() runtime.Object { return copyOf(d) }

// DeepCopyObject copies by way of JSON.
func (l *CustomResourceDefinitionList) DeepCopyObject() runtime.Object { return copyOf(l) }

// copyOf copies what has been read from JSON, or can be written as it.
func copyOf[T any](in *T) *T {
	out := new(T)
	data, err := json.Marshal(in)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		panic("copy a definition: " + err.Error())
	}
	return out
}

// Condition returns a condition, or nil.
func (d *CustomResourceDefinition) Condition(kind ConditionType) *CustomResourceDefinitionCondition {
	for i := range d.Status.Conditions {
		if c := &d.Status.Conditions[i]; c.Type == kind {
			return c
		}
	}
	return nil
}

// Is reports whether a condition is true.
func (d *CustomResourceDefinition) Is(kind ConditionType) bool {
	c := d.Condition(kind)
	return c != nil && c.Status == metav1.ConditionTrue
}

// Set puts a condition; its time stays unless its status changes.
func (d *CustomResourceDefinition) Set(c CustomResourceDefinitionCondition) {
	old := d.Condition(c.Type)
	switch {
	case old == nil:
		d.Status.Conditions = append(d.Status.Conditions, c)
	case old.Status == c.Status:
		c.LastTransitionTime = old.LastTransitionTime
		*old = c
	default:
		*old = c
	}
}

// StorageVersion is the name of the version that lies in etcd.
func (d *CustomResourceDefinition) StorageVersion() string {
	for _, v := range d.Spec.Versions {
		if v.Storage {
			return v.Name
		}
	}
	return ""
}
