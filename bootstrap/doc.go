// Package bootstrap knows what must lie on a machine before a cluster can come
// to life: certificates, kubeconfigs, static-pod manifests, the kubelet's
// configuration, and the add-ons that arrive through the API afterwards.
//
//	Cluster ──▶ PKI (pki.go): three authorities, and who is signed by which
//	        ──▶ Files(node) (files.go): path → content, for one node
//	        ──▶ Addons (addons.go): kube-proxy, flannel, CoreDNS as YAML
//
// Everything is a pure function of a Cluster and its PKI: nothing here opens a
// socket or writes a file. Names, subjects and places are those of kubeadm, so
// that what people know from other clusters is true of this one.
//
// Book: docs/00-a-cluster-in-one-command.md
package bootstrap
