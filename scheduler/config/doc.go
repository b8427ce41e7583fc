// Package config reads KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
// files and turns their profiles into framework.Profiles.
//
//	bytes ──Load──▶ v1.KubeSchedulerConfiguration ──Profiles──▶ []*framework.Profile
//	       strict, with defaults                   plugin sets merged
//
// The merge is where files surprise people. A profile starts from the default
// plugins at every point they implement ("multiPoint"); its own multiPoint
// section adds, disables and reweights; then each extension point does the
// same once more for itself. See merge.go.
package config
