package cron

import (
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		schedule, after, want string
		zone                  *time.Location
	}{
		{"*/15 * * * *", "2026-01-01T12:00:00Z", "2026-01-01T12:15:00Z", time.UTC},
		{"*/15 * * * *", "2026-01-01T12:59:59Z", "2026-01-01T13:00:00Z", time.UTC},
		{"0 3 * * *", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z", time.UTC},
		{"30 4 1 * *", "2026-12-15T00:00:00Z", "2027-01-01T04:30:00Z", time.UTC},
		{"0 0 * * mon-fri", "2026-11-20T10:00:00Z", "2026-11-23T00:00:00Z", time.UTC},
		// Two fields that are no stars: either is enough.
		{"0 0 13 * fri", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z", time.UTC},
		{"0 0 13 * *", "2026-11-01T00:00:00Z", "2026-11-13T00:00:00Z", time.UTC},
		// A step is no star.
		{"0 0 */10 * fri", "2026-11-01T00:00:00Z", "2026-11-06T00:00:00Z", time.UTC},
		{"0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z", time.UTC},
		{"0 0 30 2 *", "2026-01-01T00:00:00Z", "", time.UTC},
		{"5/20 * * * *", "2026-01-01T12:00:00Z", "2026-01-01T12:05:00Z", time.UTC},
		{"@hourly", "2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z", time.UTC},
		{"@every 90s", "2026-01-01T12:00:00Z", "2026-01-01T12:01:30Z", time.UTC},
		{"0 9 * * *", "2026-07-01T00:00:00Z", "2026-07-01T07:00:00Z", berlin},
		{"TZ=Europe/Berlin 0 9 * * *", "2026-01-01T00:00:00Z", "2026-01-01T08:00:00Z", time.UTC},
		// 02:30 does not exist on 2026-03-29 in Berlin, and exists twice on 2026-10-25.
		{"30 2 * * *", "2026-03-28T12:00:00Z", "2026-03-30T00:30:00Z", berlin},
		{"30 2 * * *", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z", berlin},
		{"30 2 * * *", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", berlin},
		{"0 12 * * *", "2026-10-24T12:00:00Z", "2026-10-25T11:00:00Z", berlin},
	} {
		s, err := Parse(test.schedule, test.zone)
		if err != nil {
			t.Errorf("%s: %v", test.schedule, err)
			continue
		}
		after, _ := time.Parse(time.RFC3339, test.after)
		got := ""
		if next := s.Next(after); !next.IsZero() {
			got = next.Format(time.RFC3339)
		}
		if got != test.want {
			t.Errorf("%s after %s is %s, want %s", test.schedule, test.after, got, test.want)
		}
	}
}

// A zone whose day has no midnight: Santiago's clocks go from 24:00 to 01:00.
func TestNextWithoutMidnight(t *testing.T) {
	santiago, err := time.LoadLocation("America/Santiago")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse("30 1 * * *", santiago)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	for range 10 {
		next := s.Next(at)
		if d := next.Sub(at); d <= 0 || d > 26*time.Hour {
			t.Fatalf("after %s comes %s", at, next)
		}
		at = next
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"*/5 * * * *", "0 0 1,15 * mon-fri", "@daily", "@every 1h", "TZ=UTC 0 0 * * *", "1-70/0 a b c d"} {
		f.Add(seed)
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, schedule string) {
		s, err := Parse(schedule, time.UTC)
		if err != nil {
			return
		}
		if next := s.Next(start); !next.IsZero() && !next.After(start) {
			t.Errorf("%q after %s is %s", schedule, start, next)
		}
	})
}
