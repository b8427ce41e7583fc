// Package fetch is the HTTP client behind the tools image's curl and wget: one request, described by plain values.
package fetch

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Request says what to fetch and what to do with the answer.
type Request struct {
	Method, URL, Body string
	Headers           []string // "Name: value"
	User              string   // "name:password" for basic authentication

	Insecure        bool // believe any certificate
	FollowRedirects bool
	ConnectTimeout  time.Duration // 0 is none
	Timeout         time.Duration // of everything; 0 is none

	ShowHeaders bool   // before the body
	FailOnError bool   // a status of 400 and more is an error, and its body is not shown
	Output      string // a file; empty or "-" is standard output
	Trace       io.Writer
}

// StatusError is an answer that FailOnError took for a failure.
type StatusError int

func (e StatusError) Error() string {
	return fmt.Sprintf("the requested URL returned error: %d", int(e))
}

// Result is what is known about an answer after it was read.
type Result struct {
	Status int
	Size   int64
	Took   time.Duration
}

// Do fetches.
func Do(ctx context.Context, r Request) (Result, error) {
	start := time.Now()
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	request, err := r.build(ctx)
	if err != nil {
		return Result{}, err
	}
	response, err := r.client().Do(request)
	if err != nil {
		return Result{}, err
	}
	defer response.Body.Close()
	result := Result{Status: response.StatusCode}
	if r.Trace != nil {
		fmt.Fprintf(r.Trace, "> %s %s %s\n< %s %s\n", request.Method, request.URL.RequestURI(), request.Proto, response.Proto, response.Status)
	}
	if r.FailOnError && response.StatusCode >= http.StatusBadRequest {
		return result, StatusError(response.StatusCode)
	}
	result.Size, err = r.write(response)
	result.Took = time.Since(start)
	return result, err
}

func (r Request) build(ctx context.Context) (*http.Request, error) {
	url := r.URL
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	request, err := http.NewRequestWithContext(ctx, r.Method, url, strings.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "tinykube-tools")
	for _, header := range r.Headers {
		name, value, _ := strings.Cut(header, ":")
		value = strings.TrimSpace(value)
		if strings.EqualFold(name, "Host") {
			request.Host = value
		}
		request.Header.Add(name, value)
	}
	if name, password, found := strings.Cut(r.User, ":"); found {
		request.SetBasicAuth(name, password)
	}
	return request, nil
}

func (r Request) client() *http.Client {
	client := &http.Client{Transport: &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		DialContext:       (&net.Dialer{Timeout: r.ConnectTimeout}).DialContext,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: r.Insecure},
		ForceAttemptHTTP2: true,
		DisableKeepAlives: true,
	}}
	if !r.FollowRedirects {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	return client
}

func (r Request) write(response *http.Response) (int64, error) {
	out := io.Writer(os.Stdout)
	if r.Output != "" && r.Output != "-" {
		file, err := os.Create(r.Output)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		out = file
	}
	if r.ShowHeaders {
		fmt.Fprintf(out, "%s %s\r\n", response.Proto, response.Status)
		if err := response.Header.Write(out); err != nil {
			return 0, err
		}
		fmt.Fprint(out, "\r\n")
	}
	return io.Copy(out, response.Body)
}
