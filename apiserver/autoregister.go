package apiserver

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/extensions"
	"tinykube/apiserver/resources"
)

// Everything that is served has an APIService, so that `kubectl get apiservices`
// shows one list of who serves what. Those of our own name no Service: they are
// Local. We write them, and take away those of custom groups that are gone.
//
// Upstream: kubernetes@v1.36 k8s.io/kube-aggregator/pkg/controllers/autoregister/autoregister_controller.go

const (
	labelManaged = "kube-aggregator.kubernetes.io/automanaged"
	// onStart is for built-in groups: written when we start, and then anybody's
	// to change. always is for custom ones.
	onStart, always = "onstart", "true"
	// customVersionPriority is the same for all custom versions: clients then
	// order them by their names.
	customVersionPriority = 100
)

// groupPriorities order the built-in groups, as far as they are registered.
// Upstream: kubernetes@v1.36 pkg/controlplane/apiserver/aggregator.go DefaultGenericAPIServicePriorities
var groupPriorities = map[string]int32{
	"": 18000, "apps": 17800, "events.k8s.io": 17750, "authentication.k8s.io": 17700, "authorization.k8s.io": 17600,
	"autoscaling": 17500, "batch": 17400, "certificates.k8s.io": 17300, "networking.k8s.io": 17200, "policy": 17100,
	"rbac.authorization.k8s.io": 17000, "storage.k8s.io": 16800, "apiextensions.k8s.io": 16700,
	"admissionregistration.k8s.io": 16700, "scheduling.k8s.io": 16600, "coordination.k8s.io": 16500, "node.k8s.io": 16300,
	"discovery.k8s.io": 16200, "resource.k8s.io": 16200, "flowcontrol.apiserver.k8s.io": 16100,
}

// versionPriorities are those that are not 15.
var versionPriorities = map[string]int32{"v1": 1, "autoscaling/v2": 30, "flowcontrol.apiserver.k8s.io/v1": 21, "resource.k8s.io/v1": 21}

// register writes the APIServices of what we serve ourselves.
func (s *Server) register(ctx context.Context, state *extensionState) error {
	wanted := map[string]*extensions.APIService{}
	if !state.registered {
		for _, row := range s.allRows {
			if priority, ok := groupPriorities[row.Group]; ok {
				version, ok := versionPriorities[row.GVK().GroupVersion().String()]
				if !ok {
					version = 15
				}
				want(wanted, row, onStart, priority, version)
			}
		}
	}
	for _, rows := range state.custom {
		for _, row := range rows {
			if !row.Custom.NotServed && !s.isBuiltIn(row.Group, row.Version) {
				want(wanted, row, always, customPriority, customVersionPriority)
			}
		}
	}
	present := map[string]bool{}
	for _, service := range allCached[*extensions.APIService](s, extensions.ServiceGroup, "apiservices", "") {
		present[service.Name] = true
		if service.Labels[labelManaged] != always || wanted[service.Name] != nil {
			continue
		}
		q := s.internal(ctx, s.rowFor(service), "", service.Name)
		if _, _, err := s.deleteObject(q, q.key(), &metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	for name, service := range wanted {
		if present[name] {
			continue
		}
		if err := s.ensure(ctx, service); err != nil {
			return err
		}
	}
	state.registered = true
	return nil
}

// want adds the APIService of a row's group and version.
func want(wanted map[string]*extensions.APIService, row *resources.Row, managed string, group, version int32) {
	name := row.Version + "." + row.Group
	if wanted[name] != nil {
		return
	}
	wanted[name] = &extensions.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{labelManaged: managed}},
		Spec:       extensions.APIServiceSpec{Group: row.Group, Version: row.Version, GroupPriorityMinimum: group, VersionPriority: version},
	}
}
