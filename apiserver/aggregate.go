package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"tinykube/api/extensions"
	"tinykube/apiserver/resources"
	"tinykube/apiserver/storage"
)

// A group and version may be somebody else's: an APIService names a Service,
// and what is asked of /apis/GROUP/VERSION is passed on to it.
//
//	kubectl top ──▶ authentication, authorization, room ──▶ Service metrics-server
//	                 here, as for everything                 our certificate, and
//	                                                         X-Remote-User: ada
//
// The other server takes our word for who asks, because it trusts the CA of
// our certificate for this one thing (the front proxy's CA). It decides itself
// what that user may do there.
//
// A loop asks each such server for the list of its resources, which is also
// the check whether it is well: the answer goes into discovery, and the
// condition Available into the APIService.
//
// Simplified: a group version that is built in stays so; the other's OpenAPI
// is not merged into ours, so kubectl explain does not know its kinds.
// Upstream: kubernetes@v1.36 k8s.io/kube-aggregator/pkg/apiserver

const (
	// askPatience bounds one check; a check that failed is soon repeated.
	askPatience   = 5 * time.Second
	askEvery      = 10 * time.Second
	askEveryAgain = time.Second
	// longestList bounds what another server may say of its resources.
	longestList = 1 << 20
)

// remoteServer is another API server, for one group and version. All but what
// was found stays as it is.
type remoteServer struct {
	name      string // of the APIService
	spec      extensions.APIServiceSpec
	transport http.RoundTripper
	found     atomic.Pointer[finding]
}

// finding is what the last check of a server brought.
type finding struct {
	condition extensions.APIServiceCondition
	resources []*resources.Row // kept from before if it did not answer
}

// AggregatorConfig is who we are to other API servers.
type AggregatorConfig struct {
	CertFile, KeyFile string
	// Endpoints are dialled instead of the Service's address.
	Endpoints bool
}

func groupVersion(group, version string) string { return group + "/" + version }

// aggregate compares the APIServices with the servers that we pass requests
// to. It asks nobody.
func (s *Server) aggregate(state *extensionState) error {
	remote := map[string]*remoteServer{}
	priority := map[string]int32{}
	var listed []*resources.Row
	for _, service := range allCached[*extensions.APIService](s, extensions.ServiceGroup, "apiservices", "") {
		spec := &service.Spec
		key := groupVersion(spec.Group, spec.Version)
		if spec.Service == nil || s.isBuiltIn(spec.Group, spec.Version) {
			continue
		}
		known := state.remote[key]
		if known == nil || !reflect.DeepEqual(known.spec, *spec) {
			transport, err := s.transportTo(spec)
			if err != nil {
				return fmt.Errorf("APIService %s: %w", service.Name, err)
			}
			known = &remoteServer{name: service.Name, spec: *spec, transport: transport}
		}
		remote[key] = known
		priority[spec.Group] = max(priority[spec.Group], spec.GroupPriorityMinimum)
		listed = append(listed, known.rows()...)
	}
	if maps.Equal(remote, state.remote) && slices.Equal(listed, state.listed) {
		return nil
	}
	state.remote, state.priority, state.listed = remote, priority, listed
	s.install(state.extra)
	nudge(s.ask)
	return nil
}

func (s *Server) isBuiltIn(group, version string) bool {
	return slices.ContainsFunc(s.allRows, func(row *resources.Row) bool { return row.Group == group && row.Version == version })
}

// rows are what discovery lists of it. A row without a name stands for a
// version of which nothing is known.
func (r *remoteServer) rows() []*resources.Row {
	if found := r.found.Load(); found != nil && len(found.resources) > 0 {
		return found.resources
	}
	return []*resources.Row{{Group: r.spec.Group, Version: r.spec.Version}}
}

// transportTo shows our certificate, and wants to see the Service's.
func (s *Server) transportTo(spec *extensions.APIServiceSpec) (http.RoundTripper, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, InsecureSkipVerify: spec.InsecureSkipTLSVerify,
		ServerName: spec.Service.Name + "." + spec.Service.Namespace + ".svc",
	}
	if len(spec.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(spec.CABundle) {
			return nil, fmt.Errorf("spec.caBundle holds no certificate in PEM")
		}
	}
	if cfg := s.cfg.Aggregator; cfg.CertFile != "" {
		own := &reloader{certFile: cfg.CertFile, keyFile: cfg.KeyFile}
		if _, err := own.get(nil); err != nil {
			return nil, fmt.Errorf("certificate for other API servers: %w", err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.get(nil) }
	}
	return transportFor(config, s.cfg.Kubelet.Dial, &net.Dialer{Timeout: askPatience}), nil
}

