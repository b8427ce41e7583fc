// Package volumeprotection holds back the end of storage that is in use: a claim
// as long as a pod that has a node names it, a volume as long as it is bound, a VolumeAttributesClass as long
// as either has it.
// The server puts a finalizer on each when it is made, and this takes it off.
//
//	kubectl delete pvc data    ──▶ Terminating, and nothing happens …
//	kubectl delete pod user    ──▶ … until the last pod is gone
package volumeprotection
