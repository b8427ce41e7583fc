package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"tinykube"
	"tinykube/internal/flags"
	"tinykube/labs"
	"tinykube/labs/exercise"
	"tinykube/labs/grade"
)

func newLab() *cobra.Command {
	command := &cobra.Command{
		Use: "lab", Short: "Run a lab, write a part of it yourself, have it graded",
		// `tinykube lab run 00 | head` must not end us before we have cleaned up.
		// (Ignoring the signal would make a lab's own commands ignore it, too.)
		PersistentPreRun: func(*cobra.Command, []string) { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) },
	}
	command.AddCommand(newLabList(), newLabRun(), newLabStart(), newLabGrade(), newLabAnswer())
	return command
}

// allLabs are those that this binary carries.
func allLabs() ([]*labs.Lab, error) {
	tree, err := fs.Sub(tinykube.Source, "labs")
	if err != nil {
		return nil, err
	}
	return labs.All(tree)
}

// findLabs turns what was asked for into labs: a number, the name of a folder,
// the path of a README that is being written, or "all".
func findLabs(wanted []string) ([]*labs.Lab, error) {
	all, err := allLabs()
	if err != nil {
		return nil, err
	}
	var found []*labs.Lab
	for _, name := range wanted {
		if name == "all" {
			found = append(found, all...)
			continue
		}
		if i := slices.IndexFunc(all, func(l *labs.Lab) bool { return l.Number == name || l.Name == name }); i >= 0 {
			found = append(found, all[i])
			continue
		}
		file := name
		if filepath.Ext(file) != ".md" {
			file = filepath.Join(name, "README.md")
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("no lab %q; `tinykube lab list` shows them", name)
		}
		if file, err = filepath.Abs(file); err != nil {
			return nil, err
		}
		lab, err := labs.Parse(file, string(content))
		if err != nil {
			return nil, err
		}
		found = append(found, lab)
	}
	return found, nil
}

func newLabList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Show the labs, and how you did", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			all, err := allLabs()
			if err != nil {
				return err
			}
			progress, err := labs.LoadProgress()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "LAB\tTITLE\tNEEDS\tTAKES\tLAST RUN\tEXERCISE")
			for _, lab := range all {
				needs := lab.Needs
				if lab.Alone {
					needs += " of its own"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%d s\t%s\t%s\n", lab.Number, lab.Title, needs, lab.Seconds,
					lastRun(progress[lab.Number]), lastGrade(lab.Number, progress[lab.Number]))
			}
			return w.Flush()
		},
	}
}

func lastRun(e labs.Entry) string {
	switch {
	case e.Ran.IsZero():
		return "-"
	case e.Passed:
		return fmt.Sprintf("passed in %.0f s, %s", e.Took, e.Ran.Format(time.DateOnly))
	}
	return "failed, " + e.Ran.Format(time.DateOnly)
}

func lastGrade(number string, e labs.Entry) string {
	switch {
	case len(grade.Checks(number)) == 0:
		return "none"
	case e.Graded.IsZero():
		return "not started"
	}
	return fmt.Sprintf("%d of %d points, %s", e.Score, e.Points, e.Graded.Format(time.DateOnly))
}

func newLabRun() *cobra.Command {
	var step bool
	r := &labs.Runner{Out: os.Stdout}
	command := &cobra.Command{
		Use: "run NN … | all", Short: "Execute a lab's README and compare", Args: cobra.MinimumNArgs(1),
		Long: `Executes a lab: types the commands of its README and compares what they print.
Instead of a number it takes the path of a README that is being written.

A lab that needs a cluster uses the one in --dir, in a namespace of its own; if
there is none it brings one up, and takes it down at the end.`,
		RunE: func(_ *cobra.Command, args []string) (err error) {
			wanted, err := findLabs(args)
			if err != nil {
				return err
			}
			if r.Self, err = os.Executable(); err != nil {
				return err
			}
			if r.Programs = append(componentNames(), "tinykube", "kubectl"); step {
				r.In = os.Stdin
			}
			results, err := r.Run(flags.SignalContext(), wanted...)
			return report(results, err)
		},
	}
	addDirFlag(command.Flags(), &r.Dir)
	command.Flags().BoolVar(&step, "step", false, "show the text, and wait for Enter before each command")
	command.Flags().BoolVar(&r.Keep, "keep", false, "leave the cluster, the namespace and the folder to look at")
	return command
}

