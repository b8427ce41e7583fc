package etcdtest

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

// Cluster is an etcd of several members, each a process that can be killed,
// paused and started again.
type Cluster struct {
	Endpoints []string
	dir       string
	address   string
	members   []*Process
}

// Ports of the members' two sides, below those that the kernel hands out.
const (
	clientPort = 23790
	peerPort   = 23800
)

// Loopback is an address of this process's own out of 127.0.0.0/8, so that
// servers which must find their port again after a restart do find it.
func Loopback() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&63, pid>>8&255, pid&255)
}

// StartCluster runs a cluster on data in dir.
func StartCluster(t testing.TB, dir string, members int) *Cluster {
	t.Helper()
	c := &Cluster{dir: dir, address: Loopback(), members: make([]*Process, members)}
	for i := range members {
		c.Endpoints = append(c.Endpoints, memberURL(c.address, clientPort, i))
	}
	for i := range members {
		c.Restart(t, i)
	}
	return c
}

// Restart starts a member that was killed. It returns before the member has
// found the others.
func (c *Cluster) Restart(t testing.TB, i int) {
	t.Helper()
	c.members[i] = start(t, filepath.Join(c.dir, fmt.Sprint("m", i)), fmt.Sprintf("%s=%d/%d@%s", clusterVariable, i, len(c.members), c.address))
}

// Member is the process of a member.
func (c *Cluster) Member(i int) *Process { return c.members[i] }

func memberURL(address string, port, i int) string {
	return fmt.Sprintf("http://%s:%d", address, port+i)
}

// startMember is what a member's process does.
func startMember(dir, cluster string) (endpoint string, err error) {
	var number, members int
	var address string
	if _, err := fmt.Sscanf(strings.NewReplacer("/", " ", "@", " ").Replace(cluster), "%d %d %s", &number, &members, &address); err != nil {
		return "", fmt.Errorf("%s=%q: %w", clusterVariable, cluster, err)
	}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name, cfg.UnsafeNoFsync = dir, fmt.Sprint("m", number), true
	cfg.LogLevel, cfg.LogOutputs = "fatal", []string{"stderr"}
	cfg.WarningUnaryRequestDuration = embed.DefaultWarningUnaryRequestDuration
	var all []string
	for i := range members {
		all = append(all, fmt.Sprintf("m%d=%s", i, memberURL(address, peerPort, i)))
	}
	cfg.InitialCluster = strings.Join(all, ",")
	client, err := url.Parse(memberURL(address, clientPort, number))
	if err != nil {
		return "", err
	}
	peer, err := url.Parse(memberURL(address, peerPort, number))
	if err != nil {
		return "", err
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	_, err = embed.StartEtcd(cfg)
	return client.String(), err
}
