// Package flags holds what every one of our programs says on its command line
// in the same words: flags we know but do not need, flags we must refuse,
// klog's logging flags, leader election, and the signal that ends Run.
//
// Our binaries take the place of upstream's under manifests and systemd units
// that nobody edits for us. So a flag is one of four things:
//
//	meant      parsed, and it does what upstream's does
//	ignored    AcceptIgnored: it works, says so once, and changes nothing
//	refused    Refuse: it promises safety we would not keep, so we do not start
//	unknown    pflag's error, as upstream
//
// Start reading at AcceptIgnored.
package flags
