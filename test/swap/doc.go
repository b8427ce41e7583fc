// Package swap puts real Kubernetes programs in the place of ours and watches
// what happens: a real kube-scheduler against our API server, decided against
// our own plugins pod by pod; a real kubectl through its verbs; a real
// kube-apiserver over what ours stored, and ours over what that one stored; a
// real kubelet on a node of ours.
//
// The folder controllers does the same to the controller manager, the folder
// flannel to flanneld, network_test.go to kube-proxy and cni_test.go to the CNI
// plugins, under traffic, csi_test.go to the hostpath driver and the sidecars of
// kubernetes-csi. order_test.go and moves_test.go swap nothing: the one starts
// our own programs in every order, the other moves pods with claims between nodes.
//
// The programs are given by path, in $KUBE_SCHEDULER, $KUBE_CONTROLLER_MANAGER,
// $KUBECTL, $KUBE_APISERVER, $KUBELET, $KUBE_PROXY, $FLANNELD, $CNI_BIN, $CSI_DRIVER
// and $CSI_SIDECARS, by `make smoke-swap`, which runs the tests of those that are
// given; a test whose program is not given fails and says what is missing.
package swap
