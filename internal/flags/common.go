package flags

import (
	"fmt"

	"github.com/spf13/cobra"
)

// Metrics are upstream's flags about which figures to show. We show all of
// ours, so they change nothing.
var Metrics = []string{"allow-metric-labels", "allow-metric-labels-manifest", "disabled-metrics", "show-hidden-metrics-for-version"}

// NoArgs refuses words that are no flags, as upstream's programs do.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q does not take any arguments, got %q", cmd.Name(), args)
	}
	return nil
}

// CheckPort says whether a port for health and metrics can be one; 0 is none.
func CheckPort(port int) error {
	if port < 0 || port > 65535 {
		return fmt.Errorf("--secure-port %d must be between 0 and 65535, inclusive; 0 serves nothing", port)
	}
	return nil
}
