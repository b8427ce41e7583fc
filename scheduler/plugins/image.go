package plugins

import (
	"strings"

	"tinykube/scheduler/framework"
)

// ImageLocality prefers nodes that have the pod's images already. What counts
// is bytes not pulled; an image that only one node has counts little, so that
// not every pod of a Deployment runs after the first.
//
// Simplified: upstream knows one size per image name, that of the node which
// reported it first; here each node's own counts.
type ImageLocality struct{}

// Below the smallest sum of bytes nobody notices; above the largest, per
// container, more does not help.
//
// Upstream: kubernetes pkg/scheduler/framework/plugins/imagelocality
const (
	fewImageBytes  int64 = 23 << 20
	manyImageBytes int64 = 1000 << 20
)

// Name is the plugin's name in configuration files.
func (ImageLocality) Name() string { return "ImageLocality" }

// Score maps the bytes that are there to 0..100.
func (ImageLocality) Score(c *framework.Cycle, n *framework.NodeInfo) (int64, *framework.Status) {
	if len(n.Images) == 0 {
		return 0, nil
	}
	var sum, images int64
	count := func(name string) {
		name = withTag(name)
		images++
		if size, there := n.Images[name]; there {
			spread := float64(c.Snapshot.ImageNodes[name]) / float64(len(c.Snapshot.Nodes))
			sum += int64(float64(size) * spread)
		}
	}
	for i := range c.Pod.Spec.InitContainers {
		count(c.Pod.Spec.InitContainers[i].Image)
	}
	for i := range c.Pod.Spec.Containers {
		count(c.Pod.Spec.Containers[i].Image)
	}
	for i := range c.Pod.Spec.Volumes {
		if v := c.Pod.Spec.Volumes[i].Image; v != nil {
			count(v.Reference)
		}
	}
	return imageScore(sum, images), nil
}

func imageScore(sum, images int64) int64 {
	most := manyImageBytes * images
	sum = min(max(sum, fewImageBytes), most)
	return framework.MaxNodeScore * (sum - fewImageBytes) / (most - fewImageBytes)
}

// withTag adds the tag that an image reference leaves out. A colon before the
// last slash belongs to a registry's port.
func withTag(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		image += ":latest"
	}
	return image
}
