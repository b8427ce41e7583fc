package simulate

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/resource"

	"tinykube/scheduler"
	"tinykube/scheduler/framework"
)

// printExplanation prints one decision:
//
//	Pod default/web  (priority 0; requests cpu 500m, memory 256Mi)
//	  Filter: 2 of 3 nodes feasible
//	    node-0  ✗ TaintToleration: node(s) had untolerated taint(s)
//	    …
//	  Score: raw → normalized × weight = points
//	    …
//	  → node-2
func printExplanation(out io.Writer, e *scheduler.Explanation) {
	fmt.Fprintf(out, "Pod %s/%s  (%s)\n", e.Pod.Namespace, e.Pod.Name, describe(e.Pod))
	if len(e.Nodes) > 0 {
		fmt.Fprintf(out, "  Filter: %d of %d nodes feasible\n", len(e.Feasible), len(e.Nodes))
		printVerdicts(out, e)
	}
	if len(e.Scores) > 0 {
		fmt.Fprintln(out, "  Score: raw → normalized × weight = points")
		printScores(out, e)
	}
	switch {
	case e.Message != "":
		fmt.Fprintf(out, "  ✗ %s\n", e.Message)
		if e.Room != nil && e.Room.Node != "" {
			fmt.Fprintf(out, "  preemption would empty %s of %s\n", e.Room.Node, names(e.Room.Victims))
		}
		fmt.Fprintln(out)
	case len(e.Best) > 1:
		fmt.Fprintf(out, "  → %s  (as good as %s)\n\n", e.Best[0], strings.Join(e.Best[1:], ", "))
	default:
		fmt.Fprintf(out, "  → %s\n\n", e.Best[0])
	}
}

func names(pods []*framework.PodInfo) string {
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Namespace+"/"+pod.Name)
	}
	return strings.Join(names, ", ")
}

func describe(pod *framework.PodInfo) string {
	var priority int32
	if pod.Spec.Priority != nil {
		priority = *pod.Spec.Priority
	}
	r := &pod.Requests
	var asks []string
	if r.MilliCPU > 0 {
		asks = append(asks, "cpu "+resource.NewMilliQuantity(r.MilliCPU, resource.DecimalSI).String())
	}
	if r.Memory > 0 {
		asks = append(asks, "memory "+resource.NewQuantity(r.Memory, resource.BinarySI).String())
	}
	if r.EphemeralStorage > 0 {
		asks = append(asks, "ephemeral-storage "+resource.NewQuantity(r.EphemeralStorage, resource.BinarySI).String())
	}
	for name, amount := range r.Scalar {
		asks = append(asks, fmt.Sprintf("%s %d", name, amount))
	}
	slices.Sort(asks)
	if asks == nil {
		asks = []string{"nothing"}
	}
	return fmt.Sprintf("priority %d; requests %s", priority, strings.Join(asks, ", "))
}

// printVerdicts is a row per node and a column per filter.
func printVerdicts(out io.Writer, e *scheduler.Explanation) {
	header := []string{"NODE"}
	for _, v := range e.Nodes {
		if columns := pluginNames(v); len(columns) >= len(header) {
			header = append([]string{"NODE"}, columns...)
		}
	}
	var rows [][]string
	for _, v := range e.Nodes {
		row := append([]string{v.Node}, slices.Repeat([]string{"-"}, len(header)-1)...)
		for _, s := range v.Verdicts {
			mark := "ok"
			if !s.IsSuccess() {
				mark = "✗"
			}
			row[slices.Index(header, s.Plugin)] = mark
		}
		rows = append(rows, row)
	}
	printTable(out, "    ", header, rows)
	for _, v := range e.Nodes {
		for _, s := range v.Verdicts {
			if !s.IsSuccess() {
				fmt.Fprintf(out, "    ✗ %s: %s: %s\n", v.Node, s.Plugin, s.Message())
			}
		}
	}
}

func pluginNames(v scheduler.NodeVerdicts) (names []string) {
	for _, s := range v.Verdicts {
		names = append(names, s.Plugin)
	}
	return names
}

// printScores is a row per feasible node and a column per plugin.
func printScores(out io.Writer, e *scheduler.Explanation) {
	header := []string{"NODE"}
	for _, s := range e.Scores {
		header = append(header, s.Plugin)
	}
	header = append(header, "TOTAL")
	var rows [][]string
	for i, node := range e.Feasible {
		row := []string{node}
		for _, s := range e.Scores {
			row = append(row, fmt.Sprintf("%d→%d×%d=%d", s.Raw[i], s.Normalized[i], s.Weight, s.Normalized[i]*s.Weight))
		}
		rows = append(rows, append(row, fmt.Sprint(e.Totals[i])))
	}
	printTable(out, "    ", header, rows)
}

// printTable aligns columns by runes, which text/tabwriter does as well but
// with trailing blanks.
func printTable(out io.Writer, indent string, header []string, rows [][]string) {
	width := make([]int, len(header))
	all := append([][]string{header}, rows...)
	for _, row := range all {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range all {
		line := indent
		for i, cell := range row {
			line += cell + strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2)
		}
		fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
}
