package kubelet

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"tinykube/client"
)

// Who may use the node API: its callers could run commands in any container of
// the node, so nobody unknown gets further than a 401.
//
//	client certificate of the cluster's CA ─▶ user, groups ─┐
//	bearer token ─▶ TokenReview ───────────▶ user, groups ─┼▶ SubjectAccessReview
//	neither, if anonymous callers are let in ▶ anonymous ──┘  (or AlwaysAllow)
//
// Wrong credentials are never taken for none: they are a 401 in any case.
//
// Simplified: two identities are let in without a SubjectAccessReview, the
// administrators' group and the API server's own client certificate, so that
// logs and exec work while the API server cannot answer reviews. Removing them
// from RBAC therefore has no effect here.
type authenticator struct {
	roots    *x509.CertPool
	client   *client.Client // nil: no reviews
	settings ServerConfig
	nodeName string
	reviews  *cache.LRUExpireCache // answers to what was asked, by a hash: no token is kept
}

type identity struct {
	name, uid string
	groups    []string
	extra     map[string]authorizationv1.ExtraValue
}

// reviewLimit is how many answers are kept.
const reviewLimit = 10000

// trustedGroups and trustedUser are the stand-in described above.
var trustedGroups = []string{"system:masters", "kubeadm:cluster-admins"}

const trustedUser = "kube-apiserver-kubelet-client"

func (k *Kubelet) newAuthenticator() (*authenticator, error) {
	a := &authenticator{client: k.client, settings: k.cfg.Server, nodeName: k.cfg.NodeName, reviews: cache.NewLRUExpireCache(reviewLimit)}
	if file := k.cfg.Server.ClientCAFile; file != "" {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("client CA: %w", err)
		}
		a.roots = x509.NewCertPool()
		if !a.roots.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("client CA %s: no certificate in it", file)
		}
	}
	return a, nil
}

// wrap lets a request pass only from a known caller who is allowed to make it.
// Some paths have two names in RBAC; either will do.
func (a *authenticator) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := a.authenticate(r)
		if err != nil || user == nil {
			say(w, http.StatusUnauthorized, "Unauthorized")
			return
		}
		verb, subresources := requestAttributes(r)
		for _, subresource := range subresources {
			allowed, err := a.authorize(r.Context(), user, verb, subresource)
			if err != nil {
				say(w, http.StatusInternalServerError, "Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", user.name, verb, subresource)
				return
			}
			if allowed {
				next.ServeHTTP(w, r)
				return
			}
		}
		say(w, http.StatusForbidden, "Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)\n", user.name, verb, subresources)
	})
}

func (a *authenticator) authenticate(r *http.Request) (*identity, error) {
	user, wrong := a.byCertificate(r)
	if user == nil {
		var err error
		user, err = a.byToken(r)
		wrong = errors.Join(wrong, err)
	}
	if user == nil && wrong == nil && a.settings.Anonymous {
		user = &identity{name: "system:anonymous", groups: []string{"system:unauthenticated"}}
	}
	if user != nil {
		return user, nil
	}
	return nil, wrong
}

