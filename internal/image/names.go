package image

// The images that bin/tinykube brings with it. The host part is nobody's registry: an image of these names is on the
// node or nowhere.
const (
	Pause   = "tinykube.local/pause:3.10"
	CoreDNS = "tinykube.local/coredns:v1.14.2"
	Podinfo = "tinykube.local/podinfo:6.9.2"
	Tools   = "tinykube.local/tools:v1"

	// Tinykube is the image of our own components; see Self.
	Tinykube = "tinykube.local/tinykube:v1.36"
)
