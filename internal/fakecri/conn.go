package fakecri

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Conn is a gRPC connection without a connection: a call is a function call,
// with messages copied so that neither side sees the other's memory. It needs
// no socket, no goroutine and no buffer, which keeps virtual-time tests exact.
type Conn struct{ runtime *Runtime }

// Conn returns a connection to the runtime, for generated CRI clients.
func (r *Runtime) Conn() *Conn { return &Conn{r} }

// Invoke calls the method that the generated description names.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	name := method[strings.LastIndexByte(method, '/')+1:]
	for _, service := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		if !strings.HasPrefix(method, "/"+service.ServiceName+"/") {
			continue
		}
		for _, m := range service.Methods {
			if m.MethodName != name {
				continue
			}
			answer, err := m.Handler(c.runtime, ctx, func(into any) error {
				proto.Merge(into.(proto.Message), args.(proto.Message))
				return nil
			}, nil)
			if err != nil {
				return status.Convert(err).Err()
			}
			if c.runtime.Lost != nil {
				if err := c.runtime.Lost(name); err != nil {
					return status.Convert(err).Err()
				}
			}
			proto.Merge(reply.(proto.Message), answer.(proto.Message))
			return nil
		}
	}
	return status.Error(codes.Unimplemented, fmt.Sprintf("no method %s", method))
}

// NewStream refuses: the fake streams nothing, as a runtime may.
func (c *Conn) NewStream(_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no stream "+method)
}

// Register adds the fake to a real gRPC server, for clients in other processes.
func (r *Runtime) Register(server *grpc.Server) {
	runtimeapi.RegisterRuntimeServiceServer(server, r)
	runtimeapi.RegisterImageServiceServer(server, r)
}