func (a *authenticator) byCertificate(r *http.Request) (*identity, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || a.roots == nil {
		return nil, nil
	}
	leaf, others := r.TLS.PeerCertificates[0], x509.NewCertPool()
	for _, c := range r.TLS.PeerCertificates[1:] {
		others.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: a.roots, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil || leaf.Subject.CommonName == "" {
		return nil, err
	}
	groups := append(slices.Clone(leaf.Subject.Organization), "system:authenticated")
	return &identity{name: leaf.Subject.CommonName, groups: groups}, nil
}

func (a *authenticator) byToken(r *http.Request) (*identity, error) {
	words := strings.Fields(r.Header.Get("Authorization"))
	if len(words) < 2 || !strings.EqualFold(words[0], "Bearer") || !a.settings.WebhookAuthentication || a.client == nil {
		return nil, nil
	}
	user, err := a.reviewToken(r.Context(), words[1])
	if user == nil && err == nil {
		err = errors.New("invalid bearer token")
	}
	return user, err
}

func (a *authenticator) reviewToken(ctx context.Context, token string) (*identity, error) {
	key := sha256.Sum256([]byte("token\x00" + token))
	if known, found := a.reviews.Get(key); found {
		return known.(*identity), nil
	}
	request := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	request.APIVersion, request.Kind = "authentication.k8s.io/v1", "TokenReview"
	var answer authenticationv1.TokenReview
	err := a.client.DoInto(ctx, client.Request{Method: http.MethodPost, Path: "/apis/authentication.k8s.io/v1/tokenreviews"}, request, &answer)
	if err != nil {
		return nil, err
	}
	var user *identity // nil: the token is nobody's
	if u := answer.Status.User; answer.Status.Authenticated {
		user = &identity{name: u.Username, uid: u.UID, groups: u.Groups, extra: map[string]authorizationv1.ExtraValue{}}
		for name, values := range u.Extra {
			user.extra[name] = authorizationv1.ExtraValue(values)
		}
	}
	a.reviews.Add(key, user, a.settings.TokenTTL)
	return user, nil
}

func (a *authenticator) authorize(ctx context.Context, user *identity, verb, subresource string) (allowed bool, err error) {
	if a.settings.AuthorizationMode == string(kubeletv1beta1.KubeletAuthorizationModeAlwaysAllow) || user.name == trustedUser || slices.ContainsFunc(trustedGroups, func(g string) bool { return slices.Contains(user.groups, g) }) {
		return true, nil
	}
	if a.client == nil {
		return false, nil // nobody to ask; startup has warned
	}
	key := sha256.Sum256([]byte(strings.Join(append([]string{"access", user.name, user.uid, verb, subresource}, user.groups...), "\x00")))
	if known, found := a.reviews.Get(key); found {
		return known.(bool), nil
	}
	request := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user.name, UID: user.uid, Groups: user.groups, Extra: user.extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.nodeName}}}
	request.APIVersion, request.Kind = "authorization.k8s.io/v1", "SubjectAccessReview"
	var answer authorizationv1.SubjectAccessReview
	err = a.client.DoInto(ctx, client.Request{Method: http.MethodPost, Path: "/apis/authorization.k8s.io/v1/subjectaccessreviews"}, request, &answer)
	if err != nil {
		return false, err
	}
	kept := a.settings.DeniedTTL
	if answer.Status.Allowed {
		kept = a.settings.AllowedTTL
	}
	a.reviews.Add(key, answer.Status.Allowed, kept)
	return answer.Status.Allowed, nil
}

// requestAttributes maps a request to what RBAC speaks of: a verb on a
// subresource of nodes. What only looks has a name of its own, so that who
// reads /pods need not be given proxy, which runs commands.
//
// Simplified: exec and attach want create even as GET, which is how a WebSocket
// starts; upstream's kubelet lets who may get nodes/proxy run commands that way.
//
// Upstream: kubernetes@v1.36 pkg/kubelet/server/auth.go.
func requestAttributes(r *http.Request) (verb string, subresources []string) {
	verb = map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch",
		http.MethodDelete: "delete"}[r.Method]
	for _, row := range []struct {
		prefix string
		names  []string
	}{
		{"/stats", []string{"stats"}}, {"/metrics", []string{"metrics"}}, {"/logs", []string{"log"}}, {"/checkpoint", []string{"checkpoint"}},
		{"/statusz", []string{"statusz"}}, {"/flagz", []string{"configz"}},
		{"/pods", []string{"pods", "proxy"}}, {"/runningpods", []string{"pods", "proxy"}},
		{"/healthz", []string{"healthz", "proxy"}}, {"/configz", []string{"configz", "proxy"}},
	} {
		if r.URL.Path == row.prefix || strings.HasPrefix(r.URL.Path, row.prefix+"/") {
			return verb, row.names
		}
	}
	for _, streams := range []string{"/exec/", "/attach/", "/portForward/"} {
		if strings.HasPrefix(r.URL.Path, streams) {
			verb = "create"
		}
	}
	return verb, []string{"proxy"}
}
