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
	metav1.ObjectMeta `json:"metadata,omitempty"` // Name, labels and what else all objects have.

	Spec CustomResourceDefinitionSpec `json:"spec"` // What kind it is, and what its objects look like.
	// +optional
	Status CustomResourceDefinitionStatus `json:"status,omitempty"` // What the server made of it.
}

// CustomResourceDefinitionList is a list of them.
type CustomResourceDefinitionList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"` // Revision of the list, and where it goes on.

	Items []CustomResourceDefinition `json:"items"` // The definitions.
}

// CustomResourceDefinitionSpec is what the author says.
type CustomResourceDefinitionSpec struct {
	Group string                        `json:"group"`              // API group of the kind, such as example.com.
	Names CustomResourceDefinitionNames `json:"names" protobuf:"3"` // What the kind is called, in paths, in manifests and by kubectl.
	Scope Scope                         `json:"scope" protobuf:"4"` // Cluster, or Namespaced: whether its objects live in namespaces.
	// +listType=atomic
	Versions []CustomResourceDefinitionVersion `json:"versions" protobuf:"7"` // The versions of the kind; exactly one is stored.
	// +optional
	Conversion            *CustomResourceConversion `json:"conversion,omitempty" protobuf:"9"`             // How an object of one version is shown as another.
	PreserveUnknownFields bool                      `json:"preserveUnknownFields,omitempty" protobuf:"10"` // Must be false: fields that no schema names are dropped.
}

// CustomResourceDefinitionNames are all the names of one kind.
type CustomResourceDefinitionNames struct {
	Plural   string `json:"plural"`             // Name in paths, lower case: crontabs.
	Singular string `json:"singular,omitempty"` // Name of one, lower case; the kind in lower case if empty.
	// +listType=atomic
	ShortNames []string `json:"shortNames,omitempty"` // What kubectl takes for the plural as well.
	Kind       string   `json:"kind"`                 // Name in manifests, in camel case: CronTab.
	ListKind   string   `json:"listKind,omitempty"`   // Kind of a list; the kind with List if empty.
	// +listType=atomic
	Categories []string `json:"categories,omitempty"` // Groups of kinds that kubectl knows, such as all.
}

// CustomResourceDefinitionVersion is one form of the kind.
type CustomResourceDefinitionVersion struct {
	Name               string  `json:"name"`                                      // Name of the version, such as v1beta1.
	Served             bool    `json:"served"`                                    // Whether clients may use it.
	Storage            bool    `json:"storage"`                                   // Whether objects are stored in it; one version is.
	Deprecated         bool    `json:"deprecated,omitempty" protobuf:"7"`         // Whether its users are warned.
	DeprecationWarning *string `json:"deprecationWarning,omitempty" protobuf:"8"` // What they are told; a sentence is made up if empty.

	Schema       *CustomResourceValidation   `json:"schema,omitempty" protobuf:"4"`       // What objects look like.
	Subresources *CustomResourceSubresources `json:"subresources,omitempty" protobuf:"5"` // Which subresources objects have.
	// +listType=atomic
	AdditionalPrinterColumns []CustomResourceColumnDefinition `json:"additionalPrinterColumns,omitempty" protobuf:"6"` // Columns of kubectl get; the age if there are none.
	// +listType=atomic
	SelectableFields []SelectableField `json:"selectableFields,omitempty" protobuf:"9"` // Fields that field selectors may name.
}

// CustomResourceConversion says how versions become each other.
type CustomResourceConversion struct {
	Strategy ConversionStrategy `json:"strategy"`          // None changes the apiVersion only; Webhook asks a program.
	Webhook  *WebhookConversion `json:"webhook,omitempty"` // The program that is asked.
}

// WebhookConversion asks another program to convert.
type WebhookConversion struct {
	ClientConfig *WebhookClientConfig `json:"clientConfig,omitempty" protobuf:"2"` // Where it is.
	// +listType=atomic
	ConversionReviewVersions []string `json:"conversionReviewVersions" protobuf:"3"` // Versions of ConversionReview that it understands, the best first.
}

