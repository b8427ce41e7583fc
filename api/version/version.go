// Package version says which Kubernetes release tinykube speaks for.
package version

import (
	"runtime"

	apiversion "k8s.io/apimachinery/pkg/version"
)

// Kubernetes is the release whose behaviour we implement; Git is what we
// report, so that nobody mistakes us for the original.
const (
	Kubernetes = "v1.36.2"
	Git        = Kubernetes + "+tinykube"
)

// Info is the answer of GET /version.
func Info() apiversion.Info {
	return apiversion.Info{
		Major:      "1",
		Minor:      "36",
		GitVersion: Git,

		EmulationMajor: "1", EmulationMinor: "36", MinCompatibilityMajor: "1", MinCompatibilityMinor: "35",
		GitCommit:    "",
		GitTreeState: "clean",
		BuildDate:    "1970-01-01T00:00:00Z",
		GoVersion:    runtime.Version(),
		Compiler:     runtime.Compiler,
		Platform:     runtime.GOOS + "/" + runtime.GOARCH,
	}
}
