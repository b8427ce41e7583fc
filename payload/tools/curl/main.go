// Command curl fetches a URL, with curl's most used options.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"tinykube.local/tools/fetch"
)

// Exit statuses that scripts look at.
//
// Upstream: curl(1) §EXIT CODES.
const (
	exitUsage   = 2
	exitResolve = 6
	exitConnect = 7
	exitStatus  = 22
)

func main() {
	flags := pflag.NewFlagSet("curl", pflag.ExitOnError)
	request := fetch.Request{}
	flags.StringVarP(&request.Method, "request", "X", "", "method")
	data := flags.StringArrayP("data", "d", nil, "body; @FILE reads it from a file")
	flags.StringArrayVarP(&request.Headers, "header", "H", nil, `"Name: value"`)
	flags.StringVarP(&request.User, "user", "u", "", "name:password")
	flags.BoolVarP(&request.Insecure, "insecure", "k", false, "believe any certificate")
	flags.BoolVarP(&request.FollowRedirects, "location", "L", false, "follow redirects")
	flags.BoolVarP(&request.ShowHeaders, "include", "i", false, "print the answer's headers")
	head := flags.BoolP("head", "I", false, "ask for the headers only")
	flags.BoolVarP(&request.FailOnError, "fail", "f", false, "fail on a status of 400 and more")
	flags.StringVarP(&request.Output, "output", "o", "", "file to write")
	silent := flags.BoolP("silent", "s", false, "print no errors")
	showError := flags.BoolP("show-error", "S", false, "print errors although silent")
	verbose := flags.BoolP("verbose", "v", false, "say what happens")
	total := flags.Float64P("max-time", "m", 0, "seconds for everything")
	connect := flags.Float64("connect-timeout", 0, "seconds for the connection")
	format := flags.StringP("write-out", "w", "", "what to print at the end: %{http_code}, %{size_download}, %{time_total}")
	_ = flags.Parse(os.Args[1:]) // ExitOnError
	if flags.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "curl: no URL given")
		os.Exit(exitUsage)
	}
	request.Timeout, request.ConnectTimeout = seconds(*total), seconds(*connect)
	if *verbose {
		request.Trace = os.Stderr
	}
	if err := setBody(&request, *data, *head); err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		os.Exit(exitUsage)
	}
	status := 0
	for _, url := range flags.Args() {
		request.URL = url
		result, err := fetch.Do(context.Background(), request)
		if err != nil {
			if !*silent || *showError {
				fmt.Fprintln(os.Stderr, "curl:", err)
			}
			status = statusOf(err)
		}
		fmt.Print(strings.NewReplacer(`\n`, "\n", `\t`, "\t", "%{http_code}", fmt.Sprintf("%03d", result.Status), "%{size_download}",
			strconv.FormatInt(result.Size, 10), "%{time_total}", fmt.Sprintf("%.6f", result.Took.Seconds())).Replace(*format))
	}
	os.Exit(status)
}

// setBody fills in the body and the method that follows from it.
func setBody(request *fetch.Request, data []string, head bool) error {
	for i, part := range data {
		if name, isFile := strings.CutPrefix(part, "@"); isFile {
			if name == "-" {
				name = "/dev/stdin"
			}
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			data[i] = string(content)
		}
	}
	request.Body = strings.Join(data, "&")
	switch {
	case request.Method != "":
	case head:
		request.Method, request.ShowHeaders = "HEAD", true
	case len(data) > 0:
		request.Method = "POST"
	default:
		request.Method = "GET"
	}
	if len(data) > 0 {
		request.Headers = append(request.Headers, contentType(request.Headers)...)
	}
	return nil
}

// contentType is the header that goes with a body unless the user gave one.
func contentType(headers []string) []string {
	for _, header := range headers {
		if strings.HasPrefix(strings.ToLower(header), "content-type:") {
			return nil
		}
	}
	return []string{"Content-Type: application/x-www-form-urlencoded"}
}

func statusOf(err error) int {
	var status fetch.StatusError
	switch {
	case errors.As(err, &status):
		return exitStatus
	case strings.Contains(err.Error(), "no such host"):
		return exitResolve
	}
	return exitConnect
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }
