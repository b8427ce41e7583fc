package payload

// The form of the built payload, on which package pack and this one agree: <group>.tar.zst holds the group's files,
// <group>.json says what they are. When this file changes, make packs anew.

// Window is the distance, in bytes, over which the archives' compression finds repetitions: longer than most$
// programs of a group are apart. The reader needs as much memory, for as long as it reads.
const Window = 64 << 20

// File is one file of the payload.
type File struct {
	Name    string `json:"name"`
	SHA256  string `json:"sha256"`
	Size    int64  `json:"size"`
	Mode    uint32 `json:"mode"`
	Module  string `json:"module,omitempty"`  // the Go module that it was built from
	Version string `json:"version,omitempty"` // that module's version; empty for our own
}

// Group is the content of one archive: the JSON document beside it.
type Group struct {
	Files []File `json:"files"` // in the archive's order
}
