package resources

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"tinykube/api/extensions"
	"tinykube/apiserver/custom"
)

// The two kinds that declare other kinds. What they declare is made into rows
// by FromDefinition, and into a proxy by the API server's aggregation.

func definitionRows() []*Row {
	definition := kind[extensions.CustomResourceDefinition, extensions.CustomResourceDefinitionList](Row{
		ShortNames: names("crd", "crds"), Categories: names("api-extensions"), Status: true, StoredJSON: true,
		Prefix: extensions.DefinitionGroup + "/customresourcedefinitions",
		Read: func(data []byte) (Object, error) {
			d, err := custom.DecodeStored(data)
			return d, err
		},
		Strategy: lifecycle(true).with(func(s *Strategy) {
			s.Default = on(custom.Complete)
			s.RequireResourceVersion = true
			s.PrepareDelete = on(prepareDefinitionDelete)
			s.Warnings = func(obj, _ Object) []string { return custom.Warnings(obj.(*extensions.CustomResourceDefinition)) }
		}).afterCreate(on(custom.NoteStorage)).afterUpdate(onUpdate(func(d, _ *extensions.CustomResourceDefinition) { custom.NoteStorage(d) })),
	}).validates(check(custom.Check), checkUpdate(custom.CheckUpdate)).validatesStatus(checkUpdate(custom.CheckStatus))
	return group(extensions.DefinitionGroup, "v1", definition)
}

func serviceRows() []*Row {
	service := kind[extensions.APIService, extensions.APIServiceList](Row{
		Singular: "apiservice", Categories: names("api-extensions"), Status: true, StoredJSON: true, Prefix: extensions.ServiceGroup + "/apiservices",
		Strategy: lifecycle(false).with(func(s *Strategy) {
			s.Default = on(defaultAPIService)
			s.RequireResourceVersion = true
			s.NameValidation = func(string) []string { return nil } // see checkAPIService
		}).afterCreate(on(func(a *extensions.APIService) {
			if a.Spec.Service == nil {
				a.SetAvailable(LocalAvailable(metav1.Now()))
			}
		})),
	}).prints("Name|Service|Available|Age", cells(apiServiceCells)).
		validates(check(checkAPIService), nil)
	return group(extensions.ServiceGroup, "v1", service)
}

// prepareDefinitionDelete keeps a definition until its objects are gone.
// Upstream: kubernetes@v1.36 k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition/etcd.go Delete
func prepareDefinitionDelete(d *extensions.CustomResourceDefinition) {
	if d.DeletionTimestamp != nil || slices.Contains(d.Finalizers, extensions.CleanupFinalizer) {
		return
	}
	d.Finalizers = append(d.Finalizers, extensions.CleanupFinalizer)
	custom.Terminate(d, false, "InstanceDeletionPending", "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon", metav1.Now())
}

const defaultHTTPSPort = 443

func defaultAPIService(a *extensions.APIService) {
	if s := a.Spec.Service; s != nil && s.Port == nil {
		port := int32(defaultHTTPSPort)
		s.Port = &port
	}
}

// LocalAvailable is the condition of what this server serves itself.
func LocalAvailable(now metav1.Time) extensions.APIServiceCondition {
	return extensions.APIServiceCondition{
		Type: extensions.Available, Status: metav1.ConditionTrue, LastTransitionTime: now,
		Reason: "Local", Message: "Local APIServices are always available",
	}
}

// Upstream: kubernetes@v1.36 k8s.io/kube-aggregator/pkg/apis/apiregistration/validation/validation.go
func checkAPIService(a *extensions.APIService) field.ErrorList {
	spec, path := &a.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if want := spec.Version + "." + spec.Group; a.Name != want {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), a.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
	}
	if spec.Group == "" && spec.Version != "v1" {
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if spec.Group != "" {
		for _, problem := range utilvalidation.IsDNS1123Subdomain(spec.Group) {
			errs = append(errs, field.Invalid(path.Child("group"), spec.Group, problem))
		}
	}
	for _, problem := range utilvalidation.IsDNS1035Label(spec.Version) {
		errs = append(errs, field.Invalid(path.Child("version"), spec.Version, problem))
	}
	if p := spec.GroupPriorityMinimum; p <= 0 || p > 20000 {
		errs = append(errs, field.Invalid(path.Child("groupPriorityMinimum"), p, "must be positive and less than 20000"))
	}
	if p := spec.VersionPriority; p <= 0 || p > 1000 {
		errs = append(errs, field.Invalid(path.Child("versionPriority"), p, "must be positive and less than 1000"))
	}
	return append(errs, checkServiceReference(path, spec)...)
}

func checkServiceReference(path *field.Path, spec *extensions.APIServiceSpec) field.ErrorList {
	var errs field.ErrorList
	insecure := path.Child("insecureSkipTLSVerify")
	if spec.Service == nil {
		if len(spec.CABundle) > 0 {
			errs = append(errs, field.Invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", len(spec.CABundle)), "local APIServices may not have a caBundle"))
		}
		if spec.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(insecure, true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	service := path.Child("service")
	if spec.Service.Namespace == "" {
		errs = append(errs, field.Required(service.Child("namespace"), ""))
	}
	if spec.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	}
	if problems := utilvalidation.IsValidPortNum(int(*spec.Service.Port)); len(problems) > 0 {
		errs = append(errs, field.Invalid(service.Child("port"), *spec.Service.Port, "port is not valid: "+strings.Join(problems, ", ")))
	}
	if spec.InsecureSkipTLSVerify && len(spec.CABundle) > 0 {
		errs = append(errs, field.Invalid(insecure, true, "may not be true if caBundle is present"))
	}
	return errs
}

// Upstream: kubernetes@v1.36 k8s.io/kube-aggregator/pkg/registry/apiservice/etcd/etcd.go ConvertToTable
func apiServiceCells(a *extensions.APIService, now time.Time) []any {
	service, available := "Local", "Unknown"
	if s := a.Spec.Service; s != nil {
		service = s.Namespace + "/" + s.Name
	}
	for _, c := range a.Status.Conditions {
		if c.Type != extensions.Available {
			continue
		}
		available = string(c.Status)
		if c.Status != metav1.ConditionTrue {
			available = fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
	}
	return []any{a.Name, service, available, age(a, now)}
}
