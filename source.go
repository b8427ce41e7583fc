// Package tinykube is the source of itself. A binary that carries its source
// can hand it out with holes to fill in (`tinykube lab start`), and can always
// show the code that it is running.
//
// What has modules of its own is left out: the payload, which comes in built
// form, and the foreign judges under test/.
package tinykube

import "embed"

// Source is the main module's tree, as it was when this binary was built.
//
//go:embed go.mod go.sum staticcheck.conf LICENSE Makefile README.md ARCHITECTURE.md source.go source_test.go
//go:embed api apiserver bootstrap client cmd cni controllers cri csi docs examples flannel kubelet labs proxy scheduler scripts
//go:embed internal/[^p]* internal/payload/*.go internal/payload/pack internal/payload/data/README.md
var Source embed.FS
