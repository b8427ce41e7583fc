package nstest

import (
	"fmt"
	"io"
	"net"
	"time"
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
		conn, err := net.DialTimeout(network, address, 2*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		name, seen, err = Exchange(conn)
		return err
	})
	return name, seen, err
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
