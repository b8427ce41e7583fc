package swap

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A real kubelet's node API says more than ours does; what is left out, and why.
var notSaid = []struct{ page, pattern, why string }{
	{"stats/summary", `.*\.psi\..*|.*\.io\.time .*`, "how long who waited for what (PSI)"},
	{"stats/summary", `\.node\.(systemContainers|network|swap|memory|io)\b.*`, "cAdvisor's figures of the node's own groups and network"},
	{"stats/summary", `\.pods\[\]\.memory\.availableBytes .*`, "what is left of a pod's limit"},
	{"stats/summary", `\.pods\[\]\.volume\[\]\..*`, "volumes that are not an emptyDir's"},
	{"metrics/resource", `node_swap_usage_bytes.*`, "what the node has swapped"},
	{"metrics/probes", `process_start_time_seconds.*`, "it is on /metrics"},
	{"metrics/cadvisor", `.*`, "cAdvisor's own figures: there is no cAdvisor"},
	{"metrics", `go_.*|process_.*|rest_client_.*|workqueue_.*|apiserver_.*|authentication_.*|authorization_.*|aggregator_.*|cardinality_.*|disabled_.*|hidden_.*|registered_.*|kubernetes_.*|csi_.*|storage_.*|volume_.*|reconstruct_.*`, "those of upstream's libraries"},
	{"metrics", `kubelet_.*|plugin_manager_.*|get_token_.*|force_cleaned_.*|memory_manager_.*|node_.*|version_info.*|dra_.*`, "those of upstream's inner parts"},
	{"pods", `\.items\[\]\.metadata\.managedFields.*`, "who set which field"},
}

// compareNodeAPI compares what the two kubelets serve on port 10250: not the
// figures, but which there are.
func (c *clusterUnderTest) compareNodeAPI() {
	c.t.Helper()
	for page, shape := range map[string]func(string) map[string]bool{
		"stats/summary": fieldsOf, "configz": fieldsOf, "pods": fieldsOf, "metrics/resource": metricsOf, "metrics/probes": metricsOf,
		"metrics/cadvisor": metricsOf, "metrics": metricsOf, "healthz": wordsOf, "healthz/ping": wordsOf, "healthz/log": wordsOf, "healthz/syncloop": wordsOf,
	} {
		ask := func(node string) map[string]bool {
			out, err := c.try("", "kubectl", "get", "--raw", "/api/v1/nodes/"+node+"/proxy/"+page)
			if err != nil {
				return map[string]bool{"error": true}
			}
			return shape(out)
		}
		left, theirs := map[string]int{}, map[string]bool{}
		eventually(c.t, "/"+page+" is like a real one's", func(context.Context) (bool, error) { // rates need two looks
			ours := ask("node-0")
			var missing []string
			theirs = ask("node-1")
			clear(left)
			for _, name := range slices.Sorted(maps.Keys(theirs)) {
				i := slices.IndexFunc(notSaid, func(n struct{ page, pattern, why string }) bool {
					return n.page == page && regexp.MustCompile(`^(`+n.pattern+`)$`).MatchString(name)
				})
				if i >= 0 && !ours[name] {
					left[notSaid[i].why]++
				} else if !ours[name] {
					missing = append(missing, name)
				}
			}
			return len(missing) == 0, fmt.Errorf("only theirs has\n%s", strings.Join(missing, "\n"))
		})
		for why, n := range left {
			c.t.Logf("/%s: %d of %d are left out: %s", page, n, len(theirs), why)
		}
	}
}

// fieldsOf names every field of a JSON document.
func fieldsOf(text string) map[string]bool {
	var document any
	if err := json.Unmarshal([]byte(text), &document); err != nil {
		return map[string]bool{"not JSON": true}
	}
	out := map[string]bool{}
	var walk func(at string, value any)
	walk = func(at string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for key, field := range v {
				if strings.HasSuffix(at, "annotations") || strings.HasSuffix(at, "labels") || strings.HasSuffix(at, "nodeSelector") {
					key = "KEY"
				}
				walk(at+"."+key, field)
			}
		case []any:
			for _, item := range v {
				walk(at+"[]", item)
			}
		default:
			out[fmt.Sprintf("%s %T", at, value)] = true
		}
	}
	walk("", document)
	return out
}

var sample = regexp.MustCompile(`(?m)^([a-z_:A-Z0-9]+)(\{[^}]*\})? `)

// metricsOf names every metric of a page, with its labels.
func metricsOf(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range sample.FindAllStringSubmatch(text, -1) {
		var labels []string
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, l[1])
		}
		slices.Sort(labels)
		out[m[1]+"{"+strings.Join(labels, ",")+"}"] = true
	}
	return out
}

func wordsOf(text string) map[string]bool { return map[string]bool{strings.TrimSpace(text): true} }
