package main

import (
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// newLabAnswer is somebody to talk to in labs that have no cluster: it says who
// it is and whom it sees. That is all that one needs to know of a packet's way.
func newLabAnswer() *cobra.Command {
	return &cobra.Command{
		Use: "answer NAME [ADDRESS]:PORT", Short: "Answer HTTP with a name and the client's address", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			server := &http.Server{Addr: args[1], ReadHeaderTimeout: 10 * time.Second,
				Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					client, _, _ := net.SplitHostPort(r.RemoteAddr) // net/http wrote it
					fmt.Fprintf(w, "%s sees %s\n", args[0], client)
				})}
			return server.ListenAndServe()
		},
	}
}
