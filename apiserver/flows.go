package apiserver

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"tinykube/apiserver/resources"
)

// Which level is a request's? FlowSchemas are asked in the order of their
// precedence; the first that matches names the level, and what tells one flow
// from another. Both are objects of the API, made at the first start
// (defaults_flows.go) and read from the watch cache, so that an administrator
// can change them while the server runs.

// flowControl turns the objects into schemas and levels.
type flowControl struct {
	server   *Server
	total    int // seats of all levels together
	patience time.Duration
	off      bool // --enable-priority-and-fairness=false: two counters, no queues

	mu     sync.Mutex // guards the fields below
	levels map[string]*level
	index  *flowIndex
}

// flowIndex is the objects in the form in which they are asked.
type flowIndex struct {
	versions [2]int64 // of the tables it was made from
	schemas  []*flowSchema
}

// flowSchema is one FlowSchema and the level that it names.
type flowSchema struct {
	name        string
	level       *level
	uids        [2][]string // of the schema and the level, as headers
	figures     *flowFigures
	distinguish flowcontrolv1.FlowDistinguisherMethodType
	rules       []flowcontrolv1.PolicyRulesWithSubjects
}

// The headers by which an answer says how its request was classified.
var flowHeaders = [2]string{
	http.CanonicalHeaderKey(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID),
	http.CanonicalHeaderKey(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID),
}

func newFlowControl(s *Server) *flowControl {
	f := &flowControl{server: s, patience: patienceOf(s.cfg.RequestTimeout), off: s.cfg.NoPriorityAndFairness, levels: map[string]*level{}}
	f.total = s.cfg.MaxInFlight + s.cfg.MaxMutatingInFlight
	if f.total == 0 {
		f.total = 1 << 20 // no limit that anybody would meet
	}
	if f.off {
		for name, seats := range map[string]int{readOnly: s.cfg.MaxInFlight, mutating: s.cfg.MaxMutatingInFlight} {
			f.levels[name] = &level{name: name, seats: seats, exempt: seats == 0, reject: true}
		}
	}
	return f
}

// stamp writes the headers. The values are shared: nobody changes a header's
// values in place.
func (s *flowSchema) stamp(header http.Header) {
	for i, name := range flowHeaders {
		if s.uids[i] != nil {
			header[name] = s.uids[i]
		}
	}
}

// flow names the request's flow within its schema.
func (s *flowSchema) flow(q *request) string {
	switch s.distinguish {
	case flowcontrolv1.FlowDistinguisherMethodByUserType:
		return s.name + "/" + q.user.name
	case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
		return s.name + "/" + q.namespace
	}
	return s.name
}

// classify finds the schema of a request; nil needs no seat.
func (f *flowControl) classify(q *request) *flowSchema {
	if f.off {
		if q.user.in(groupMasters) || !q.isResource && isPublicPath(q.path) {
			return nil
		}
		return &flowSchema{level: f.levels[q.kindOfWork()]}
	}
	for _, schema := range f.current().schemas {
		if schema.matches(q.user, &q.target) {
			return schema
		}
	}
	return nil
}

