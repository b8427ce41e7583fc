// Package vm runs tests in a virtual machine: in another kernel, with what ours
// may lack, IPVS and cgroup v2 above all. The machine needs neither root nor KVM,
// has no network card, and leaves nothing behind.
//
//	Run ──tar──▶ qemu: Debian's cloud kernel, an initramfs with busybox
//	               │   /init: load virtio, unpack the tar into a tmpfs, switch to it
//	               │   /script: what the test wants to run
//	ttyS0 ◀────────┤   the kernel's words, shown when something fails
//	ttyS1 ◀────────┘   what the script prints, and how it ended
//
// Programs come from this machine, with the libraries that they need; the kernel
// is downloaded by `make vm` into bin/vm and never installed.
//
// Start reading at Run.
package vm
