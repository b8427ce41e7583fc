package kubelet

import (
	"context"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc"
)

// runtimeCalls is the way to the runtime. Each call is counted under upstream's
// name, and bounded, so that a runtime which hangs is an error and not a wait.
type runtimeCalls struct {
	grpc.ClientConnInterface
	timeout time.Duration
	metrics *metrics
}

// Invoke makes one call. Pulling and stopping take the time that they take, and
// their callers bound them; a sandbox may also wait for its network.
func (c runtimeCalls) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	operation, timeout := operationOf(method), c.timeout
	switch operation {
	case "pull_image", "stop_container", "exec_sync":
		timeout = 0
	case "run_podsandbox":
		timeout *= 2
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if operation == "run_podsandbox" {
		c.metrics.startedPods.Inc()
	}
	began := time.Now()
	err := c.ClientConnInterface.Invoke(ctx, method, args, reply, options...)
	c.metrics.operations.WithLabelValues(operation).Inc()
	since(c.metrics.operationTime.WithLabelValues(operation), began)
	if err != nil {
		c.metrics.operationErrors.WithLabelValues(operation).Inc()
	}
	if err != nil && operation == "run_podsandbox" {
		c.metrics.failedPods.Inc()
	}
	return err
}

// operationOf is run_podsandbox for /runtime.v1.RuntimeService/RunPodSandbox.
func operationOf(method string) string {
	name := method[strings.LastIndexByte(method, '/')+1:]
	var out strings.Builder
	for i, r := range strings.ReplaceAll(name, "PodSandbox", "Podsandbox") {
		if i > 0 && unicode.IsUpper(r) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToLower(r))
	}
	return out.String()
}
