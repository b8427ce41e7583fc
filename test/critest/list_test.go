package critest

import "strings"

// reasons are why a spec is not passed, by runtime; both is why neither can.
type reasons struct{ both, ours, theirs string }

// on answers whether a runtime is known not to pass.
func (r reasons) on(runtime string) (reason string, listed bool) {
	switch {
	case r.both != "":
		return r.both, true
	case runtime == ours.name:
		return r.ours, r.ours != ""
	}
	return r.theirs, r.theirs != ""
}

// leftOut are the specs that are not passed, by what their names begin with.
var leftOut = map[string]reasons{
	"Image Manager public image with digest should be pulled and removed": {
		both: "the digest is that of an image in upstream's registry, which nobody else can build"},
	"AppArmor ": {
		both: "skipped by the suite: the kernel of the test machine has no AppArmor (and ours would refuse a profile)"},
	"NRI ": {
		both: "skipped by the suite: no NRI socket; ours has none, containerd's is switched off"},
	"Image Volume [Feature:ImageVolume] should return image digest in ContainerStatus mounts": {
		theirs: "skipped by the suite: containerd 2.4 does not report it"},
}

// findReasons answers under which entry of the list a spec is.
func findReasons(spec string) (key string, found reasons) {
	for key, reasons := range leftOut {
		if strings.HasPrefix(strings.TrimPrefix(spec, "[It] [k8s.io] "), key) {
			return key, reasons
		}
	}
	return "", reasons{}
}

// otherCode says of wrong calls why we answer with another code. That ours names
// a class of error where theirs has none (Unknown) needs no reason.
var otherCode = map[string]string{
	"RunPodSandbox empty metadata":                    "a pod without any name could not be told from another",
	"RunPodSandbox a cgroup parent with ..":           "must not lead out of the node's own control group",
	"CreateContainer no name":                         "as for pods",
	"CreateContainer a log path that leaves":          "must not lead to files of the host",
	"CreateContainer without the pod's configuration": "the pod's own, which is saved, is what counts",
	"ContainerStats of exited":                        "zeroes, which a caller can add up, rather than an error",
	"PodSandboxStats of stopped":                      "as for containers",
}
