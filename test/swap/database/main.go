// Command database stands in for the databases of the reference's manifests,
// whose images nobody has here. All it does with its data is to know them again:
// it marks its folder with its host's name, and refuses to run on another's.
//
// It has the names of the programs that the manifests run beside the database
// itself: probes, hooks and what goes before it. These look at the mark and end.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	folders := []string{"/data", "/var/lib/cassandra", "/cockroach/cockroach-data"}
	at := slices.IndexFunc(folders, func(folder string) bool { _, err := os.Stat(folder); return err == nil })
	if at < 0 {
		return fmt.Errorf("none of %v is there", folders)
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	mark := filepath.Join(folders[at], "owner")
	owner, err := os.ReadFile(mark)
	if os.IsNotExist(err) {
		owner, err = []byte(host), os.WriteFile(mark, []byte(host), 0o644)
	}
	if err != nil || string(owner) != host {
		return fmt.Errorf("%s holds the data of %q, not of %s: %v", folders[at], owner, host, err)
	}
	first := len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "-on-start=")
	if name := filepath.Base(os.Args[0]); first || name != "database" && name != "cockroach" {
		return nil
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
	return nil
}