// WebhookClientConfig is where that program is.
type WebhookClientConfig struct {
	URL      *string                  `json:"url,omitempty" protobuf:"3"`      // Its address, beginning with https://; or say service.
	Service  *WebhookServiceReference `json:"service,omitempty" protobuf:"1"`  // The Service that it is behind; or say url.
	CABundle []byte                   `json:"caBundle,omitempty" protobuf:"2"` // PEM of the CAs that its certificate is checked with.
}

// WebhookServiceReference names a Service.
type WebhookServiceReference struct {
	Namespace string  `json:"namespace"`      // Namespace of the Service.
	Name      string  `json:"name"`           // Name of the Service.
	Path      *string `json:"path,omitempty"` // Path to ask.
	Port      *int32  `json:"port,omitempty"` // Port of the Service; 443 if not set.
}

// CustomResourceValidation holds the schema of a version.
type CustomResourceValidation struct {
	OpenAPIV3Schema *JSONSchemaProps `json:"openAPIV3Schema,omitempty"` // The schema of an object.
}

// CustomResourceSubresources says which subresources there are.
type CustomResourceSubresources struct {
	Status *CustomResourceSubresourceStatus `json:"status,omitempty"` // With it, status is written by itself, through /status.
	Scale  *CustomResourceSubresourceScale  `json:"scale,omitempty"`  // With it, kubectl scale and autoscalers work, through /scale.
}

// CustomResourceSubresourceStatus turns /status on.
type CustomResourceSubresourceStatus struct{}

// CustomResourceSubresourceScale says where /scale finds its numbers.
type CustomResourceSubresourceScale struct {
	SpecReplicasPath   string  `json:"specReplicasPath"`            // JSON path, below .spec, of the number that is wanted.
	StatusReplicasPath string  `json:"statusReplicasPath"`          // JSON path, below .status, of the number that there is.
	LabelSelectorPath  *string `json:"labelSelectorPath,omitempty"` // JSON path, below .spec or .status, of the selector of the pods, as a string.
}

// CustomResourceColumnDefinition is a column of kubectl get.
type CustomResourceColumnDefinition struct {
	Name        string `json:"name"`                  // Heading of the column.
	Type        string `json:"type"`                  // Type of its values, as in OpenAPI, or date.
	Format      string `json:"format,omitempty"`      // Format of its values, as in OpenAPI.
	Description string `json:"description,omitempty"` // What it shows.
	Priority    int32  `json:"priority,omitempty"`    // 0 is always shown, more only with -o wide.
	JSONPath    string `json:"jsonPath"`              // JSON path of the value.
}

// SelectableField is a field that field selectors may name.
type SelectableField struct {
	JSONPath string `json:"jsonPath"` // JSON path of the field: .spec.color.
}

// CustomResourceDefinitionStatus is what the server says.
type CustomResourceDefinitionStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []CustomResourceDefinitionCondition `json:"conditions"` // What is true of the definition now: Established, NamesAccepted, Terminating.
	// +optional
	AcceptedNames CustomResourceDefinitionNames `json:"acceptedNames"` // The names that are in use; other definitions may have been first.
	// +listType=atomic
	StoredVersions     []string `json:"storedVersions,omitempty"`     // Versions in which objects may lie in etcd.
	ObservedGeneration int64    `json:"observedGeneration,omitempty"` // Generation of the spec that this is about.
}

// CustomResourceDefinitionCondition is one answer about a definition.
type CustomResourceDefinitionCondition struct {
	Type               ConditionType          `json:"type"`                         // What it is about.
	Status             metav1.ConditionStatus `json:"status"`                       // True, False or Unknown.
	LastTransitionTime metav1.Time            `json:"lastTransitionTime,omitempty"` // When that changed last.
	Reason             string                 `json:"reason,omitempty"`             // Why, in a word for programs.
	Message            string                 `json:"message,omitempty"`            // Why, for people.
	ObservedGeneration int64                  `json:"observedGeneration,omitempty"` // Generation of the spec that this is about.
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
