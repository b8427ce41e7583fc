package nstest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace: a node, a pod, or a client.
type NS struct {
	Name string
	Path string // what CNI_NETNS wants
	tb   testing.TB
}

// serial makes names unique over the tests of one binary.
var serial struct {
	sync.Mutex
	n int
}

// New makes a network namespace with its loopback up. It is gone when the test
// ends, with every link and rule in it.
func New(tb testing.TB, name string) *NS {
	tb.Helper()
	if os.Getenv(insideVariable) == "" {
		tb.Fatal("nstest: TestMain does not call nstest.Main")
	}
	serial.Lock()
	serial.n++
	path := fmt.Sprintf("/run/netns/%s.%d", name, serial.n)
	serial.Unlock()

	if err := os.WriteFile(path, nil, 0o444); err != nil {
		tb.Fatal(err)
	}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return upLoopback()
	})
	if err != nil {
		tb.Fatalf("new network namespace %s: %v", name, err)
	}
	ns := &NS{Name: name, Path: path, tb: tb}
	tb.Cleanup(ns.remove)
	return ns
}

func (ns *NS) remove() {
	if err := unix.Unmount(ns.Path, unix.MNT_DETACH); err != nil {
		ns.tb.Errorf("remove network namespace %s: %v", ns.Name, err)
	}
	_ = os.Remove(ns.Path)
}

// Do runs fn inside the namespace and answers its error.
//
// fn runs on a locked thread that is never unlocked, so Go throws the thread
// away afterwards instead of running something else in the wrong place. Only
// the calling goroutine is inside: goroutines that fn starts are not, but
// sockets and processes made by fn itself are, and stay.
func (ns *NS) Do(fn func() error) error {
	return onThread(func() error {
		fd, err := os.Open(ns.Path)
		if err != nil {
			return err
		}
		defer fd.Close()
		if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", ns.Name, err)
		}
		return fn()
	})
}

// onThread runs fn on an operating system thread that dies with it.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the test stopped inside") // t.FailNow in fn ends here
		defer func() { done <- err }()
		runtime.LockOSThread()
		err = fn()
	}()
	return <-done
}

// Must is Do for steps whose error ends the test.
func (ns *NS) Must(fn func() error) {
	ns.tb.Helper()
	if err := ns.Do(fn); err != nil {
		ns.tb.Fatalf("in %s: %v", ns.Name, err)
	}
}

// Run runs a command line inside the namespace (no shell: split at spaces) and
// answers what it prints. A failure ends the test.
func (ns *NS) Run(line string) string {
	ns.tb.Helper()
	return ns.RunInput("", line)
}

// RunInput is Run with something on standard input.
func (ns *NS) RunInput(stdin, line string) string {
	ns.tb.Helper()
	out, err := ns.Command(stdin, line)
	if err != nil {
		ns.tb.Fatalf("in %s: %s: %v\n%s", ns.Name, line, err, out)
	}
	return out
}

// Command is RunInput for a command that may fail.
func (ns *NS) Command(stdin, line string) (string, error) {
	var out []byte
	err := ns.Do(func() (err error) {
		fields := strings.Fields(line)
		command := exec.Command(fields[0], fields[1:]...)
		command.Stdin = strings.NewReader(stdin)
		out, err = command.CombinedOutput()
		return err
	})
	return string(out), err
}

// Sysctl writes one of the namespace's own values, e.g. "net/ipv4/ip_forward".
func (ns *NS) Sysctl(name, value string) {
	ns.tb.Helper()
	ns.Must(func() error { return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644) })
}

// Address gives a link of the namespace an address, as "172.30.9.1/24".
func (ns *NS) Address(link, address string) {
	ns.tb.Helper()
	ns.Must(func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, a)
	})
}

// Route adds a route through a gateway; destination "default" or a CIDR.
func (ns *NS) Route(destination, gateway string) {
	ns.tb.Helper()
	ns.Run("ip route add " + destination + " via " + gateway)
}

// Veth joins two namespaces by a pair of links, both up.
func Veth(tb testing.TB, a *NS, aLink string, b *NS, bLink string) {
	tb.Helper()
	fd, err := os.Open(b.Path)
	if err != nil {
		tb.Fatal(err)
	}
	defer fd.Close()
	a.Must(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = aLink
		veth := &netlink.Veth{LinkAttrs: attributes, PeerName: bLink, PeerNamespace: netlink.NsFd(int(fd.Fd()))}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("veth %s–%s: %w", aLink, bLink, err)
		}
		return netlink.LinkSetUp(veth)
	})
	b.Must(func() error { return up(bLink) })
}

// Switch is a bridge in a namespace of its own: the wire that nodes share.
type Switch struct{ ns *NS }

// NewSwitch makes one.
func NewSwitch(tb testing.TB) *Switch {
	tb.Helper()
	s := &Switch{ns: New(tb, "switch")}
	s.ns.Must(func() error {
		attributes := netlink.NewLinkAttrs()
		attributes.Name = "br0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attributes}); err != nil {
			return err
		}
		return up("br0")
	})
	return s
}

// Plug connects a namespace to the switch by a link "eth0" with an address.
func (s *Switch) Plug(ns *NS, address string) {
	s.ns.tb.Helper()
	port := "p-" + ns.Name
	Veth(s.ns.tb, s.ns, port, ns, "eth0")
	s.ns.Must(func() error {
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		link, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(link, bridge)
	})
	ns.Address("eth0", address)
}

// Listen opens a TCP listener inside the namespace; it stays there whoever
// accepts from it.
func (ns *NS) Listen(address string) net.Listener {
	ns.tb.Helper()
	var listener net.Listener
	ns.Must(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	ns.tb.Cleanup(func() { listener.Close() })
	return listener
}

// ListenPacket is Listen for UDP.
func (ns *NS) ListenPacket(address string) net.PacketConn {
	ns.tb.Helper()
	var conn net.PacketConn
	ns.Must(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	ns.tb.Cleanup(func() { conn.Close() })
	return conn
}

func upLoopback() error { return up("lo") }

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// Own is the namespace that the test binary itself runs in, for what a test
// serves from its own goroutines, an API server say.
func Own(tb testing.TB) *NS {
	return &NS{Name: "own", Path: "/proc/1/ns/net", tb: tb}
}
