package nstest

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// Three machines on one switch reach each other, and each sees only its own
// links.
func TestSwitch(t *testing.T) {
	wire := NewSwitch(t)
	var nodes []*NS
	for i := range 3 {
		ns := New(t, fmt.Sprintf("node-%d", i))
		wire.Plug(ns, fmt.Sprintf("172.30.9.%d/24", i+1))
		nodes = append(nodes, ns)
	}
	listener := nodes[2].Listen("172.30.9.3:80")
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			fmt.Fprint(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
	var got []byte
	nodes[0].Must(func() error {
		conn, err := net.Dial("tcp", "172.30.9.3:80")
		if err != nil {
			return err
		}
		got, err = io.ReadAll(conn)
		return err
	})
	if !strings.HasPrefix(string(got), "172.30.9.1:") {
		t.Errorf("the listener saw %q", got)
	}
	if links := nodes[1].Run("ip -o link"); strings.Count(links, "\n") != 2 {
		t.Errorf("node-1 should have lo and eth0:\n%s", links)
	}
}

// The test binary itself stands in an empty namespace, not in the machine's.
func TestOwnNamespace(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) != 1 {
		t.Errorf("interfaces %v, error %v: want lo alone", interfaces, err)
	}
	entries, err := os.ReadDir("/run")
	if err != nil || len(entries) != 1 {
		t.Errorf("/run holds %v, error %v: want netns alone", entries, err)
	}
}

// Do answers the error of its function, and a namespace's sysctls are its own.
func TestDo(t *testing.T) {
	ns := New(t, "a")
	if err := ns.Do(func() error { return io.ErrUnexpectedEOF }); err != io.ErrUnexpectedEOF {
		t.Errorf("got %v", err)
	}
	ns.Sysctl("net/ipv4/ip_forward", "1")
	here, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil || strings.TrimSpace(string(here)) != "0" {
		t.Errorf("ip_forward outside is %q, %v", here, err)
	}
}
