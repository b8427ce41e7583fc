// Command pause is the first process of every pod: it holds the pod's namespaces open while containers come and go,
// and does nothing else.
//
// As process 1 of a shared PID namespace it also inherits every orphan of the pod, and a dead child stays in the
// process table until its parent asks for its status. So there is one duty: ask.
//
// Upstream: kubernetes@v1.36.2 build/pause/linux/pause.c.
package main

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for received := range signals {
		if received != syscall.SIGCHLD {
			os.Exit(0)
		}
		reap()
	}
}

// reap collects every child that has ended: signals of one kind that arrive together are delivered as one.
func reap() {
	for {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
	}
}
