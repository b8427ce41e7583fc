package simulate

import (
	"fmt"
	"io"
	"strings"

	"tinykube/scheduler/framework"
)

// barWidth is how many characters a full node is wide.
const barWidth = 20

// printBars draws how full each node is:
//
//	node-1  cpu ██████████░░░░░░░░░░  50 %  memory ███░░░░░░░░░░░░░░░░░  15 %  web-1 web-2
func printBars(out io.Writer, snapshot *framework.Snapshot) {
	width := 0
	for _, n := range snapshot.Nodes {
		width = max(width, len(n.Node.Name))
	}
	for _, n := range snapshot.Nodes {
		text := fmt.Sprintf("%-*s  cpu %s  memory %s ", width, n.Node.Name,
			bar(n.Requested.MilliCPU, n.Allocatable.MilliCPU), bar(n.Requested.Memory, n.Allocatable.Memory))
		for _, pod := range n.Pods {
			text += " " + pod.Name
		}
		fmt.Fprintln(out, strings.TrimSpace(text))
	}
}

// bar is a share as a picture and a number.
func bar(used, all int64) string {
	percent := int64(0)
	if all > 0 {
		percent = used * 100 / all
	}
	full := int(min(percent, 100) * barWidth / 100)
	return strings.Repeat("█", full) + strings.Repeat("░", barWidth-full) + fmt.Sprintf(" %3d %%", percent)
}
