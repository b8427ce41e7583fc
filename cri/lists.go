package cri

import (
	"slices"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each list exists a second time as a stream, for a node that has more than one
// message of 16 MiB holds. The kubelet asks for it with the feature gate
// CRIListStreaming.

// streamBatch is how many items go into one message.
const streamBatch = 100

// inBatches sends a list, or says why there is none.
func inBatches[T any](list []T, err error, send func([]T) error) error {
	for batch := range slices.Chunk(list, streamBatch) {
		if err == nil {
			err = send(batch)
		}
	}
	return errgrpc.ToGRPC(err)
}

func (s *Server) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	list, err := s.ListPodSandbox(to.Context(), &runtimeapi.ListPodSandboxRequest{Filter: r.GetFilter()})
	return inBatches(list.GetItems(), err, func(some []*runtimeapi.PodSandbox) error {
		return to.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: some})
	})
}

func (s *Server) StreamContainers(r *runtimeapi.StreamContainersRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	list, err := s.ListContainers(to.Context(), &runtimeapi.ListContainersRequest{Filter: r.GetFilter()})
	return inBatches(list.GetContainers(), err, func(some []*runtimeapi.Container) error {
		return to.Send(&runtimeapi.StreamContainersResponse{Containers: some})
	})
}

func (s *Server) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	list, err := s.ListContainerStats(to.Context(), &runtimeapi.ListContainerStatsRequest{Filter: r.GetFilter()})
	return inBatches(list.GetStats(), err, func(some []*runtimeapi.ContainerStats) error {
		return to.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: some})
	})
}

func (s *Server) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	list, err := s.ListPodSandboxStats(to.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: r.GetFilter()})
	return inBatches(list.GetStats(), err, func(some []*runtimeapi.PodSandboxStats) error {
		return to.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: some})
	})
}

func (s *Server) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, to grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	list, err := s.ListPodSandboxMetrics(to.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	return inBatches(list.GetPodMetrics(), err, func(some []*runtimeapi.PodSandboxMetrics) error {
		return to.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: some})
	})
}

func (s *imageService) StreamImages(r *runtimeapi.StreamImagesRequest, to grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := s.ListImages(to.Context(), &runtimeapi.ListImagesRequest{Filter: r.GetFilter()})
	return inBatches(list.GetImages(), err, func(some []*runtimeapi.Image) error {
		return to.Send(&runtimeapi.StreamImagesResponse{Images: some})
	})
}
