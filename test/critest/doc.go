// Package critest runs cri-tools' critest, the suite by which container
// runtimes are judged, against our CRI server and against containerd's own, and
// puts the two results side by side.
//
//	critest ──gRPC──▶ bin/tinykube cri ──▶ containerd          (first run)
//	critest ──gRPC──▶ containerd's CRI plugin                  (second run)
//	   │                    │ pull
//	   └─ 127.0.0.1         ▼
//	                  a registry of our own ◀── images of our own builder
//
// Everything happens in namespaces that have no route off the machine. The
// suite names images in registries of the world; a mirror configuration
// (certs.d, as containerd's users know it) sends both runtimes to a registry on
// loopback instead, which serves images of the same names and the same purpose,
// built from our tools image and from static Go programs.
//
// What a runtime does not pass is listed in list_test.go with the reason. A
// spec that fails and is not listed fails the test; so does one that is listed
// and passes.
//
// The suite is given by path: make critest CRITEST=path.
package critest