// elsewhere is the server that a path belongs to, or nil.
func (s *Server) elsewhere(path string) *remoteServer {
	remote := s.served.Load().remote
	if len(remote) == 0 {
		return nil
	}
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 4)
	if len(parts) < 3 || parts[0] != "apis" {
		return nil
	}
	return remote[groupVersion(parts[1], parts[2])]
}

// askElsewhere passes a request on, and says whose it is.
func (s *Server) askElsewhere(q *request, other *remoteServer) error {
	found := other.found.Load()
	if found == nil || found.condition.Status != metav1.ConditionTrue {
		return errUnavailable
	}
	host, problem := s.locate(other)
	if problem != nil {
		return errUnavailable
	}
	to := *q.URL
	to.Scheme, to.Host = "https", host
	return s.passThrough(q, passage{
		transport: other.transport, to: &to,
		sign: func(header http.Header) { signFor(header, q.user) },
		dialError: func(_ string, err error) error {
			nudge(s.ask) // it may not be well
			return &plainError{http.StatusServiceUnavailable, err.Error()}
		},
	})
}

// signFor says in headers who asks.
// Upstream: kubernetes@v1.36 k8s.io/client-go/transport/round_trippers.go SetAuthProxyHeaders
func signFor(header http.Header, u *user) {
	header.Set("X-Remote-User", u.name)
	if u.uid != "" {
		header.Set("X-Remote-Uid", u.uid)
	}
	header["X-Remote-Group"] = u.groups
	for key, values := range u.extra {
		// What may not stand in a header's name travels percent-encoded.
		header[http.CanonicalHeaderKey("X-Remote-Extra-"+url.PathEscape(strings.ToLower(key)))] = values
	}
}

// locate finds the address of a server's Service; what is wrong otherwise is
// told as the APIService's condition.
// Upstream: kubernetes@v1.36 k8s.io/kube-aggregator/pkg/controllers/status/remote/remote_available_controller.go sync
func (s *Server) locate(other *remoteServer) (host string, problem *extensions.APIServiceCondition) {
	ref := other.spec.Service
	wrong := func(reason, format string, args ...any) (string, *extensions.APIServiceCondition) {
		return "", &extensions.APIServiceCondition{Status: metav1.ConditionFalse, Reason: reason, Message: fmt.Sprintf(format, args...)}
	}
	service, ok := cached[*corev1.Service](s, "", "services", storage.Key(ref.Namespace, ref.Name))
	if !ok {
		return wrong("ServiceNotFound", "service/%s in %q is not present", ref.Name, ref.Namespace)
	}
	port := strconv.Itoa(int(*ref.Port))
	if service.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(service.Spec.ExternalName, port), nil
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == *ref.Port })
	if i < 0 {
		return wrong("ServicePortError", "service/%s in %q is not listening on port %d", ref.Name, ref.Namespace, *ref.Port)
	}
	name := service.Spec.Ports[i].Name
	// Who may write APIServices may lead us anywhere anyhow.
	hosts := s.endpointsOf(service, name, func(string, *discoveryv1.Endpoint) bool { return true })
	if len(hosts) == 0 {
		return wrong("MissingEndpoints", "endpoints for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, name)
	}
	if s.cfg.Aggregator.Endpoints || service.Spec.ClusterIP == corev1.ClusterIPNone {
		return hosts[rand.N(len(hosts))], nil
	}
	return net.JoinHostPort(service.Spec.ClusterIP, port), nil
}

