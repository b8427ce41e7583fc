package storage

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// readError says what a failed read means to a client: nothing happened, and
// it may try again.
func readError(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return expired("The resourceVersion for the provided list is too old.")
	case lost(err):
		return apierrors.NewTimeoutError("storage did not answer in time: "+err.Error(), 1)
	}
	return apierrors.NewInternalError(err)
}

// writeError says what a failed write means. When the connection broke or time
// ran out, etcd may still commit it: that is said, never guessed.
func writeError(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	case lost(err):
		return apierrors.NewTimeoutError("storage did not answer in time, and whether the write happened is unknown: "+err.Error(), 1)
	}
	return apierrors.NewInternalError(err)
}

// lost reports whether the answer is missing rather than negative. A broken
// stream (Internal) and what nobody can name (Unknown) are no answer either.
func lost(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	var etcd rpctypes.EtcdError
	code := status.Code(err)
	if errors.As(err, &etcd) {
		code = etcd.Code()
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal, codes.Unknown:
		return true
	}
	return false
}

func expired(message string) error { return apierrors.NewResourceExpired(message) }

// tooLargeVersion is the answer to a resourceVersion from the future.
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/storage/errors.go NewTooLargeResourceVersionError
func tooLargeVersion(minimum, current int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", minimum, current), 1)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: metav1.CauseTypeResourceVersionTooLarge, Message: "Too large resource version",
	})
	return err
}
