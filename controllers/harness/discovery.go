package harness

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"tinykube/client"
)

// Resource is what discovery says about one resource, in the version that the
// server prefers.
type Resource struct {
	Group, Version, Kind, Plural string
	Namespaced                   bool
	verbs                        []string
	served                       []string // all its versions
}

// ServedIn says whether the resource can be had in a version, preferred or not.
func (r Resource) ServedIn(version string) bool { return slices.Contains(r.served, version) }

// SameAs says whether requests for both go to the same place.
func (r Resource) SameAs(other Resource) bool {
	return r.Group == other.Group && r.Version == other.Version && r.Kind == other.Kind && r.Plural == other.Plural && r.Namespaced == other.Namespaced
}

// Can says whether the resource has all of the verbs.
func (r Resource) Can(verbs ...string) bool {
	return !slices.ContainsFunc(verbs, func(v string) bool { return !slices.Contains(r.verbs, v) })
}

// GroupResource names the resource whatever its version.
func (r Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Plural}
}

// Metadata is the kind under which only the metadata of such objects is read.
func (r Resource) Metadata() client.Kind[*metav1.PartialObjectMetadata] {
	return client.Kind[*metav1.PartialObjectMetadata]{Group: r.Group, Version: r.Version, Kind: r.Kind, Plural: r.Plural, Namespaced: r.Namespaced}
}

const acceptDiscovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// Discover asks the server what it serves. Groups whose own server does not
// answer are named in stale: about them nothing is known.
func Discover(ctx context.Context, c *client.Client) (resources []Resource, stale []string, err error) {
	for _, path := range []string{"/api", "/apis"} {
		list := &apidiscoveryv2.APIGroupDiscoveryList{}
		err := c.DoInto(ctx, client.Request{Method: http.MethodGet, Path: path, Accept: acceptDiscovery}, nil, list)
		if err != nil {
			return nil, nil, fmt.Errorf("discover %s: %w", path, err)
		}
		for i := range list.Items {
			found, isStale := preferred(&list.Items[i])
			resources = append(resources, found...)
			if isStale {
				stale = append(stale, list.Items[i].Name)
			}
		}
	}
	return resources, stale, nil
}

// preferred lists a group's resources, each in the first version that has it.
func preferred(group *apidiscoveryv2.APIGroupDiscovery) (resources []Resource, stale bool) {
	position := map[string]int{}
	for _, version := range group.Versions {
		stale = stale || version.Freshness == apidiscoveryv2.DiscoveryFreshnessStale
		for _, r := range version.Resources {
			i, seen := position[r.Resource]
			switch {
			case r.ResponseKind == nil:
			case seen:
				resources[i].served = append(resources[i].served, version.Version)
			default:
				position[r.Resource] = len(resources)
				resources = append(resources, Resource{
					Group: group.Name, Version: version.Version, Kind: r.ResponseKind.Kind, Plural: r.Resource,
					Namespaced: r.Scope == apidiscoveryv2.ScopeNamespace, verbs: r.Verbs, served: []string{version.Version},
				})
			}
		}
	}
	return resources, stale
}
