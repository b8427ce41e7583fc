package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	dialTimeout = 10 * time.Second
	// A peer that vanished without a FIN (its node lost power) would leave a
	// watch hanging for hours; HTTP/2 pings find it.
	pingAfterIdle = 15 * time.Second
	pingTimeout   = 10 * time.Second
	// tokenMaxAge bounds how long a rotated token goes unnoticed.
	tokenMaxAge = time.Minute
	// overloadRetries is how often a 429 is tried again; the server says when.
	overloadRetries = 10
	// maxErrorBody bounds what is read of an answer that is an error.
	maxErrorBody = 1 << 20
)

// Client sends requests to one API server. It is safe for concurrent use.
type Client struct {
	cfg   Config
	base  *url.URL
	http  *http.Client
	conns *connections // nil with a Transport of others

	answered func(method, code string)

	mu      sync.Mutex // guards token and tokenAt
	token   string
	tokenAt time.Time
}

// New makes a Client. It opens no connection yet.
func New(cfg *Config) (*Client, error) {
	base, err := url.Parse(cfg.Host)
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("API server %q is not a URL like https://HOST:6443", cfg.Host)
	}
	tlsConfig, err := cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	conns := &connections{dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: pingAfterIdle}, open: map[*connection]struct{}{}}
	c := &Client{cfg: *cfg, base: base, conns: conns}
	if c.cfg.UserAgent == "" {
		c.cfg.UserAgent = fmt.Sprintf("%s/tinykube (%s/%s)", filepath.Base(os.Args[0]), runtime.GOOS, runtime.GOARCH)
	}
	c.http = &http.Client{Transport: &http.Transport{
		TLSClientConfig:     tlsConfig,
		DialContext:         conns.dial,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfterIdle, PingTimeout: pingTimeout},
		// One machine or one rack: the wire is cheaper than gzip.
		DisableCompression: true,
	}}
	if cfg.Transport != nil {
		c.http.Transport, c.conns = cfg.Transport, nil
	}
	return c, nil
}

// OnAnswer has f told of every request: the status, or <error> if there was no
// answer. It is called before the first of them.
func (c *Client) OnAnswer(f func(method, code string)) { c.answered = f }

// Address is the API server's host and port.
func (c *Client) Address() string { return c.base.Host }

// Host is the API server's URL.
func (c *Client) Host() string { return c.cfg.Host }

// Request is one HTTP request. Path is absolute ("/api/v1/pods").
type Request struct {
	Method      string
	Path        string
	Query       url.Values
	Body        []byte
	ContentType string // default application/json
	Accept      string // default application/json
}

// Do sends a request and returns the answer if its status is 2xx; the caller
// closes the body. Any other status becomes an *apierrors.StatusError.
//
// Only 429 is tried again, because the server promises that it did nothing.
// After any other failure of a write its outcome is unknown, and only the
// caller can find out, by reading.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		response, err := c.send(ctx, r)
		if err != nil {
			return nil, err
		}
		if response.StatusCode/100 == 2 {
			return response, nil
		}
		err = statusError(response, r)
		if response.StatusCode != http.StatusTooManyRequests || attempt == overloadRetries {
			return nil, err
		}
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(max(seconds, 1)) * time.Second):
		}
	}
}

func (c *Client) send(ctx context.Context, r Request) (*http.Response, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + r.Path
	u.RawQuery = r.Query.Encode()
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, u.String(), body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", c.cfg.UserAgent)
	request.Header.Set("Accept", or(r.Accept, "application/json"))
	if r.Body != nil {
		request.Header.Set("Content-Type", or(r.ContentType, "application/json"))
	}
	token, err := c.bearerToken(ctx)
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := c.http.Do(request)
	if c.answered != nil {
		code := "<error>"
		if err == nil {
			code = strconv.Itoa(response.StatusCode)
		}
		c.answered(request.Method, code)
	}
	if err == nil && response.StatusCode == http.StatusUnauthorized && c.cfg.TokenSource != nil {
		c.cfg.TokenSource.Reject(token)
	}
	return response, err
}

func (c *Client) bearerToken(ctx context.Context) (string, error) {
	if c.cfg.TokenSource != nil {
		return c.cfg.TokenSource.Token(ctx)
	}
	if c.cfg.BearerTokenFile == "" {
		return c.cfg.BearerToken, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.tokenAt) > tokenMaxAge {
		raw, err := os.ReadFile(c.cfg.BearerTokenFile)
		if err != nil {
			return "", fmt.Errorf("bearer token: %w", err)
		}
		c.token, c.tokenAt = strings.TrimSpace(string(raw)), time.Now()
	}
	return c.token, nil
}

// statusError reads the Status that every Kubernetes error carries; a proxy in
// between may answer something else, of which we keep the code and the text.
func statusError(response *http.Response, r Request) error {
	defer response.Body.Close()
	raw, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody))
	var status metav1.Status
	isStatus := json.Unmarshal(raw, &status) == nil && status.Kind == "Status"
	if inProtobuf(response) { // a real API server says no in the form that was asked for
		isStatus = decodeProtobuf(raw, &status) == nil
	}
	if isStatus && status.Status == metav1.StatusFailure {
		return &apierrors.StatusError{ErrStatus: status}
	}
	e := apierrors.NewGenericServerResponse(response.StatusCode, r.Method,
		schema.GroupResource{Resource: r.Path}, "", strings.TrimSpace(string(raw)), 0, true)
	return e
}

// DoInto sends a request with in as its JSON body (if not nil) and decodes the
// answer into out (if not nil).
func (c *Client) DoInto(ctx context.Context, r Request, in, out any) error {
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		r.Body = body
	}
	response, err := c.Do(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	if out == nil {
		return nil
	}
	if err := decode(raw, out); err != nil {
		return fmt.Errorf("%s %s: %w", r.Method, r.Path, err)
	}
	return nil
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}
