package bootstrap

import (
	"encoding/base64"
	"fmt"
)

// Kubeconfig renders a file with one cluster, one user and one context, with
// everything embedded, so that it can be copied anywhere.
func Kubeconfig(cluster, server, user string, ca []byte, identity Certificate) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[4]s
contexts:
- name: %[3]s@%[1]s
  context:
    cluster: %[1]s
    user: %[3]s
current-context: %[3]s@%[1]s
users:
- name: %[3]s
  user:
    client-certificate-data: %[5]s
    client-key-data: %[6]s
`, cluster, server, user, b64(ca), b64(identity.Cert), b64(identity.Key))
}
