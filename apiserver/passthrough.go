package apiserver

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/proxy"
)

// passage is how a request is passed on to somebody else.
type passage struct {
	transport http.RoundTripper
	to        *url.URL
	// check may make an error of the other's answer.
	check func(*http.Response) error
	// dialError is the error of an other that cannot be reached; nil is the
	// kubelet's.
	dialError func(to string, err error) error
	// sign adds to the headers of the request.
	sign func(http.Header)
	// prefix is the path at which the other's pages appear to be; links and
	// redirections in its answers are changed to lead there. "" changes nothing.
	prefix string
}

// passThrough lets somebody else answer, with or without an upgrade. It lasts
// as long as both like, or until we stop.
func (s *Server) passThrough(q *request, p passage) error {
	ctx, done := s.streams.begin(q.Context())
	defer done()
	transport := p.transport
	if p.prefix != "" {
		transport = &proxy.Transport{Scheme: "https", Host: q.Host, PathPrepend: p.prefix, RoundTripper: p.transport}
	}
	relay := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // a followed log is read line by line
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL, r.Out.Host = p.to, r.In.Host
			r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			r.SetXForwarded()
			s.dropProofs(r.Out.Header)
			if p.sign != nil {
				p.sign(r.Out.Header)
			}
		},
		ModifyResponse: func(answer *http.Response) error {
			if p.check != nil {
				if err := p.check(answer); err != nil {
					return err
				}
			}
			if answer.StatusCode == http.StatusSwitchingProtocols {
				q.w.began(answer.StatusCode) // what follows is not HTTP
			}
			return nil
		},
		ErrorLog: slogLogger(s.log),
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			var status apierrors.APIStatus
			switch {
			case errors.As(err, &status):
				q.fail(err)
			case p.dialError != nil:
				q.fail(p.dialError(p.to.String(), err))
			default:
				q.fail(apierrors.NewInternalError(fmt.Errorf("error dialing backend: %w", err)))
			}
		},
	}
	relay.ServeHTTP(q.w, q.Request.WithContext(ctx))
	return nil
}

// dropProofs takes out of a request what proves who sent it: that is for us
// alone, and must not be shown to a pod.
func (s *Server) dropProofs(header http.Header) {
	header.Del("Authorization")
	cfg := &s.cfg.RequestHeader
	for name := range header {
		_, impersonates := cutPrefixFold(name, "Impersonate-")
		drop := impersonates
		for _, prefix := range cfg.ExtraPrefixes {
			_, extra := cutPrefixFold(name, prefix)
			drop = drop || extra
		}
		for _, names := range [][]string{cfg.UsernameHeaders, cfg.UIDHeaders, cfg.GroupHeaders} {
			for _, one := range names {
				drop = drop || strings.EqualFold(name, one)
			}
		}
		if drop {
			delete(header, name)
		}
	}
}
