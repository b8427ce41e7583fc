package cri

import (
	"context"
	"encoding/json"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventHub hands lifecycle events to the kubelets that listen: what saves an
// evented kubelet from asking every second.
type eventHub struct {
	mu        sync.Mutex // guards listeners
	listeners map[chan *runtimeapi.ContainerEventResponse]struct{}
}

// eventQueue is what a listener may lag behind; then it is cut off, and
// learns the rest from a list.
const eventQueue = 1024

func newEventHub() *eventHub {
	return &eventHub{listeners: map[chan *runtimeapi.ContainerEventResponse]struct{}{}}
}

func (h *eventHub) subscribe() chan *runtimeapi.ContainerEventResponse {
	h.mu.Lock()
	defer h.mu.Unlock()
	events := make(chan *runtimeapi.ContainerEventResponse, eventQueue)
	h.listeners[events] = struct{}{}
	return events
}

func (h *eventHub) unsubscribe(events chan *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.listeners, events)
}

// send cuts off a listener whose queue is full.
func (h *eventHub) send(event *runtimeapi.ContainerEventResponse) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for events := range h.listeners {
		select {
		case events <- event:
		default:
			delete(h.listeners, events)
			close(events)
		}
	}
}

// GetContainerEvents streams until the caller hangs up or lags behind.
func (s *Server) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	events := s.events.subscribe()
	defer s.events.unsubscribe(events)
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case event, ok := <-events:
			if !ok {
				return status.Error(codes.ResourceExhausted, "the event stream was closed: list and subscribe again")
			}
			if err := stream.Send(event); err != nil {
				return err
			}
		}
	}
}

// publish says that a container (or the sandbox itself) changed, together
// with the state of the whole pod.
func (s *Server) publish(sandboxID, id string, kind runtimeapi.ContainerEventType) {
	event := &runtimeapi.ContainerEventResponse{
		ContainerId: id, ContainerEventType: kind, CreatedAt: now(), ContainersStatuses: s.containerStatuses(sandboxID),
	}
	if sb, err := s.sandboxes.get(sandboxID); err == nil {
		event.PodSandboxStatus = sb.toStatus()
	}
	s.events.send(event)
}

// verboseInfo is what `crictl inspect` prints below the status: what we know,
// and what containerd has of it, the OCI spec above all.
func (s *Server) verboseInfo(ctx context.Context, id string, info map[string]any) map[string]string {
	if record, err := s.daemon.ContainerService().Get(ctx, id); err == nil {
		info["runtimeType"], info["snapshotter"], info["snapshotKey"] = record.Runtime.Name, record.Snapshotter, record.SnapshotKey
		info["image"], info["runtimeSpec"] = record.Image, json.RawMessage(record.Spec.GetValue())
	}
	return infoJSON(info)
}

func infoJSON(info map[string]any) map[string]string {
	text, err := json.Marshal(info)
	if err != nil {
		text = []byte(`{"error":"not representable as JSON"}`)
	}
	return map[string]string{"info": string(text)}
}
