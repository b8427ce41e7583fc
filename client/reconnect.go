package client

import (
	"context"
	"net"
	"sync"
)

// connections are those of one client that are open, so that they can be cut:
// who has a new certificate must show it, and a connection keeps the one that
// it was opened with.
type connections struct {
	dialer net.Dialer

	mu   sync.Mutex // guards open
	open map[*connection]struct{}
}

type connection struct {
	net.Conn
	owner *connections
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	out := &connection{conn, c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[out] = struct{}{}
	return out, nil
}

// Close forgets the connection.
func (c *connection) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// Reconnect cuts every open connection. Requests on them fail, watches go on
// from where they were, over new ones.
func (c *Client) Reconnect() {
	if c.conns == nil {
		return
	}
	c.conns.mu.Lock()
	var open []*connection
	for conn := range c.conns.open {
		open = append(open, conn)
	}
	c.conns.mu.Unlock()
	for _, conn := range open {
		conn.Close()
	}
}
