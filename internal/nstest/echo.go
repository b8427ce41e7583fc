package nstest

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Echo answers every connection (tcp) or packet (udp) to address, inside the
// namespace and until the test ends, with who it is and whom it saw:
//
//	web-1 10.244.1.7:40312
func (ns *NS) Echo(network, address, name string) {
	ns.tb.Helper()
	if network == "udp" {
		conn := ns.ListenPacket(address)
		go func() {
			buffer := make([]byte, 2048)
			for {
				_, from, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = conn.WriteTo([]byte(name+" "+from.String()), from)
			}
		}()
		return
	}
	listener := ns.Listen(address)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "%s %s", name, conn.RemoteAddr())
			conn.Close()
		}
	}()
}

// Ask connects to address from inside the namespace and answers what an Echo
// there says. It gives up after two seconds.
func (ns *NS) Ask(network, address string) (name, seen string, err error) {
	err = ns.Do(func() error {
		conn, err := (&net.Dialer{Timeout: 30 * time.Second, Control: giveUp}).Dial(network, address)
		if err != nil {
			return err
		}
		defer conn.Close()
		name, seen, err = Exchange(conn)
		return err
	})
	return name, seen, err
}

// giveUp makes the kernel end a connection that nobody answers. A refusal that
// comes while connect() still runs is only remembered: this deadline tells it,
// one of Go's would not.
func giveUp(network, _ string, c syscall.RawConn) (err error) {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	if failed := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 2000)
	}); failed != nil {
		return failed
	}
	return err
}

// Exchange asks an Echo over a connection that is open already.
func Exchange(conn net.Conn) (name, seen string, err error) {
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", "", err
	}
	var data []byte
	if conn.LocalAddr().Network() == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", "", err
		}
		data = make([]byte, 2048)
		n, err := conn.Read(data)
		if err != nil {
			return "", "", err
		}
		data = data[:n]
	} else if data, err = io.ReadAll(conn); err != nil {
		return "", "", err
	}
	_, err = fmt.Sscan(string(data), &name, &seen)
	return name, seen, err
}

// Relay makes a server of the test's own namespace, at to, reachable at address
// inside the namespace, until the test ends.
func (ns *NS) Relay(address, to string) {
	ns.tb.Helper()
	listener := ns.Listen(address)
	go func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			go func() { _, _ = io.Copy(out, in); out.Close() }()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
		}
	}()
}
