package linger

import (
	"bufio"
	"io"
	"net"
	"testing"
)

// TestLastWord: a server says one line and hangs up while the client is still
// sending. Without lingering, most of the lines are lost.
func TestLastWord(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(plain)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			bufio.NewReaderSize(c, 16).ReadByte() // it is connected, and more comes
			io.WriteString(c, "exit code 9\n")
			c.Close()
		}
	}()
	for i := range 50 {
		c, err := net.Dial("tcp", plain.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
		line, err := io.ReadAll(c)
		if c.Close(); err != nil || string(line) != "exit code 9\n" {
			t.Fatalf("connection %d: %q, %v", i, line, err)
		}
	}
}
