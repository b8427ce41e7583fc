package apiserver_test

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/url"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"tinykube/internal/testenv"
)

// A client that opens streams and cancels them at once, as fast as it can, gets
// tired of it before the server does (CVE-2023-44487): others are answered
// meanwhile, and no watch of all those goes on.
func TestRapidReset(t *testing.T) {
	t.Parallel()
	env := testenv.New(t)
	a := newAPI(t, env.Config)
	watches := func() float64 {
		return a.figure(`apiserver_longrunning_requests{component="apiserver",group="",resource="configmaps",scope="cluster",subresource="",verb="WATCH",version="v1"}`)
	}
	a.openWatch("/api/v1/configmaps?watch=1")
	eventually(t, "our watch is counted", func() bool { return watches() == 1 })
	pair, err := tls.X509KeyPair(env.Config.CertData, env.Config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	host, err := url.Parse(env.Config.Host)
	if err != nil {
		t.Fatal(err)
	}
	connection, err := tls.Dial("tcp", host.Host, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	if _, err := connection.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(connection, connection)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	go func() { // what the server says is read, so that it never waits for us
		for {
			if _, err := framer.ReadFrame(); err != nil {
				return
			}
		}
	}()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	sent := uint32(0)
	for ; sent < 20000; sent++ {
		block.Reset()
		for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "x"}, {":path", "/api/v1/configmaps?watch=1"}} {
			if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
				t.Fatal(err)
			}
		}
		id := 2*sent + 1
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		if err == nil {
			err = framer.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			break // the server has had enough of this connection
		}
		if sent%1000 == 0 {
			a.ok(http.MethodGet, "/api/v1/namespaces/kube-system", "", "")
		}
	}
	t.Logf("%d requests were cancelled", sent)
	a.ok(http.MethodGet, "/api/v1/namespaces/kube-system", "", "")
	eventually(t, "only our watch is left", func() bool { return watches() == 1 })
}