// watchOthers checks all other servers, until ctx ends.
func (s *Server) watchOthers(ctx context.Context) error {
	for ctx.Err() == nil {
		wait := askEvery
		var checks sync.WaitGroup
		for _, other := range s.served.Load().remote {
			checks.Go(func() { s.check(ctx, other) })
		}
		checks.Wait()
		for _, other := range s.served.Load().remote {
			if found := other.found.Load(); found == nil || found.condition.Status != metav1.ConditionTrue {
				wait = askEveryAgain
			}
		}
		select {
		case <-s.ask:
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	return nil
}

// check finds out about one server, and writes it down.
func (s *Server) check(ctx context.Context, other *remoteServer) {
	before := other.found.Load()
	now := &finding{}
	host, problem := s.locate(other)
	if problem == nil {
		now.resources, problem = s.examine(ctx, other, host)
	}
	now.condition = *problem
	now.condition.LastTransitionTime = metav1.Now().Rfc3339Copy()
	if before != nil && (now.resources == nil || describesSame(before.resources, now.resources)) {
		now.resources = before.resources
	}
	if ctx.Err() != nil {
		return
	}
	other.found.Store(now)
	if before == nil || !slices.Equal(before.resources, now.resources) {
		nudge(s.learned)
	}
	if err := s.writeAvailable(ctx, other.name, now.condition); err != nil && ctx.Err() == nil {
		s.log.Warn("Cannot write whether an APIService is available, will retry", "key", other.name, "err", err)
	}
}

// nudge wakes who waits at a channel with one place.
func nudge(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

func describesSame(a, b []*resources.Row) bool {
	return slices.EqualFunc(a, b, func(a, b *resources.Row) bool { return reflect.DeepEqual(a, b) })
}

// examine asks a server what it has.
func (s *Server) examine(ctx context.Context, other *remoteServer, host string) ([]*resources.Row, *extensions.APIServiceCondition) {
	address := "https://" + host + "/apis/" + groupVersion(other.spec.Group, other.spec.Version)
	failed := func(err error) ([]*resources.Row, *extensions.APIServiceCondition) {
		return nil, &extensions.APIServiceCondition{
			Status: metav1.ConditionFalse, Reason: "FailedDiscoveryCheck", Message: fmt.Sprintf("failing or missing response from %s: %v", address, err),
		}
	}
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return failed(err)
	}
	signFor(request.Header, &user{name: "system:kube-aggregator", groups: []string{groupMasters}})
	client := &http.Client{Transport: other.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return failed(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode < 200 || answer.StatusCode >= 300 {
		return failed(fmt.Errorf("bad status from %s: %d", address, answer.StatusCode))
	}
	var list metav1.APIResourceList
	if err := json.NewDecoder(io.LimitReader(answer.Body, longestList)).Decode(&list); err != nil {
		return failed(fmt.Errorf("cannot read the list of resources: %w", err))
	}
	return rowsOf(&other.spec, &list), &extensions.APIServiceCondition{Status: metav1.ConditionTrue, Reason: "Passed", Message: "all checks passed"}
}

// rowsOf makes rows that discovery can list of what another server says.
func rowsOf(spec *extensions.APIServiceSpec, list *metav1.APIResourceList) []*resources.Row {
	var rows []*resources.Row
	for i := range list.APIResources {
		r := &list.APIResources[i]
		if plural, sub, ok := strings.Cut(r.Name, "/"); ok {
			owner := slices.IndexFunc(rows, func(row *resources.Row) bool { return row.Plural == plural })
			if owner >= 0 {
				rows[owner].Subresources = append(rows[owner].Subresources,
					resources.Subresource{Name: sub, Group: r.Group, Version: r.Version, Kind: r.Kind, Verbs: r.Verbs})
			}
			continue
		}
		rows = append(rows, &resources.Row{
			Group: spec.Group, Version: spec.Version, Plural: r.Name, Singular: r.SingularName, Kind: r.Kind,
			Namespaced: r.Namespaced, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
		})
	}
	return rows
}

// writeAvailable stores an APIService's condition if it says something new.
func (s *Server) writeAvailable(ctx context.Context, name string, condition extensions.APIServiceCondition) error {
	service, ok := cached[*extensions.APIService](s, extensions.ServiceGroup, "apiservices", name)
	if !ok {
		return nil
	}
	if i := slices.IndexFunc(service.Status.Conditions, func(c extensions.APIServiceCondition) bool { return c.Type == extensions.Available }); i >= 0 {
		old := service.Status.Conditions[i]
		if old.Status == condition.Status && old.Reason == condition.Reason && old.Message == condition.Message {
			return nil
		}
	}
	q := s.internal(ctx, s.tableOf(extensions.ServiceGroup, "apiservices").Row(), "", name)
	q.subresource = "status"
	_, err := s.updateObject(q, func(current resources.Object) (resources.Object, error) {
		next := current.DeepCopyObject().(*extensions.APIService)
		next.SetAvailable(condition)
		return next, nil
	})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // it changed; the next check will say it
	}
	return err
}