// report notes how labs went, and fails if one did. Who stopped has not failed,
// and a README that is being written is no lab of the course.
func report(results []labs.Result, err error) error {
	var failed []string
	for _, result := range results {
		stopped := errors.Is(result.Err, labs.ErrQuit) || errors.Is(result.Err, labs.ErrInterrupted)
		if result.Err != nil && !stopped {
			failed = append(failed, result.Lab.Number)
		}
		if stopped || filepath.IsAbs(result.Lab.Path) {
			continue
		}
		if err := labs.Note(result.Lab.Number, func(e *labs.Entry) {
			e.Ran, e.Passed, e.Took = time.Now(), result.Err == nil, result.Took.Seconds()
		}); err != nil {
			return err
		}
	}
	if errors.Is(err, labs.ErrQuit) { // as they wished
		fmt.Println(err)
		err = nil
	}
	if err == nil && len(failed) > 0 {
		err = fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	}
	return err
}

// exercises are those of one lab.
func exercises(number string) ([]exercise.Exercise, error) {
	found, err := exercise.Find(tinykube.Source, number)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("lab %s has no exercise; `tinykube lab list` shows which have", number)
	}
	return found, err
}

func newLabStart() *cobra.Command {
	return &cobra.Command{
		Use: "start NN DIR", Short: "Write the source into DIR, with a hole where you write", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := exercises(args[0])
			if err != nil {
				return err
			}
			if err := exercise.Write(tinykube.Source, args[1], found); err != nil {
				return err
			}
			fmt.Printf("%s is the whole source, but for what you write:\n\n", args[1])
			for _, e := range found {
				fmt.Printf("  %s\n    func %s\n    %s\n\n", filepath.Join(args[1], e.File), e.Function, wrap(e.Hint, 72, "    "))
			}
			fmt.Printf("It compiles as it is (an import that only the missing code used is marked with _), and says what is missing when it runs. Grade it as often as you like:\n\n  tinykube lab grade %s %s\n", args[0], args[1])
			return nil
		},
	}
}

// wrap breaks a text into lines of about a width.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		if column > 0 && column+len(word) >= width {
			b.WriteString("\n" + indent)
			column = 0
		} else if column > 0 {
			b.WriteString(" ")
		}
		b.WriteString(word)
		column += len(word) + 1
	}
	return b.String()
}

func newLabGrade() *cobra.Command {
	var asJSON bool
	command := &cobra.Command{
		Use: "grade NN DIR", Short: "Build what is in DIR, run it, and see what holds", Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			found, err := exercises(args[0])
			if err != nil {
				return err
			}
			unwritten, err := exercise.Unwritten(args[1], found)
			if err != nil {
				return err
			}
			observe := func(grade.Outcome) {}
			if !asJSON {
				for _, e := range unwritten {
					fmt.Printf("%s is not written yet.\n", e.Function)
				}
				if len(unwritten) == len(found) {
					fmt.Printf("0 of %d is what you should see now.\n\n", len(grade.Checks(args[0])))
				}
				observe = func(o grade.Outcome) { fmt.Print(o) }
			}
			result, err := grade.Grade(flags.SignalContext(), args[0], args[1], observe)
			if err != nil {
				return err
			}
			if err := labs.Note(args[0], func(e *labs.Entry) {
				e.Graded, e.Score, e.Points = time.Now(), result.Score, result.Points
			}); err != nil {
				return err
			}
			if asJSON {
				encoder := json.NewEncoder(os.Stdout)
				encoder.SetIndent("", "  ")
				return encoder.Encode(result)
			}
			fmt.Printf("\n%d of %d checks, %d of %d points\n", result.Passed(), len(result.Outcomes), result.Score, result.Points)
			return nil
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON")
	return command
}
