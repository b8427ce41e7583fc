// Package grpccall makes commands by which a person says one sentence of a
// protocol. They know no method: the protocol's own description says what each
// is asked and what it answers, so this is the client's side of a socket in
// JSON, for any server that there is.
//
// Start reading at New.
package grpccall

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"tinykube/internal/flags"
)

// maxMessageBytes is how long an answer may be, as it is for the kubelet.
const maxMessageBytes = 16 << 20

// Protocol is a set of gRPC services.
type Protocol struct {
	Name, Server string // "CRI", "runtime"
	Example      string // a method
	Services     []string
	Endpoint     string // unless --<server>-endpoint says otherwise
	Variable     string // of the environment, which Endpoint was taken from
}

// New makes the command "call" for a protocol.
func New(p Protocol) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "call [METHOD [REQUEST]]",
		Short: fmt.Sprintf("Say one thing to a %s, in JSON, and print its answer", p.Server),
		Long: fmt.Sprintf(`METHOD is one of %s's: %s, say. Without one they are listed, each with what it asks for.
REQUEST is JSON, {} if it is missing, or - to read it from standard input.`, p.Name, p.Example),
		Args: cobra.MaximumNArgs(2), SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return p.listMethods(cmd.OutOrStdout())
			}
			request := []byte("{}")
			if len(args) == 2 {
				request = []byte(args[1])
			}
			if string(request) == "-" {
				var err error
				if request, err = io.ReadAll(cmd.InOrStdin()); err != nil {
					return err
				}
			}
			return p.call(flags.SignalContext(), args[0], request, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&p.Endpoint, p.Server+"-endpoint", p.Server[:1], p.Endpoint, fmt.Sprintf("the %s's socket (or $%s)", p.Server, p.Variable))
	return cmd
}

// services are the descriptions of the protocol's services.
func (p Protocol) services() (out []protoreflect.ServiceDescriptor) {
	for _, name := range p.Services {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err == nil {
			out = append(out, found.(protoreflect.ServiceDescriptor))
		}
	}
	return out
}

func (p Protocol) listMethods(out io.Writer) error {
	for _, service := range p.services() {
		fmt.Fprintln(out, service.Name())
		var lines []string
		for i := range service.Methods().Len() {
			method, asks := service.Methods().Get(i), []string{}
			for j := range method.Input().Fields().Len() {
				asks = append(asks, method.Input().Fields().Get(j).JSONName())
			}
			lines = append(lines, fmt.Sprintf("  %-26s %s", method.Name(), strings.Join(asks, " ")))
		}
		slices.Sort(lines)
		fmt.Fprintln(out, strings.Join(lines, "\n"))
	}
	return nil
}

// call says request to method, and prints every answer; a stream has many.
func (p Protocol) call(ctx context.Context, name string, request []byte, out io.Writer) error {
	for _, service := range p.services() {
		method := service.Methods().ByName(protoreflect.Name(name))
		if method == nil {
			continue
		}
		in, err := message(method.Input())
		if err != nil {
			return err
		}
		if err := protojson.Unmarshal(request, in); err != nil {
			return fmt.Errorf("%s: %w", method.Input().Name(), err)
		}
		conn, err := grpc.NewClient(target(p.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)))
		if err != nil {
			return err
		}
		defer conn.Close()
		path := fmt.Sprintf("/%s/%s", service.FullName(), name)
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
		if err != nil {
			return err
		}
		if err := errors.Join(stream.SendMsg(in), stream.CloseSend()); err != nil {
			return err
		}
		return receive(stream, method.Output(), out)
	}
	return fmt.Errorf("%s has no method %q; call without one lists them", p.Name, name)
}

func receive(stream grpc.ClientStream, kind protoreflect.MessageDescriptor, out io.Writer) error {
	for {
		answer, err := message(kind)
		if err != nil {
			return err
		}
		if err := stream.RecvMsg(answer); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		// protojson puts in blanks at random, so that nobody relies on them; a
		// reader should be able to compare.
		var text bytes.Buffer
		if raw, err := protojson.Marshal(answer); err != nil {
			return err
		} else if err := json.Indent(&text, raw, "", "  "); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, text.String()); err != nil {
			return err
		}
	}
}

func message(kind protoreflect.MessageDescriptor) (proto.Message, error) {
	found, err := protoregistry.GlobalTypes.FindMessageByName(kind.FullName())
	if err != nil {
		return nil, err
	}
	return found.New().Interface(), nil
}

// target is an endpoint as gRPC calls it; a bare path is a socket.
func target(endpoint string) string {
	if strings.HasPrefix(endpoint, "/") {
		return "unix://" + endpoint
	}
	return strings.TrimPrefix(endpoint, "tcp://")
}
