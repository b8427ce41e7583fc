package flags

import (
	"context"
	"os/signal"
	"syscall"
)

// SignalContext is the context of a program's Run: SIGINT or SIGTERM cancels
// it, and a second one kills the process in the ordinary way, for the day a
// clean end hangs.
func SignalContext() context.Context {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx
}
