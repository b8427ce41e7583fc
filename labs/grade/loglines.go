package grade

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// logLines judges lab 12: how a line of a container's log is read. Checks write
// the file, as a runtime would, and ask the reader's kubelet for the log, as an
// API server would.
var logLines = suite{
	programs: []string{"kubelet"},
	open: func(ctx context.Context, b *bench) error {
		if err := withCluster(ctx, b); err != nil {
			return err
		}
		return b.make(ctx, "talks", "containers: [{name: a, image: x, command: [run]}]")
	},
	checks: []Check{
		{
			Name: wholeLine, Points: 2, run: reads("", "04Z stdout F one  two \n05Z stdout F three stdout F four\n", "one  two \nthree stdout F four\n"),
			Hint: "three blanks divide the head from the text; the text is everything behind the third, and ends in a newline",
		},
		{
			Name: "parts of a line become one line", Points: 2, Needs: []string{wholeLine},
			run: reads("", "04Z stdout P no\n05Z stdout P  end\n06Z stdout F  yet\n07Z stdout F next\n", "no end yet\nnext\n"), Hint: "P: partial, and no newline",
		},
		{
			Name: "an empty line is a line, also if the blank before it is missing", Points: 1, Needs: []string{wholeLine},
			run: reads("", "04Z stdout F \n05Z stdout F\n06Z stdout F x\n", "\n\nx\n"), Hint: "three fields are enough; the fourth may be missing",
		},
		{
			Name: "there may be more than one tag", Points: 1, Needs: []string{wholeLine},
			run: reads("", "04Z stdout P:new no\n05Z stdout new:F  end\n06Z stdout x:P a\n07Z stdout F b\n", "no end\nab\n"), Hint: "colons divide tags; one of them may be P",
		},
		{
			Name: "the time is there to the nanosecond, and only before whole lines", Points: 2, Needs: []string{wholeLine},
			run:  reads("timestamps=true", "04.000000005Z stdout P a\n05Z stdout F b\n06.1Z stderr F c\n", day+"04.000000005Z ab\n"+day+"06.100000000Z c\n"),
			Hint: "time.RFC3339Nano, into at",
		},
		{
			Name: "with a time since when, what is older is left out", Points: 1, Needs: []string{wholeLine},
			run:  reads("sinceTime="+day+"05Z", "04.9Z stdout F old\n05Z stdout F now\n06Z stdout F new\n", "now\nnew\n"),
			Hint: "at says when",
		},
		{
			Name: "what is no line is skipped, and what follows is read", Points: 1, Needs: []string{wholeLine},
			run:  reads("", "04Z stdout F a\n\nyesterday\nyesterday stdout F lies\n05Z stdout\n06Z stdout F b\n", "a\nb\n"),
			Hint: "too few fields, or a time that is none, is an error",
		},
	},
}

const (
	wholeLine = "a line is printed as it was, blanks and all"
	// day is when checks happen; in their scripts times begin with the second.
	day = "2026-01-02T03:04:"
)

// reads is a check in which the log has this content, and the answer to a query
// must be that.
func reads(query, content, want string) func(context.Context, *bench) error {
	lines := strings.SplitAfter(content, "\n")
	for i, line := range lines {
		if len(line) > 1 && line[0] == '0' {
			lines[i] = day + line
		}
	}
	return func(ctx context.Context, b *bench) error {
		file, err := b.logFile(ctx)
		if err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
			return err
		}
		got, err := b.kubeletLog(ctx, query)
		if err == nil && got != want {
			err = fmt.Errorf("the file\n%swas read as\n%s", strings.Join(lines, ""), cmp.Or(got, "nothing"))
		}
		return err
	}
}

// logFile is where our runtime would write what the container prints.
func (b *bench) logFile(ctx context.Context) (file string, err error) {
	err = b.ward.until(ctx, func() error {
		for _, c := range b.ward.runtime.Containers() {
			if c.Labels["io.kubernetes.pod.name"] == "talks" && c.State == stateRuns {
				file = c.LogPath
				return os.MkdirAll(filepath.Dir(file), 0o755)
			}
		}
		return errors.New("the container does not run")
	})
	return file, err
}

// kubeletLog asks the reader's kubelet for the log.
func (b *bench) kubeletLog(ctx context.Context, query string) (string, error) {
	pair, err := tls.LoadX509KeyPair(filepath.Join(b.scratch, "pki", "admin.crt"), filepath.Join(b.scratch, "pki", "admin.key"))
	if err != nil {
		return "", err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}, DisableKeepAlives: true}
	url := fmt.Sprintf("https://127.0.0.1:%d/containerLogs/%s/talks/a?%s", b.ward.port, namespace, query)
	var body bytes.Buffer
	err = b.ward.until(ctx, func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		body.Reset()
		if _, err = io.Copy(&body, response.Body); err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", response.Status, body.String())
		}
		return err
	})
	return body.String(), err
}
