package hostpath

import (
	"context"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// stripped stands in logs where a secret was.
const stripped = "***stripped***"

// tokensKey is where the kubelet hands a pod's service account tokens to drivers that ask for them: a secret in a field
// that is none.
const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

// mountFlagsField may hold passwords, and its definition says so in words only.
const mountFlagsField = "csi.v1.VolumeCapability.MountVolume.mount_flags"

// intercept tells each call and what came of it. Every error of a handler passes here on its way to a gRPC status.
func (d *Driver) intercept(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	reply, err := handler(ctx, request)
	err = statusOf(err)
	message, ok := request.(proto.Message)
	if !ok {
		return reply, err
	}
	switch {
	case err != nil:
		d.log.Warn("Refused", "method", info.FullMethod, "request", logged(message), "err", err, "duration", time.Since(start))
	case info.FullMethod == csi.Identity_Probe_FullMethodName:
		d.log.Debug("Answered", "method", info.FullMethod) // every few seconds
	default:
		d.log.Info("Answered", "method", info.FullMethod, "request", logged(message), "duration", time.Since(start))
	}
	return reply, err
}

// logged is a message as JSON without its secrets.
//
// Spec: CSI 1.13 csi.proto, option csi_secret: such a field "MAY contain information that is sensitive".
func logged(message proto.Message) string {
	message = proto.Clone(message)
	strip(message.ProtoReflect())
	return protojson.MarshalOptions{}.Format(message)
}

// strip replaces what a message, or one in it, marks as secret. Names of secrets stay, so that a reader sees that they
// were sent.
func strip(message protoreflect.Message) {
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		secret := isSecret(field)
		switch {
		case field.IsMap() && field.MapValue().Kind() == protoreflect.StringKind:
			value.Map().Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
				if secret || key.String() == tokensKey {
					value.Map().Set(key, protoreflect.ValueOfString(stripped))
				}
				return true
			})
		case secret && field.Kind() == protoreflect.StringKind && !field.IsList():
			message.Set(field, protoreflect.ValueOfString(stripped))
		case secret: // a kind that no secret has yet
			message.Clear(field)
		case field.FullName() == mountFlagsField:
			for i := range value.List().Len() {
				if name, _, has := strings.Cut(value.List().Get(i).String(), "="); has {
					value.List().Set(i, protoreflect.ValueOfString(name+"="+stripped))
				}
			}
		case field.IsList() && field.Kind() == protoreflect.MessageKind:
			for i := range value.List().Len() {
				strip(value.List().Get(i).Message())
			}
		case !field.IsMap() && field.Kind() == protoreflect.MessageKind:
			strip(value.Message())
		}
		return true
	})
}

func isSecret(field protoreflect.FieldDescriptor) bool {
	options, ok := field.Options().(*descriptorpb.FieldOptions)
	if !ok {
		return false
	}
	secret, ok := proto.GetExtension(options, csi.E_CsiSecret).(bool)
	return ok && secret
}
