package labs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// keep leaves a lab as it is, and two scripts beside it: one to go on there,
// and one that does what the lab would have done at its end.
func (r *run) keep() error {
	var enter strings.Builder
	enter.WriteString("#!/bin/sh\n")
	for _, variable := range r.environment() {
		name, value, _ := strings.Cut(variable, "=")
		// What the reader's own shell has anyway need not be repeated.
		if os.Getenv(name) != value && variable != r.mark {
			fmt.Fprintf(&enter, "export %s=%s\n", name, quoted(value))
		}
	}
	shell := slices.Clone(r.site.shell)
	for i, word := range shell {
		shell[i] = quoted(word)
	}
	fmt.Fprintf(&enter, "cd %s && exec %s \"$@\"\n", quoted(r.scratch), strings.Join(shell, " "))
	away := "#!/bin/sh\n"
	if r.site.away != nil {
		away += strings.Join(r.site.away(), "\n") + "\n"
	}
	away += "rm -rf " + quoted(r.scratch) + "\n"
	for name, script := range map[string]string{"enter": enter.String(), "leave": away} {
		if err := os.WriteFile(filepath.Join(r.scratch, name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	fmt.Fprintf(r.Out, "  kept; %s/enter is a shell in it, %s/leave takes it away\n", r.scratch, r.scratch)
	return nil
}

// quoted is a word for sh.
func quoted(word string) string { return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'" }
