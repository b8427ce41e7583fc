package grpccall

import (
	"bytes"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/fakecri"
)

func TestCall(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server, runtime := grpc.NewServer(), fakecri.New()
	runtimeapi.RegisterRuntimeServiceServer(server, runtime)
	runtimeapi.RegisterImageServiceServer(server, runtime)
	go server.Serve(listener) // until Stop
	defer server.Stop()
	protocol := Protocol{Name: "CRI", Endpoint: "unix://" + socket, Services: []string{runtimeapi.RuntimeService_ServiceDesc.ServiceName, runtimeapi.ImageService_ServiceDesc.ServiceName}}
	for _, c := range []struct {
		method, request, want, err string
	}{
		{method: "Version", request: "{}", want: "\n  \"runtimeName\": \"fake\",\n"},
		{method: "RunPodSandbox", request: `{"config":{"metadata":{"name":"a","uid":"1"}}}`, want: "podSandboxId\": \"000"},
		{method: "ListPodSandbox", request: "{}", want: `"name": "a"`},
		{method: "PullImage", request: `{"image":{"image":"x:1"}}`, want: `"imageRef": "x:1"`},
		{method: "PodSandboxStatus", request: `{"podSandboxId":"no"}`, err: "code = NotFound"},
		{method: "GetContainerEvents", request: "{}", err: "code = Unimplemented"},
		{method: "RunPodSandbox", request: `{"confg":{}}`, err: "unknown field"},
		{method: "RunPod", request: "{}", err: "no method"},
	} {
		var out bytes.Buffer
		err := protocol.call(t.Context(), c.method, []byte(c.request), &out)
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s %s: %v\n%s", c.method, c.request, err, out.String())
		}
	}
	var out bytes.Buffer
	if err := protocol.listMethods(&out); err != nil || !strings.Contains(out.String(), "\n  RunPodSandbox              config runtimeHandler\n") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
