//go:build ipvs

package proxy

// go test -tags ipvs is for kernels that have IPVS: the table of tests runs in
// that mode, too.
func init() { testModes = append(testModes, testMode{modeIPVS, IPv4}) }
