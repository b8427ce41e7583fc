package flags

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tinykube/api/version"
)

// TwoDashes turns -flag into --flag, for programs whose upstream parses flags
// as Go does; -v and -h stay.
func TwoDashes(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if name, _, _ := strings.Cut(arg, "="); len(name) > 2 && arg[0] == '-' && arg[1] != '-' {
			arg = "-" + arg
		}
		out[i] = arg
	}
	return out
}

// GoStyle makes cmd parse flags as upstream's small programs do, where -flag is
// a long one too, and serve --help and --version. declare adds the flags, after
// which run is called with no more arguments left.
func GoStyle(cmd *cobra.Command, declare func(*pflag.FlagSet), run func(ctx context.Context, logging *Logging) error) *cobra.Command {
	cmd.Args, cmd.DisableFlagParsing, cmd.SilenceUsage = cobra.ArbitraryArgs, true, true
	fs := cmd.Flags()
	fs.Bool("help", false, "show this help")
	fs.Bool("version", false, "show the version")
	declare(fs)
	logging := AddLogging(fs)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := fs.Parse(TwoDashes(args)); err != nil {
			return err
		}
		if help, _ := fs.GetBool("help"); help {
			return cmd.Help()
		}
		if show, _ := fs.GetBool("version"); show {
			fmt.Fprintln(cmd.OutOrStdout(), cmd.Name(), version.Git)
			return nil
		}
		if fs.NArg() > 0 {
			return fmt.Errorf("unexpected argument %q", fs.Arg(0))
		}
		return run(SignalContext(), logging)
	}
	return cmd
}
