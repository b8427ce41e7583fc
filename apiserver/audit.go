package apiserver

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"tinykube/apiserver/storage"
)

// The audit log says who asked for what, and how it ended: one line of JSON per
// event. The policy (audit_policy.go) decides how much of which request; an
// event is written as its stage is reached, before the client hears of it, so
// that what has been answered has been written down. Who is refused is written
// down as well: those lines are why one keeps the log.
//
//	RequestReceived → [ResponseStarted, of what lasts] → ResponseComplete
//
// Simplified: events are written in place (upstream's mode "blocking", its
// default); a log on a slow disk slows requests. There is no webhook.
//
// Upstream: kubernetes@v1.36 k8s.io/apiserver/pkg/endpoints/filters/audit.go

// AuditConfig says where the audit log goes, and what goes there.
type AuditConfig struct {
	PolicyFile string // audit.k8s.io/v1 Policy; "" audits nothing
	LogPath    string // "-" is standard output; "" audits nothing
	MaxAge     int    // days that a file put aside is kept; 0 for ever
	MaxBackups int    // how many are kept; 0 for all
	MaxSize    int    // megabytes after which a file is put aside; 0 means 100
}

// auditor writes events. A nil auditor is a server without an audit log.
type auditor struct {
	policy  *auditPolicy
	log     *slog.Logger
	metrics *metrics

	mu  sync.Mutex // guards out: one line at a time
	out io.WriteCloser
}

// newAuditor opens the log; nil if nobody wants one.
func newAuditor(cfg AuditConfig, m *metrics, log *slog.Logger) (*auditor, error) {
	if cfg.PolicyFile == "" || cfg.LogPath == "" {
		if cfg.LogPath != "" {
			log.Warn("No audit policy file provided, no events will be recorded for log backend")
		}
		return nil, nil
	}
	policy, warning, err := readAuditPolicy(cfg.PolicyFile)
	if err != nil {
		return nil, fmt.Errorf("loading audit policy file %s: %w", cfg.PolicyFile, err)
	}
	if warning != nil {
		log.Warn("Audit policy has fields that are not known", "key", cfg.PolicyFile, "err", warning)
	}
	out, err := openRotating(cfg)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	return &auditor{policy: policy, log: log, metrics: m, out: out}, nil
}

func (a *auditor) close() {
	if a != nil {
		a.out.Close()
	}
}

// auditEvent is one line of the log, in upstream's order of fields.
type auditEvent struct {
	metav1.TypeMeta          `json:",inline"`
	Level                    auditLevel                 `json:"level"`
	AuditID                  string                     `json:"auditID"`
	Stage                    auditStage                 `json:"stage"`
	RequestURI               string                     `json:"requestURI"`
	Verb                     string                     `json:"verb"`
	User                     authenticationv1.UserInfo  `json:"user"`
	ImpersonatedUser         *authenticationv1.UserInfo `json:"impersonatedUser,omitempty"`
	AuthenticationMetadata   *auditAuthentication       `json:"authenticationMetadata,omitempty"`
	SourceIPs                []string                   `json:"sourceIPs,omitempty"`
	UserAgent                string                     `json:"userAgent,omitempty"`
	ObjectRef                *auditObject               `json:"objectRef,omitempty"`
	ResponseStatus           *metav1.Status             `json:"responseStatus,omitempty"`
	RequestObject            json.RawMessage            `json:"requestObject,omitempty"`
	ResponseObject           json.RawMessage            `json:"responseObject,omitempty"`
	RequestReceivedTimestamp metav1.MicroTime           `json:"requestReceivedTimestamp"`
	StageTimestamp           metav1.MicroTime           `json:"stageTimestamp"`
	Annotations              map[string]string          `json:"annotations,omitempty"`
}

// auditAuthentication is how somebody could be somebody else.
type auditAuthentication struct {
	ImpersonationConstraint string `json:"impersonationConstraint,omitempty"`
}

// auditObject is what a request was about.
type auditObject struct {
	Resource        string    `json:"resource,omitempty"`
	Namespace       string    `json:"namespace,omitempty"`
	Name            string    `json:"name,omitempty"`
	UID             types.UID `json:"uid,omitempty"`
	APIGroup        string    `json:"apiGroup,omitempty"`
	APIVersion      string    `json:"apiVersion,omitempty"`
	ResourceVersion string    `json:"resourceVersion,omitempty"`
	Subresource     string    `json:"subresource,omitempty"`
}

