package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"tinykube/apiserver"
	"tinykube/client"
	"tinykube/internal/testenv"
)

// elsewhere lets servers of the test answer at addresses of a cluster that is
// not there. Nothing leaves the process.
type elsewhere map[string]string

func (e elsewhere) dial(ctx context.Context, _, address string) (net.Conn, error) {
	to, ok := e[address]
	if !ok {
		return nil, fmt.Errorf("nobody is at %s", address)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", to)
}

// at starts a server for an address.
func (e elsewhere) at(t *testing.T, address string, secure bool, handler http.Handler) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	e[address] = server.Listener.Addr().String()
}

// fakeKubelet is a server that a Node of the test names as its kubelet, and a
// pod there.
func fakeKubelet(t *testing.T, handler http.Handler, options ...testenv.Option) (*testenv.Env, api, elsewhere) {
	t.Helper()
	places := elsewhere{}
	places.at(t, "10.9.0.1:10250", true, handler)
	env := testenv.New(t, append(options, func(cfg *apiserver.Config) { cfg.Kubelet.Dial = places.dial })...)
	a := newAPI(t, env.Config)
	a.ok("POST", "/api/v1/nodes", asJSON, `{"metadata":{"name":"n1"}}`)
	a.ok("PATCH", "/api/v1/nodes/n1/status", asMerge, `{"status":{"addresses":[{"type":"InternalIP","address":"10.9.0.1"}],"daemonEndpoints":{"kubeletEndpoint":{"Port":10250}}}}`)
	a.ok("POST", "/api/v1/namespaces/default/serviceaccounts", asJSON, `{"metadata":{"name":"default"}}`)
	a.ok("POST", "/api/v1/namespaces/default/pods", asJSON, `{"metadata":{"name":"p","labels":{"app":"p"}},"spec":{"nodeName":"n1","containers":[{"name":"c","image":"i"},{"name":"d","image":"i"}]}}`)
	return env, a, places
}

func TestKubeletProxy(t *testing.T) {
	t.Parallel()
	env, a, _ := fakeKubelet(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("a user's token reached the kubelet")
		}
		switch {
		case strings.HasPrefix(r.URL.Path, "/containerLogs/"):
			fmt.Fprintf(w, "%s?%s", r.URL.Path, r.URL.RawQuery)
		case r.URL.Path == "/exec/default/p/c":
			if r.Header.Get("Upgrade") != "echo" {
				http.Error(w, "no upgrade", http.StatusBadRequest)
				return
			}
			connection, buffer, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer connection.Close()
			fmt.Fprintf(buffer, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			fmt.Fprintf(buffer, "%s\n", r.URL.RawQuery)
			buffer.Flush()
			line, _ := buffer.ReadString('\n')
			fmt.Fprintf(buffer, "echo %s", line)
			buffer.Flush()
		default:
			http.Error(w, "what?", http.StatusTeapot)
		}
	}))
	const pod = "/api/v1/namespaces/default/pods/p"
	t.Run("log", func(t *testing.T) {
		if _, text, _ := a.send("GET", pod+"/log?container=d&tailLines=5&follow=true", "", ""); text != "/containerLogs/default/p/d?follow=true&tailLines=5" {
			t.Error(text)
		}
		if code, text, _ := a.send("GET", pod+"/log", "", ""); code != 400 || text != "a container name must be specified for pod p, choose one of: [c d]" {
			t.Errorf("%d %s", code, text)
		}
	})
	t.Run("exec", func(t *testing.T) {
		connection, reader := upgrade(t, env.Config, pod+"/exec?container=c&command=sh&command=-c&stdin=true&stdout=true&tty=false")
		if line, _ := reader.ReadString('\n'); line != "command=sh&command=-c&input=1&output=1\n" {
			t.Error(line)
		}
		fmt.Fprintln(connection, "hello")
		if line, _ := reader.ReadString('\n'); line != "echo hello\n" {
			t.Error(line)
		}
	})
	t.Run("refused upgrade", func(t *testing.T) {
		_, reader := upgrade(t, env.Config, pod+"/attach?container=c")
		// What came was an answer, and the connection is no pipe to the kubelet.
		rest, _ := io.ReadAll(reader)
		if strings.Contains(string(rest), "echo") {
			t.Errorf("%s", rest)
		}
	})
	t.Run("log options", func(t *testing.T) {
		for query, want := range map[string]string{
			"tailLines=-1":   `tailLines: Invalid value: "-1": must be greater than or equal to 0`,
			"limitBytes=0":   `limitBytes: Invalid value: "0": must be greater than 0`,
			"sinceSeconds=0": `sinceSeconds: Invalid value: "0": must be greater than 0`,
		} {
			if code, text, _ := a.send("GET", pod+"/log?container=c&"+query, "", ""); code != 422 || !strings.Contains(text, want) {
				t.Errorf("%s: %d %s", query, code, text)
			}
		}
	})
	t.Run("no upgrade", func(t *testing.T) {
		if code, text, _ := a.send("POST", pod+"/exec?container=c", "", ""); code != 400 || text != "Upgrade request required" {
			t.Errorf("%d %s", code, text)
		}
	})
	t.Run("exec needs create", func(t *testing.T) {
		for verb, want := range map[string]int{"get": 403, "create": 400} { // 400: the fake kubelet wants an upgrade
			name := "exec-" + verb
			a.ok("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", asJSON, `{"metadata":{"name":"`+name+`"},"rules":[{"apiGroups":[""],"resources":["pods/exec"],"verbs":["get","`+verb+`"]}]}`)
			a.ok("POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", asJSON, `{"metadata":{"name":"`+name+`"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"`+name+`"},"subjects":[{"kind":"ServiceAccount","name":"`+name+`","namespace":"default"}]}`)
			a.ok("POST", "/api/v1/namespaces/default/serviceaccounts", asJSON, `{"metadata":{"name":"`+name+`"}}`)
			token := a.ok("POST", "/api/v1/namespaces/default/serviceaccounts/"+name+"/token", asJSON, `{"spec":{}}`)["status"].(map[string]any)["token"].(string)
			who := as(t, env.Config, token)
			var code int
			eventually(t, name, func() bool {
				code, _, _ = who.send("GET", pod+"/exec?container=c&command=x", "", "")
				return code == want
			})
		}
	})
	t.Run("node proxy", func(t *testing.T) {
		if code, _, _ := a.send("GET", "/api/v1/nodes/n1/proxy/stats", "", ""); code != http.StatusTeapot {
			t.Errorf("%d", code)
		}
	})
}

// upgrade asks for a protocol that only the fake kubelet speaks.
func upgrade(t *testing.T, config *client.Config, path string) (net.Conn, *bufio.Reader) {
	t.Helper()
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	if err != nil {
		t.Fatal(err)
	}
	host, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	connection, err := tls.Dial("tcp", host.Host, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", path)
	reader := bufio.NewReader(connection)
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(path, "/exec") && response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s", response.Status)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		io.Copy(io.Discard, response.Body)
		connection.CloseWrite()
	}
	return connection, reader
}
