// The definitions of snapshots as custom resources: only their files are used.
module tinykube/test/snapshots

go 1.26.0

require github.com/kubernetes-csi/external-snapshotter/client/v8 v8.7.0
