package extensions

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// ServiceGroup is the group of APIServices.
const ServiceGroup = "apiregistration.k8s.io"

// Available is the condition of an APIService that can be asked.
const Available = "Available"

// APIService says who serves a group and version: this server, or one behind
// a Service.
//
// Upstream: kubernetes@v1.36 k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/types.go
type APIService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"` // Name, labels and what else all objects have.

	Spec   APIServiceSpec   `json:"spec,omitempty"`   // Who serves which group and version.
	Status APIServiceStatus `json:"status,omitempty"` // Whether it answers.
}

// APIServiceList is a list of them.
type APIServiceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"` // Revision of the list, and where it goes on.

	Items []APIService `json:"items"` // The services.
}

// APIServiceSpec is what the author says.
type APIServiceSpec struct {
	Service               *ServiceReference `json:"service,omitempty"`               // Service in front of the other server; none if this server serves it itself.
	Group                 string            `json:"group,omitempty"`                 // API group that is served.
	Version               string            `json:"version,omitempty"`               // API version that is served.
	InsecureSkipTLSVerify bool              `json:"insecureSkipTLSVerify,omitempty"` // Whether any certificate will do. Better give a caBundle.
	// +listType=atomic
	CABundle             []byte `json:"caBundle,omitempty"`                // PEM of the CAs that its certificate is checked with; the system's if empty.
	GroupPriorityMinimum int32  `json:"groupPriorityMinimum" protobuf:"7"` // Place of the group among the others: the higher, the earlier in discovery.
	VersionPriority      int32  `json:"versionPriority" protobuf:"8"`      // Place of the version in its group: the higher, the earlier.
}

// ServiceReference names a Service; its port is 443 unless it says otherwise.
type ServiceReference struct {
	Namespace string `json:"namespace,omitempty"` // Namespace of the Service.
	Name      string `json:"name,omitempty"`      // Name of the Service.
	Port      *int32 `json:"port,omitempty"`      // Port of the Service; 443 if not set.
}

// APIServiceStatus is what the server says.
type APIServiceStatus struct {
	// +listType=map
	// +listMapKey=type
	Conditions []APIServiceCondition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type"` // What is true of the service now: Available.
}

// APIServiceCondition is one answer about an APIService.
type APIServiceCondition struct {
	Type               string                 `json:"type"`                         // What it is about.
	Status             metav1.ConditionStatus `json:"status"`                       // True, False or Unknown.
	LastTransitionTime metav1.Time            `json:"lastTransitionTime,omitempty"` // When that changed last.
	Reason             string                 `json:"reason,omitempty"`             // Why, in a word for programs.
	Message            string                 `json:"message,omitempty"`            // Why, for people.
}

// DeepCopyObject copies by way of JSON.
func (s *APIService) DeepCopyObject() runtime.Object { return copyOf(s) }

// DeepCopyObject copies by way of JSON.
func (l *APIServiceList) DeepCopyObject() runtime.Object { return copyOf(l) }

// IsAvailable reports whether the service may be asked.
func (s *APIService) IsAvailable() bool {
	for _, c := range s.Status.Conditions {
		if c.Type == Available {
			return c.Status == metav1.ConditionTrue
		}
	}
	return false
}

// SetAvailable puts the condition; its time stays unless its status changes.
func (s *APIService) SetAvailable(c APIServiceCondition) {
	c.Type = Available
	for i := range s.Status.Conditions {
		old := &s.Status.Conditions[i]
		if old.Type != Available {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		*old = c
		return
	}
	s.Status.Conditions = append(s.Status.Conditions, c)
}

func unmarshalNumbers(data []byte, into *any) error { return utiljson.Unmarshal(data, into) }
