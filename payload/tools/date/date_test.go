package main

import (
	"testing"
	"time"
)

func TestStrftime(t *testing.T) {
	when := time.Date(2031, time.February, 3, 4, 5, 6, 70_000_000, time.UTC)
	for format, want := range map[string]string{
		"%Y-%m-%d %H:%M:%S": "2031-02-03 04:05:06",
		"%FT%TZ":            "2031-02-03T04:05:06Z",
		"%s.%N":             "1927857906.070000000",
		"%a %b %e %j %Z":    "Mon Feb  3 034 UTC",
		"100%% %q %":        "100% %q %",
	} {
		if got := strftime(when, format); got != want {
			t.Errorf("%q: %q, want %q", format, got, want)
		}
	}
}
