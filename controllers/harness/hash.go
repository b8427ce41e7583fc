package harness

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"

	"k8s.io/apimachinery/pkg/util/rand"
)

// Hash names the content of a value in a few safe characters: FNV-32a of its
// JSON, which is stable as Go's encoder sorts maps and omits what is empty.
// collisions, which may be nil, makes another name when the first is taken.
//
// Upstream: kubernetes/kubernetes pkg/controller ComputeHash, which hashes a
// dump of Go's memory layout; the values differ and nobody may rely on them.
func Hash(value any, collisions *int32) string {
	raw, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("hash: %v", err)) // API types always encode
	}
	h := fnv.New32a()
	h.Write(raw)
	if collisions != nil {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(*collisions)))
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}
