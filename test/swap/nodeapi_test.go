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
	{"metrics/cadvisor", `.*`, "figures of cAdvisor's that no dashboard asks for"},
	{"metrics", `.*`, "those of upstream's libraries and inner parts that no dashboard asks for"},
	{"pods", `\.items\[\]\.metadata\.managedFields.*`, "who set which field"},
}

// What dashboards and alerts (kubernetes-mixin's, say) ask of the two large
// pages must be there, whatever else is left out.
var mustSay = map[string]*regexp.Regexp{
	"metrics": regexp.MustCompile(`^(kubelet_(running_pods|running_containers|node_name|desired_pods|mirror_pods|cgroup_version|started_pods_total|started_containers_total|` +
		`(pod_start|pod_start_sli|pod_worker|pleg_relist|runtime_operations|http_requests)_duration_seconds_(bucket|sum|count)|pleg_relist_interval_seconds_(bucket|sum|count)|` +
		`pleg_last_seen_seconds|runtime_operations_total|http_requests_total|http_inflight_requests)|rest_client_requests_total|volume_manager_total_volumes|` +
		`kubernetes_build_info|process_(cpu_seconds_total|resident_memory_bytes|start_time_seconds)|go_goroutines)\{`),
	"metrics/cadvisor": regexp.MustCompile(`^(machine_(cpu_cores|memory_bytes)|container_(cpu_(usage|user|system)_seconds_total|cpu_cfs_(periods|throttled_periods)_total|` +
		`memory_(working_set_bytes|rss|cache|swap|usage_bytes)|spec_(memory_limit_bytes|cpu_period|cpu_quota)|processes|threads|oom_events_total|start_time_seconds|last_seen|` +
		`network_(receive|transmit)_(bytes|packets|packets_dropped|errors)_total))\{`),
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
				if asked := mustSay[page]; asked != nil && asked.MatchString(name) {
					i = -1
				}
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
