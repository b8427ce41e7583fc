package grade

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"tinykube"
)

// mutant is a mistake that a person could make, as a change of the solution,
// with a check that must not hold for it.
type mutant struct {
	lab, name, file string
	old, new        string
	fails           string // a part of the check's name
}

// serverMutants are those of the labs about the API server.
var serverMutants = []mutant{
	{"01", "compares with what is there now, not with what was seen", "apiserver/storage/write.go",
		"revision, found, err := t.swap(ctx, key, current.Revision,", "fresh, _ := t.read(ctx, key)\n\t\trevision, found, err := t.swap(ctx, key, fresh.Revision,",
		"overwrites nothing"},
	{"01", "believes the cache's refusal", "apiserver/storage/write.go",
		"if err != nil && certain {", "if err != nil {", "refuses nothing"},
	{"01", "believes the cache that there is nothing to do", "apiserver/storage/write.go",
		"case same && certain:", "case same:", "nothing to do"},
	{"01", "takes a lost swap for a won one", "apiserver/storage/write.go",
		"current, certain = t.item(found), true", "return t.item(found), nil", "lose nothing"},
	{"01", "gives up after a lost swap", "apiserver/storage/write.go",
		"current, certain = t.item(found), true", "return nil, apierrors.NewConflict(t.row.GVR().GroupResource(), key, errors.New(\"lost\"))", "made again"},
	{"01", "swaps again what it made of the old object", "apiserver/storage/write.go",
		"current, certain = t.item(found), true", "revision, _, err = t.swap(ctx, key, found.ModRevision, value, change.Also)\n\t\t\tif err != nil {\n\t\t\t\treturn nil, err\n\t\t\t}\n\t\t\treturn t.written(current, value, revision)",
		"made again"},
	{"01", "tries again when the answer is lost", "apiserver/storage/write.go",
		"case err != nil:\n\t\t\treturn nil, err\n\t\tcase revision > 0:", "case err != nil:\n\t\t\tcurrent = nil\n\t\tcase revision > 0:", "never a second try"},
	{"01", "answers with the old revision", "apiserver/storage/write.go",
		"return t.written(current, value, revision)", "return t.written(current, value, current.Revision)", "the version grows"},
	{"01", "writes what was deleted meanwhile", "apiserver/storage/write.go",
		"case found == nil: // deleted meanwhile, as the read will say\n", "case found == nil:\n\t\t\tif value != nil {\n\t\t\t\trevision, _, err = t.swap(ctx, key, 0, value, nil)\n\t\t\t\tif err != nil {\n\t\t\t\t\treturn nil, err\n\t\t\t\t}\n\t\t\t\treturn t.written(current, value, revision)\n\t\t\t}\n",
		"stays gone"},
	{"01", "takes a refusal for an answer", "apiserver/storage/write.go",
		"if err != nil && certain {\n\t\t\treturn nil, err", "if err != nil && certain {\n\t\t\treturn current, nil", "is refused: 409"},
	{"01", "always writes", "apiserver/storage/write.go",
		"value, same, err := t.prepare(current, change)", "value, _, err := t.prepare(current, change)\n\t\tsame := false", "writes nothing"},

	{"03", "computes the new object once, and stores it whatever is there by then", "apiserver/patch.go",
		"item, err := s.updateObject(q, func(old resources.Object) (resources.Object, error) {\n\t\treturn q.patched(old, apply)",
		"var once resources.Object\n\titem, err := s.updateObject(q, func(old resources.Object) (resources.Object, error) {\n\t\tif once == nil {\n\t\t\tif once, err = q.patched(old, apply); err != nil {\n\t\t\t\treturn nil, err\n\t\t\t}\n\t\t}\n\t\tonce.SetResourceVersion(old.GetResourceVersion())\n\t\treturn once.DeepCopyObject().(resources.Object), nil",
		"made again"},
	{"03", "takes every patch for a merge patch", "apiserver/patch.go",
		"apply, err := q.patchFunc(types.PatchType(media), data)", "apply, err := q.patchFunc(types.MergePatchType, data)", "no more"},
	{"03", "takes a strategic merge patch for a merge patch", "apiserver/patch.go",
		"apply, err := q.patchFunc(types.PatchType(media), data)", "if types.PatchType(media) == types.StrategicMergePatchType {\n\t\tmedia = string(types.MergePatchType)\n\t}\n\tapply, err := q.patchFunc(types.PatchType(media), data)",
		"by its name"},
	{"03", "answers with what is there when the patch does not fit", "apiserver/patch.go",
		"apply, q.row.GVK()); err != nil {\n\t\treturn nil, err", "apply, q.row.GVK()); err != nil {\n\t\treturn old, nil", "if a test fails"},
	{"03", "forgets that apply is another thing", "apiserver/patch.go",
		"if types.PatchType(media) == types.ApplyYAMLPatchType {\n\t\treturn s.apply(q)\n\t}", "", "remembers whose it is"},
	{"03", "forgets that a scale is another thing", "apiserver/patch.go",
		"if q.subresource == \"scale\" {\n\t\treturn s.patchScale(q, apply)\n\t}", "", "changes the replicas"},
	{"03", "lets every patch win", "apiserver/patch.go",
		"if obj.GetName() != old.GetName() {", "obj.SetResourceVersion(\"\")\n\tif obj.GetName() != old.GetName() {", "old resourceVersion"},
	{"03", "believes the name in the patch", "apiserver/patch.go",
		"if obj.GetName() != old.GetName() {", "if false {", "no other name"},
	{"03", "decodes over the object that all readers share", "apiserver/patch.go",
		"obj := q.row.New()\n\tif err := q.patchInto(old, obj,", "obj := old\n\tif err := q.patchInto(old, obj,", "no more"},
	{"03", "decodes over the object that all readers share, if it has a status", "apiserver/patch.go",
		"obj := q.row.New()\n\tif err := q.patchInto(old, obj,", "obj := q.row.New()\n\tif q.row.Status {\n\t\tobj = old\n\t}\n\tif err := q.patchInto(old, obj,", "nothing behind"},
	{"03", "decodes into a copy of the old object", "apiserver/patch.go",
		"obj := q.row.New()\n\tif err := q.patchInto(old, obj,", "obj := old.DeepCopyObject().(resources.Object)\n\tif err := q.patchInto(old, obj,", "no more"},

	{"04", "begins with now", "apiserver/storage/watch.go",
		"w.pending = past.first + uint64(unseen)\n\t\tw.ring()", "_ = unseen", "happened since"},
	{"04", "does not ring", "apiserver/storage/watch.go",
		"w.pending = past.first + uint64(unseen)\n\t\tw.ring()", "w.pending = past.first + uint64(unseen)", "happened since"},
	{"04", "begins with the newest of what was missed", "apiserver/storage/watch.go",
		"w.pending = past.first + uint64(unseen)", "w.pending = past.end() - 1", "happened since"},
	{"04", "begins one too far", "apiserver/storage/watch.go",
		"w.pending = past.first + uint64(unseen)", "w.pending = min(past.first+uint64(unseen)+1, past.end()-1)", "happened since"},
	{"04", "registers only whoever has nothing to catch up with", "apiserver/storage/watch.go",
		"if err := w.replay(&t.events, revision); err != nil {\n\t\t\treturn err\n\t\t}", "if err := w.replay(&t.events, revision); err != nil || w.pending != idle {\n\t\t\treturn err\n\t\t}", "just started"},
	{"04", "lets go of the lock between looking and registering", "apiserver/storage/watch.go",
		"if o.Initial {\n\t\tw.InitialRevision", "t.mu.Unlock()\n\tpause(context.Background(), retryProgress)\n\tt.mu.Lock()\n\tif o.Initial {\n\t\tw.InitialRevision", "miss nothing"},
	{"04", "turns out who was there before", "apiserver/storage/watch.go",
		"set := t.watchers[w.interest]\n\tif set", "set := map[*Watcher]struct{}(nil)\n\tif set", "miss nothing"},
	{"04", "does not register", "apiserver/storage/watch.go",
		"set[w] = struct{}{}", "set[w] = struct{}{}\n\tdelete(set, w)", "told once"},
	{"04", "replays what the state shows already", "apiserver/storage/watch.go",
		"if !o.Initial && revision > 0 {", "if revision > 0 {", "what is there"},
	{"04", "says nothing of what is forgotten", "apiserver/storage/watch.go",
		"if revision < past.floor {", "if false {", "410"},
	{"04", "is afraid of the floor", "apiserver/storage/watch.go",
		"if revision < past.floor {", "if revision <= past.floor {", "just started"},
	{"04", "replays only what is still there", "apiserver/storage/watch.go",
		"now, before := w.shown(c.item), w.shown(c.old)", "now, before := w.shown(c.item), w.shown(c.old)\n\tif now == nil && w.table.Cached(c.key) == nil {\n\t\treturn Event{}, false\n\t}", "deletion"},

	{"06", "forgets the group", "apiserver/rbac.go",
		"return has(rule.APIGroups, t.group) && ruleHasResource", "return ruleHasResource", "part of the name"},
	{"06", "forgets the verb", "apiserver/rbac.go",
		"if !has(rule.Verbs, t.verb) {", "if false {", "403"},
	{"06", "knows no *", "apiserver/rbac.go",
		"return has(rule.APIGroups, t.group) && ruleHasResource", "return slices.Contains(rule.APIGroups, t.group) && ruleHasResource", "any group"},
	{"06", "takes a subresource for its resource", "apiserver/rbac.go",
		"return has(list, combined) ||", "return has(list, combined) || slices.Contains(list, t.resource) ||", "of its own"},
	{"06", "takes pods/* for everything of pods", "apiserver/rbac.go",
		"return has(list, combined) ||", "return has(list, combined) || slices.Contains(list, t.resource+\"/*\") ||", "of its own"},
	{"06", "forgets */scale", "apiserver/rbac.go",
		" || t.subresource != \"\" && slices.Contains(list, \"*/\"+t.subresource)", "", "of its own"},
	{"06", "forgets the names", "apiserver/rbac.go",
		"(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, t.name))", "true", "narrow a rule"},
	{"06", "takes a request without a name for one with any", "apiserver/rbac.go",
		"len(rule.ResourceNames) == 0 ||", "len(rule.ResourceNames) == 0 || t.name == \"\" ||", "narrow a rule"},
	{"06", "takes * for any name", "apiserver/rbac.go",
		"slices.Contains(rule.ResourceNames, t.name)", "has(rule.ResourceNames, t.name)", "narrow a rule"},
	{"06", "matches paths by their beginning", "apiserver/rbac.go",
		"return url == t.path || wild && strings", "return strings.HasPrefix(t.path, url) || wild && strings", "about paths"},
	{"06", "lets rules about resources allow paths", "apiserver/rbac.go",
		"return url == t.path || wild && strings.HasPrefix(t.path, prefix)\n\t\t})", "return url == t.path || wild && strings.HasPrefix(t.path, prefix)\n\t\t}) || has(rule.Resources, \"*\")", "about paths"},
}

// allMutants are those of all labs.
func allMutants() []mutant {
	return slices.Concat(serverMutants, controllerMutants, schedulerMutants, kubeletMutants, networkMutants, storageMutants)
}

// apply makes the mistake in a source. The text that it changes must be there,
// once: sources change, and a mutant that no longer fits tells nothing.
func (m mutant) apply(source string) (string, error) {
	if n := strings.Count(source, m.old); n != 1 {
		return "", fmt.Errorf("the mutant has rotted: %q is %d times in %s", m.old, n, m.file)
	}
	return strings.Replace(source, m.old, m.new, 1), nil
}

// The mutants are run by make test-all, since each is a tree to build. That they
// fit the sources is looked at always.
func TestMutantsFit(t *testing.T) {
	for _, mutant := range allMutants() {
		source, err := fs.ReadFile(tinykube.Source, mutant.file)
		if err == nil {
			_, err = mutant.apply(string(source))
		}
		if err != nil {
			t.Errorf("lab %s, %s: %v", mutant.lab, mutant.name, err)
		}
	}
}
