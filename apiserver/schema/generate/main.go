// Command generate writes markers.txt: the markers in the comments of the API
// types that reflection cannot see. Run it with go generate after changing the
// version of k8s.io/api.
package main

import (
	"flag"
	"fmt"
	"os"

	"tinykube/apiserver/schema/markers"
)

func main() {
	out := flag.String("o", "markers.txt", "file to write")
	flag.Parse()
	table, err := markers.Collect()
	if err == nil {
		err = os.WriteFile(*out, table, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}
