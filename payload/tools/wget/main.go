// Command wget fetches a URL into a file, with the options that busybox's wget has.
package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path"
	"time"

	"github.com/spf13/pflag"

	"tinykube.local/tools/fetch"
)

func main() {
	flags := pflag.NewFlagSet("wget", pflag.ExitOnError)
	request := fetch.Request{Method: "GET", FollowRedirects: true, FailOnError: true}
	flags.StringVarP(&request.Output, "output-document", "O", "", "file to write; - is standard output")
	quiet := flags.BoolP("quiet", "q", false, "print no messages")
	flags.BoolVarP(&request.ShowHeaders, "server-response", "S", false, "print the answer's headers")
	flags.StringArrayVar(&request.Headers, "header", nil, `"Name: value"`)
	flags.BoolVar(&request.Insecure, "no-check-certificate", false, "believe any certificate")
	flags.StringVar(&request.Body, "post-data", "", "send this with POST")
	spider := flags.Bool("spider", false, "only ask whether it is there")
	timeout := flags.IntP("timeout", "T", 0, "seconds for everything")
	flags.IntP("tries", "t", 1, "accepted, and always 1")
	_ = flags.Parse(os.Args[1:]) // ExitOnError
	if flags.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: wget [-q] [-O FILE] [-T SECONDS] URL")
		os.Exit(1)
	}
	request.URL, request.Timeout = flags.Arg(0), time.Duration(*timeout)*time.Second
	switch {
	case *spider:
		request.Method, request.Output = "HEAD", "-"
	case request.Body != "":
		request.Method = "POST"
	}
	if request.Output == "" {
		request.Output = fileFor(request.URL)
	}
	result, err := fetch.Do(context.Background(), request)
	if err != nil {
		fmt.Fprintln(os.Stderr, "wget:", err)
		os.Exit(1)
	}
	if !*quiet && request.Output != "-" {
		fmt.Fprintf(os.Stderr, "'%s' saved, %d bytes\n", request.Output, result.Size)
	}
}

// fileFor names the file after the last element of the URL's path.
func fileFor(address string) string {
	parsed, err := url.Parse(address)
	if err != nil || path.Base(parsed.Path) == "." || path.Base(parsed.Path) == "/" {
		return "index.html"
	}
	return path.Base(parsed.Path)
}