// auditRecord is what is known so far about a request that is audited. All its
// methods may be called on nil, which is a request that is not.
type auditRecord struct {
	auditor *auditor
	verdict auditVerdict
	event   auditEvent
	refused bool // at the door: only one event is written
}

const maxAuditedUserAgent = 1024

// audited begins a request's record. Its user is nil if it did not get as far
// as that; then only the answer is written down.
func (a *auditor) audited(q *request, received time.Time) *auditRecord {
	if a == nil {
		return nil
	}
	verdict := a.policy.judge(q.user, &q.target)
	a.metrics.auditLevels.WithLabelValues(string(verdict.level)).Inc()
	if verdict.level == auditNone {
		return nil
	}
	r := &auditRecord{auditor: a, verdict: verdict, refused: q.user == nil, event: auditEvent{
		TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "audit.k8s.io/v1"},
		Level:    verdict.level, AuditID: q.auditID, RequestURI: q.URL.RequestURI(), Verb: q.verb,
		SourceIPs: sourceIPs(q.Request), UserAgent: q.UserAgent(),
		RequestReceivedTimestamp: metav1.NewMicroTime(received),
	}}
	e := &r.event
	if len(e.UserAgent) > maxAuditedUserAgent {
		e.UserAgent = e.UserAgent[:maxAuditedUserAgent] + "...TRUNCATED"
	}
	if q.isResource {
		e.ObjectRef = &auditObject{
			Resource: q.resource, Namespace: q.namespace, Name: q.name,
			APIGroup: q.group, APIVersion: q.version, Subresource: q.subresource,
		}
	}
	if r.refused {
		return r
	}
	e.User = userInfo(q.user)
	r.write(stageReceived)
	return r
}

// sourceIPs lists where a request says that it came from, and at the end where
// it did; only the last is certain.
func sourceIPs(r *http.Request) []string {
	var out []string
	add := func(text string) {
		if ip := net.ParseIP(strings.TrimSpace(text)); ip != nil && !slices.Contains(out, ip.String()) {
			out = append(out, ip.String())
		}
	}
	for one := range strings.SplitSeq(r.Header.Get("X-Forwarded-For"), ",") {
		add(one)
	}
	add(r.Header.Get("X-Real-Ip"))
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		add(host)
	}
	return out
}

// impersonated notes for whom the user speaks.
func (r *auditRecord) impersonated(as *user) {
	if r != nil && as != nil && as.name != r.event.User.Username {
		info := userInfo(as)
		r.event.ImpersonatedUser = &info
	}
}

// constrained notes by which right the user does.
func (r *auditRecord) constrained(right string) {
	if r != nil {
		r.event.AuthenticationMetadata = &auditAuthentication{right}
	}
}

// decided notes what authorization said, as upstream's annotations.
func (r *auditRecord) decided(allowed bool, reason string) {
	if r == nil {
		return
	}
	decision := "forbid"
	if allowed {
		decision = "allow"
	}
	r.annotate("authorization.k8s.io/decision", decision)
	r.annotate("authorization.k8s.io/reason", reason)
}

// annotate adds what a part of the server wants the log to say.
func (r *auditRecord) annotate(key, value string) {
	if r == nil {
		return
	}
	if r.event.Annotations == nil {
		r.event.Annotations = map[string]string{}
	}
	r.event.Annotations[key] = value
}

// requested notes a body that has been decoded.
func (r *auditRecord) requested(obj any) {
	if r == nil {
		return
	}
	if accessor, err := meta.Accessor(obj); err == nil && r.event.ObjectRef != nil {
		ref := r.event.ObjectRef
		for field, value := range map[*string]string{
			&ref.Name: accessor.GetName(), &ref.Namespace: accessor.GetNamespace(), &ref.ResourceVersion: accessor.GetResourceVersion(),
			(*string)(&ref.UID): string(accessor.GetUID()),
		} {
			if *field == "" {
				*field = value
			}
		}
	}
	if r.verdict.level.atLeast(auditRequest) {
		data, err := json.Marshal(obj)
		r.event.RequestObject = r.body(data, err)
	}
}

// patched notes a patch, as it was sent.
func (r *auditRecord) patched(patch []byte, media string) {
	if r == nil || !r.verdict.level.atLeast(auditRequest) {
		return
	}
	data, err := patch, error(nil)
	if strings.HasSuffix(media, "yaml") {
		data, err = yaml.YAMLToJSON(patch)
	}
	r.event.RequestObject = r.body(data, err)
}

// answered notes the body of an answer.
func (r *auditRecord) answered(q *request, contentType string, body []byte) {
	if r == nil || r.event.ObjectRef == nil || !r.verdict.level.atLeast(auditRequestResponse) {
		return
	}
	var data []byte
	var err error
	switch contentType {
	case storage.JSONMediaType:
		data = body
	case yamlMediaType:
		data, err = yaml.YAMLToJSON(body)
	case storage.ProtobufMediaType:
		data, err = q.protobufAsJSON(body)
	default:
		return
	}
	r.event.ResponseObject = r.body(data, err)
}

// protobufAsJSON decodes an answer of ours: an object, a list, or a Status.
func (q *request) protobufAsJSON(body []byte) ([]byte, error) {
	for _, into := range []any{q.row.New(), q.row.NewList(), &metav1.Status{}, &metav1.PartialObjectMetadata{}, &metav1.PartialObjectMetadataList{}} {
		gvk, err := storage.DecodeProtobuf(body, into)
		if err == nil && strings.HasSuffix(fmt.Sprintf("%T", into), "."+gvk.Kind) {
			return json.Marshal(into)
		}
	}
	return nil, fmt.Errorf("an answer about %s in an unknown form", q.row.Plural)
}

// body is a copy of valid JSON, or nothing: what was sent may be anything, and
// what is answered lies in a buffer that is used again.
func (r *auditRecord) body(data []byte, err error) json.RawMessage {
	if err != nil || !json.Valid(data) {
		return nil
	}
	if r.verdict.omitManagedFields {
		var parsed map[string]any
		if json.Unmarshal(data, &parsed) == nil {
			dropManagedFields(parsed)
			if data, err = json.Marshal(parsed); err != nil {
				return nil
			}
		}
	}
	return slices.Clone(data)
}

// dropManagedFields takes them out of an object, the items of a list, and the
// rows of a table.
func dropManagedFields(object map[string]any) {
	if metadata, ok := object["metadata"].(map[string]any); ok {
		delete(metadata, "managedFields")
	}
	for _, list := range []string{"items", "rows"} {
		items, _ := object[list].([]any)
		for _, item := range items {
			inner, ok := item.(map[string]any)
			if row, isRow := inner["object"].(map[string]any); list == "rows" && isRow {
				inner = row
			}
			if ok {
				dropManagedFields(inner)
			}
		}
	}
}

// failed notes the Status of an error, or another Status that is the answer.
func (r *auditRecord) failed(status *metav1.Status) {
	if r == nil {
		return
	}
	copied := *status
	copied.TypeMeta = metav1.TypeMeta{}
	r.event.ResponseStatus = &copied
}

// started is called when an answer's first line goes out.
func (r *auditRecord) started(code int, lasting bool) {
	if r == nil {
		return
	}
	if r.event.ResponseStatus == nil {
		r.event.ResponseStatus = &metav1.Status{}
	}
	r.event.ResponseStatus.Code = int32(code)
	if lasting || r.refused {
		r.write(stageStarted)
	}
}

// ended writes the last event of a request.
func (r *auditRecord) ended() {
	if r == nil || r.refused {
		return
	}
	if r.event.ResponseStatus == nil {
		r.event.ResponseStatus = &metav1.Status{Code: http.StatusOK, Status: metav1.StatusSuccess, Message: "Connection closed early"}
	}
	r.write(stageComplete)
}

// panicked replaces ended if there was a panic.
func (r *auditRecord) panicked(cause any) {
	if r == nil {
		return
	}
	status := apierrors.NewInternalError(fmt.Errorf("APIServer panic'd: %v", cause)).ErrStatus
	r.event.ResponseStatus = &status
	r.write(stagePanic)
	r.refused = true // nothing comes after
}

// write writes the event as it is now.
func (r *auditRecord) write(stage auditStage) {
	if slices.Contains(r.verdict.omitStages, stage) {
		return
	}
	r.event.Stage, r.event.StageTimestamp = stage, metav1.NowMicro()
	line, err := json.Marshal(&r.event)
	a := r.auditor
	a.metrics.auditEvents.Inc()
	if err == nil {
		a.mu.Lock()
		_, err = a.out.Write(append(line, '\n'))
		a.mu.Unlock()
	}
	if err != nil {
		a.metrics.auditErrors.WithLabelValues("log").Inc()
		a.log.Error("Cannot write an audit event", "key", r.event.AuditID, "err", err)
	}
}
