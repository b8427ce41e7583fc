package image

import (
	"fmt"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Spec says what an image holds and what it runs.
type Spec struct {
	Name   string    // full reference, for example tinykube.local/pause:3.10
	Layers []Layer   // lowest first; images that hold an equal layer share it
	Config v1.Config // entrypoint, user, environment, …: what a Dockerfile's directives would set
}

// epoch is the time of everything in an image: a build's own time would make each build another image.
var epoch = time.Unix(0, 0).UTC()

// Build assembles the image of spec. It reads every source file once, to learn the layers' digests; the contents are
// read again when the image is written.
func Build(spec Spec) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	for i, files := range spec.Layers {
		layer, err := newTarLayer(files)
		if err != nil {
			return nil, fmt.Errorf("layer %d of %s: %w", i, spec.Name, err)
		}
		addendum := mutate.Addendum{Layer: layer, MediaType: types.OCIUncompressedLayer, History: v1.History{Created: v1.Time{Time: epoch}}}
		if img, err = mutate.Append(img, addendum); err != nil {
			return nil, fmt.Errorf("layer %d of %s: %w", i, spec.Name, err)
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("config of %s: %w", spec.Name, err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Created = v1.Time{Time: epoch}
	config.Config = spec.Config
	return mutate.ConfigFile(img, config)
}
