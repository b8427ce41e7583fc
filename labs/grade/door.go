package grade

import (
	"context"
	"net"
	"sync"
	"time"
)

// door stands between an API server and etcd. What the server asks always
// passes; what etcd answers can be held back, and then be let through or be
// lost. So a check can make a server be behind, or not know what became of its
// write, for as long as it likes and never by luck.
type door struct {
	listener net.Listener
	target   string // etcd's socket
	joined   sync.WaitGroup

	mu          sync.Mutex // guards the rest
	opened      *sync.Cond // mu; held or closed has changed
	held        bool
	closed      bool
	connections map[net.Conn]struct{}
	asked       int // bytes that passed towards etcd
}

func openDoor(target string) (*door, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &door{listener: listener, target: target, connections: map[net.Conn]struct{}{}}
	d.opened = sync.NewCond(&d.mu)
	d.joined.Go(d.accept)
	return d, nil
}

func (d *door) endpoint() string { return "http://" + d.listener.Addr().String() }

func (d *door) accept() {
	for {
		server, err := d.listener.Accept()
		if err != nil {
			return // closed
		}
		etcd, err := net.Dial("unix", d.target)
		if err != nil {
			server.Close() // the server will see, and try again
			continue
		}
		d.mu.Lock()
		d.connections[server], d.connections[etcd] = struct{}{}, struct{}{}
		d.mu.Unlock()
		d.joined.Go(func() { d.pass(etcd, server, d.count) })
		d.joined.Go(func() { d.pass(server, etcd, d.wait) })
	}
}

// pass copies in one direction; gate is asked about each piece.
func (d *door) pass(to, from net.Conn, gate func(n int)) {
	defer d.drop(to, from)
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			gate(n)
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (d *door) count(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked += n
}

func (d *door) wait(int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.held && !d.closed {
		d.opened.Wait()
	}
}

func (d *door) drop(connections ...net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range connections {
		c.Close()
		delete(d.connections, c)
	}
}

// hold keeps back what etcd says from now on.
func (d *door) hold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held, d.asked = true, 0
}

// release lets through what was held, and everything after.
func (d *door) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = false
	d.opened.Broadcast()
}

// slam loses what was held, with the connections it was for. New ones pass.
func (d *door) slam() {
	d.mu.Lock()
	for c := range d.connections {
		c.Close()
	}
	d.mu.Unlock()
	d.release()
}

// question waits until the server has asked etcd for something since hold, and
// for a little while more, in which a second thought may follow.
func (d *door) question(ctx context.Context) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for quiet, before := 0, 0; quiet < 5; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		d.mu.Lock()
		if d.asked > 0 && d.asked == before {
			quiet++
		}
		before = d.asked
		d.mu.Unlock()
	}
	return nil
}

func (d *door) close() {
	d.listener.Close()
	d.mu.Lock()
	d.closed = true
	for c := range d.connections {
		c.Close()
	}
	d.opened.Broadcast()
	d.mu.Unlock()
	d.joined.Wait()
}
