//go:build mutants

package grade

const (
	queueFile  = "client/workqueue.go"
	planFile   = "controllers/replicaset/plan.go"
	taintsFile = "controllers/nodelifecycle/plan.go"
)

// controllerMutants are those of the labs about controllers.
var controllerMutants = []mutant{
	{"05", "wakes nobody", queueFile,
		"if !q.processing[key] {\n\t\tq.order = append(q.order, key)\n\t\tq.cond.Signal()", "if !q.processing[key] {\n\t\tq.order = append(q.order, key)", "is handed out"},
	{"05", "hands out one key at a time", queueFile,
		"for len(q.order) == 0 && !q.closed {", "for (len(q.order) == 0 || len(q.processing) > 0) && !q.closed {", "others are handed out"},
	{"05", "hands a key to a second worker", queueFile,
		"if !q.processing[key] {", "if true {", "two hands"},
	{"05", "forgets what is added meanwhile", queueFile,
		"if q.closed || q.dirty[key] {", "if q.closed || q.dirty[key] || q.processing[key] {", "once more"},
	{"05", "does not look again when it is done", queueFile,
		"delete(q.processing, key)\n\tif q.dirty[key] {", "delete(q.processing, key)\n\tif q.dirty[key] && q.closed {", "once more"},
	{"05", "takes every change for work", queueFile,
		"if q.closed || q.dirty[key] {", "if q.closed {", "a hundred times"},
	{"05", "never takes a key for clean", queueFile,
		"delete(q.dirty, key)\n\tq.processing[key] = true", "q.processing[key] = true", "a hundred times"},
	{"05", "takes the last that came", queueFile,
		"key := q.order[0]\n\tq.order = q.order[1:]", "key := q.order[len(q.order)-1]\n\tq.order = q.order[:len(q.order)-1]", "the first that came"},
	{"05", "stays until there is work", queueFile,
		"for len(q.order) == 0 && !q.closed {", "for len(q.order) == 0 {", "go home"},

	{"08", "makes one too many", planFile,
		"return plan{create: min(-difference, burst)}", "return plan{create: min(1-difference, burst)}", "are made as are wanted"},
	{"08", "makes all of them again when one is gone", planFile,
		"return plan{create: min(-difference, burst)}", "return plan{create: min(int(*rs.Spec.Replicas), burst)}", "one gone is one made"},
	{"08", "deletes one too many", planFile,
		"active[:min(difference, burst)]", "active[:min(difference+1, len(active), burst)]", "are deleted"},
	{"08", "never deletes", planFile,
		"case difference > 0:", "case difference > 1000:", "are deleted"},
	{"08", "deletes from the wrong end", planFile,
		"active[:min(difference, burst)]", "active[len(active)-min(difference, burst):]", "loses the least"},
	{"08", "ranks without looking at nodes", planFile,
		"rank(active, perNode, now)", "rank(active, nil, now)", "that is alone"},
	{"08", "counts the dead", planFile,
		"active := filter(owned, harness.IsActive)", "active := filter(owned, func(*corev1.Pod) bool { return true })", "as good as gone"},
	{"08", "counts those that are going", planFile,
		"active := filter(owned, harness.IsActive)", "active := filter(owned, func(pod *corev1.Pod) bool { return !harness.IsFinished(pod) })", "as good as gone"},
	{"08", "makes pods for who is being deleted", planFile,
		"if rs.DeletionTimestamp != nil {", "if false {", "being deleted"},
	{"08", "makes all at once, however many", planFile,
		"return plan{create: min(-difference, burst)}", "return plan{create: -difference}", "500 at once"},
	{"08", "makes one at a time", planFile,
		"return plan{create: min(-difference, burst)}", "return plan{create: min(-difference, 1)}", "500 at once"},

	{"09", "drives nobody off", taintsFile,
		"if c.Type == corev1.NodeReady {", "if false {", "both effects"},
	{"09", "drives off whenever something presses", taintsFile,
		"if c.Type == corev1.NodeReady {", "if true {", "drives none off"},
	{"09", "does not see a cordon", taintsFile,
		"if node.Spec.Unschedulable {", "if false {", "cordoned"},
	{"09", "takes nothing away", taintsFile,
		"keep := !managed(t) || want[id]", "keep := true", "rid of them"},
	{"09", "adds first, and takes away later", taintsFile,
		"keep := !managed(t) || want[id]", "keep := !managed(t) || want[id] || len(want) > 1", "never both"},
	{"09", "tidies up after others", taintsFile,
		"keep := !managed(t) || want[id]", "keep := want[id]", "others have put"},
	{"09", "looks at the key only", taintsFile,
		"keep := !managed(t) || want[id]", "keep := !managed(corev1.Taint{Key: t.Key, Effect: corev1.TaintEffectNoSchedule}) || want[id]", "others have put"},
	{"09", "makes every taint anew", taintsFile,
		"if keep {\n\t\t\ttaints", "if keep {\n\t\t\tif managed(t) {\n\t\t\t\tt.TimeAdded = &now\n\t\t\t}\n\t\t\ttaints", "keeps its time"},
	{"09", "writes no time", taintsFile,
		"Effect: id.effect, TimeAdded: &now}", "Effect: id.effect}", "keeps its time"},
	{"09", "does not wait", taintsFile,
		"if id.effect == corev1.TaintEffectNoExecute && choice != evict {", "if id.effect == corev1.TaintEffectNoExecute && choice == spare {", "too fast"},
	{"09", "waits with everything", taintsFile,
		"if id.effect == corev1.TaintEffectNoExecute && choice != evict {", "if choice != evict {", "too fast"},
	{"09", "spares nobody who has it already", taintsFile,
		"&& choice == spare {\n\t\t\tkeep = false", "&& choice == spare {\n\t\t\tkeep = want[id]", "nobody is driven off"},
}
