package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"tinykube/internal/flags"
)

// maxMessageBytes is how long an answer may be, as it is for the kubelet.
const maxMessageBytes = 16 << 20

// newCall makes the command by which a person says one sentence of CRI. It
// knows no method: the protocol's own description says what each is asked and
// what it answers, so this is the kubelet's side of the socket in JSON, for any
// runtime that there is.
func newCall() *cobra.Command {
	endpoint := os.Getenv("CONTAINER_RUNTIME_ENDPOINT") // crictl's
	if endpoint == "" {
		endpoint = defaultListen
	}
	cmd := &cobra.Command{
		Use:   "call [METHOD [REQUEST]]",
		Short: "Say one thing to a runtime, in JSON, and print its answer",
		Long: `METHOD is one of CRI's: RunPodSandbox, say. Without one they are listed, each with what it asks for.
REQUEST is JSON, {} if it is missing, or - to read it from standard input.`,
		Args: cobra.MaximumNArgs(2), SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listMethods(cmd.OutOrStdout())
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
			return call(flags.SignalContext(), endpoint, args[0], request, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&endpoint, "runtime-endpoint", "r", endpoint, "the runtime's socket (or $CONTAINER_RUNTIME_ENDPOINT)")
	return cmd
}

// services are the two halves of CRI.
func services() (out []protoreflect.ServiceDescriptor) {
	for _, s := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s.ServiceName))
		if err == nil {
			out = append(out, found.(protoreflect.ServiceDescriptor))
		}
	}
	return out
}

func listMethods(out io.Writer) error {
	for _, service := range services() {
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
func call(ctx context.Context, endpoint, name string, request []byte, out io.Writer) error {
	for _, service := range services() {
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
		conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
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
	return fmt.Errorf("CRI has no method %q; `cri call` lists them", name)
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
