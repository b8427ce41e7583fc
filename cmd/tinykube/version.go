package main

import (
	"fmt"
	"io"
	"runtime"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"tinykube/api/version"
	"tinykube/internal/payload"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "What this program is, and what it carries",
		Args:  cobra.NoArgs,
		RunE:  func(command *cobra.Command, _ []string) error { return printVersion(command.OutOrStdout()) },
	}
}

// printVersion names what was pinned when the program was built; what is ours has our version.
func printVersion(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "tinykube\t%s\t%s %s/%s\n", version.Git, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	files, err := payload.Files()
	if err != nil {
		return err
	}
	for _, file := range files {
		if file.Version != "" {
			fmt.Fprintf(table, "%s\t%s\t%s\n", file.Name, file.Version, file.Module)
		}
	}
	return table.Flush()
}
