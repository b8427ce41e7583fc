// Package linger closes TCP connections so that the other side reads the last
// word.
//
// A kernel that closes a connection with unread input does not end it but
// resets it, and the other side's kernel then throws away what it has received
// and not yet read. So a server that says "exit code 9" and hangs up loses it
// whenever the client is just sending something: a key, a resize, a ping.
//
//	write "exit code 9", Close:   ◀── FIN ── (input still comes: read and dropped) ──▶ FIN, closed
package linger

import (
	"io"
	"net"
	"sync"
	"time"
)

// patience is how long the other side may go on sending.
const patience = time.Second

// Listen makes every accepted TCP connection one that lingers.
func Listen(l net.Listener) net.Listener { return listener{l} }

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		return &conn{TCPConn: tcp}, nil
	}
	return c, err
}

type conn struct {
	*net.TCPConn
	closing sync.Once
}

// Close ends what we say at once, and listens a little longer.
func (c *conn) Close() error {
	c.closing.Do(func() {
		if c.CloseWrite() != nil {
			c.TCPConn.Close()
			return
		}
		c.SetReadDeadline(time.Now().Add(patience)) // for whoever is reading, too
		go func() {
			io.Copy(io.Discard, c.TCPConn)
			c.TCPConn.Close()
		}()
	})
	return nil
}