// current returns the index, made anew if the objects have changed.
func (f *flowControl) current() *flowIndex {
	versions := [2]int64{-1, -1}
	tables := [2]string{"flowschemas", "prioritylevelconfigurations"}
	ready := false
	select {
	case <-f.server.store.Ready():
		ready = true
		for i, plural := range tables {
			versions[i] = f.server.tableOf(flowcontrolv1.GroupName, plural).Changed()
		}
	default:
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.index != nil && f.index.versions == versions {
		return f.index
	}
	var schemas []*flowcontrolv1.FlowSchema
	var levels []*flowcontrolv1.PriorityLevelConfiguration
	if ready {
		schemas = allCached[*flowcontrolv1.FlowSchema](f.server, flowcontrolv1.GroupName, tables[0], "")
		levels = allCached[*flowcontrolv1.PriorityLevelConfiguration](f.server, flowcontrolv1.GroupName, tables[1], "")
	}
	// What is mandatory holds even if somebody deletes it, and at the start.
	for _, obj := range defaultFlows() {
		switch obj := obj.(type) {
		case *flowcontrolv1.FlowSchema:
			schemas = addMissing(schemas, obj, ready)
		case *flowcontrolv1.PriorityLevelConfiguration:
			levels = addMissing(levels, obj, ready)
		}
	}
	f.index = f.build(schemas, levels)
	f.index.versions = versions
	return f.index
}

// addMissing adds a default object that is mandatory; at the start, all.
func addMissing[T resources.Object](list []T, obj T, onlyMandatory bool) []T {
	name := obj.GetName()
	if onlyMandatory && name != flowcontrolv1.FlowSchemaNameCatchAll && name != flowcontrolv1.FlowSchemaNameExempt ||
		slices.ContainsFunc(list, func(one T) bool { return one.GetName() == name }) {
		return list
	}
	return append(list, obj)
}

// build deals the seats to the levels by their shares, and sorts the schemas.
// Levels are kept: requests sit at them. The caller holds mu.
func (f *flowControl) build(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) *flowIndex {
	var shares int32
	for _, one := range levels {
		shares += sharesOf(one)
	}
	uids := map[string]string{}
	for _, one := range levels {
		uids[one.Name] = string(one.UID)
		kept := f.levels[one.Name]
		limited := one.Spec.Limited
		rejects := limited != nil && limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeReject
		if kept == nil || kept.exempt != (limited == nil) || kept.reject != rejects {
			kept = &level{name: one.Name, exempt: limited == nil, reject: rejects, queues: map[string][]*waitingRequest{}}
			f.levels[one.Name] = kept
		}
		if limited == nil {
			f.server.metrics.flows.limit.WithLabelValues(one.Name).Set(0)
			continue
		}
		queueLimit := 0
		if queuing := limited.LimitResponse.Queuing; queuing != nil {
			queueLimit = int(queuing.QueueLengthLimit)
		}
		seats := (f.total*int(sharesOf(one)) + int(shares) - 1) / int(max(shares, 1))
		kept.resize(seats, queueLimit)
		f.server.metrics.flows.limit.WithLabelValues(one.Name).Set(float64(seats))
	}
	index := &flowIndex{}
	slices.SortFunc(schemas, func(a, b *flowcontrolv1.FlowSchema) int {
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), cmp.Compare(a.Name, b.Name))
	})
	for _, one := range schemas {
		uid, ok := uids[one.Spec.PriorityLevelConfiguration.Name]
		if !ok {
			continue // it dangles, and matches nothing
		}
		schema := &flowSchema{name: one.Name, level: f.levels[one.Spec.PriorityLevelConfiguration.Name], rules: one.Spec.Rules}
		schema.figures = f.server.metrics.flows.of(schema.level.name, one.Name)
		if one.UID != "" {
			schema.uids = [2][]string{{string(one.UID)}, {uid}}
		}
		if one.Spec.DistinguisherMethod != nil {
			schema.distinguish = one.Spec.DistinguisherMethod.Type
		}
		index.schemas = append(index.schemas, schema)
	}
	return index
}

// sharesOf is a limited level's part of all seats; upstream's default is 30.
func sharesOf(one *flowcontrolv1.PriorityLevelConfiguration) int32 {
	switch limited := one.Spec.Limited; {
	case limited == nil:
		return 0
	case limited.NominalConcurrencyShares == nil:
		return 30
	default:
		return *limited.NominalConcurrencyShares
	}
}

// matches reports whether one of the schema's rules is about such a user and
// about such a request.
func (s *flowSchema) matches(u *user, t *target) bool {
	for i := range s.rules {
		rule := &s.rules[i]
		about := func() bool {
			if t.isResource {
				return slices.ContainsFunc(rule.ResourceRules, func(r flowcontrolv1.ResourcePolicyRule) bool { return flowResource(&r, t) })
			}
			return slices.ContainsFunc(rule.NonResourceRules, func(r flowcontrolv1.NonResourcePolicyRule) bool {
				return has(r.Verbs, t.verb) && slices.ContainsFunc(r.NonResourceURLs, func(url string) bool { return pathMatches(url, t.path) })
			})
		}
		if slices.ContainsFunc(rule.Subjects, func(one flowcontrolv1.Subject) bool { return flowSubject(&one, u) }) && about() {
			return true
		}
	}
	return false
}

func flowSubject(subject *flowcontrolv1.Subject, u *user) bool {
	const all = flowcontrolv1.NameAll
	switch subject.Kind {
	case flowcontrolv1.SubjectKindUser:
		return subject.User.Name == all || subject.User.Name == u.name
	case flowcontrolv1.SubjectKindGroup:
		return subject.Group.Name == all || u.in(subject.Group.Name)
	case flowcontrolv1.SubjectKindServiceAccount:
		namespace, name, ok := u.serviceAccount()
		return ok && namespace == subject.ServiceAccount.Namespace && (subject.ServiceAccount.Name == all || name == subject.ServiceAccount.Name)
	}
	return false
}

func flowResource(rule *flowcontrolv1.ResourcePolicyRule, t *target) bool {
	whole := t.resource
	if t.subresource != "" {
		whole += "/" + t.subresource
	}
	if !has(rule.Verbs, t.verb) || !has(rule.APIGroups, t.group) || !has(rule.Resources, whole) {
		return false
	}
	if t.namespace == "" {
		return rule.ClusterScope
	}
	return has(rule.Namespaces, t.namespace)
}
