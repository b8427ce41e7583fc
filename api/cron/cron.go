// Package cron reads the schedules of CronJobs and computes when they are due.
package cron

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the image that we run in has no zone files
)

// Schedule is a set of minutes, hours, days, months and weekdays, as bits.
type Schedule struct {
	sets [5]uint64
	// anyDay and anyWeekday say that the field is a star. If neither is, a day
	// that fits one of the two fields is enough.
	anyDay, anyWeekday bool
	every              time.Duration // of @every; above zero nothing else counts
	zone               *time.Location
}

// field is one of the five fields of a schedule.
type field struct {
	name     string
	min, max int
	words    map[string]int
}

const minute, hour, day, month, weekday = 0, 1, 2, 3, 4

var fields = [5]field{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of month", 1, 31, nil},
	{"month", 1, 12, words(1, "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")},
	{"day of week", 0, 6, words(0, "sun", "mon", "tue", "wed", "thu", "fri", "sat")},
}

// descriptors are the words for common schedules.
var descriptors = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

func words(from int, names ...string) map[string]int {
	out := map[string]int{}
	for i, name := range names {
		out[name] = from + i
	}
	return out
}

// Parse reads a schedule: five fields of numbers, names, ranges, lists and
// steps, or a word such as @daily. Without a TZ= of its own it is meant in
// zone.
//
// Spec: crontab(5), as github.com/robfig/cron/v3 reads it.
func Parse(schedule string, zone *time.Location) (*Schedule, error) {
	s := &Schedule{zone: zone}
	if prefix, rest, ok := strings.Cut(schedule, " "); ok && (strings.HasPrefix(prefix, "TZ=") || strings.HasPrefix(prefix, "CRON_TZ=")) {
		_, name, _ := strings.Cut(prefix, "=")
		var err error
		if s.zone, err = time.LoadLocation(name); err != nil {
			return nil, fmt.Errorf("provided bad location %s: %v", name, err)
		}
		schedule = strings.TrimSpace(rest)
	}
	if every, ok := strings.CutPrefix(schedule, "@every "); ok {
		period, err := time.ParseDuration(every)
		if err != nil {
			return nil, fmt.Errorf("failed to parse duration %s: %s", schedule, err)
		}
		s.every = max(period.Truncate(time.Second), time.Second)
		return s, nil
	}
	if strings.HasPrefix(schedule, "@") {
		meaning, ok := descriptors[schedule]
		if !ok {
			return nil, fmt.Errorf("unrecognized descriptor: %s", schedule)
		}
		schedule = meaning
	}
	texts := strings.Fields(schedule)
	if len(texts) != len(fields) {
		return nil, fmt.Errorf("expected exactly 5 fields, found %d: %v", len(texts), texts)
	}
	for i, text := range texts {
		for item := range strings.SplitSeq(text, ",") {
			bits, star, err := fields[i].parse(item)
			if err != nil {
				return nil, err
			}
			s.sets[i] |= bits
			s.anyDay = s.anyDay || star && i == day
			s.anyWeekday = s.anyWeekday || star && i == weekday
		}
	}
	return s, nil
}

// parse reads one item of a list: *, N, N-M, and a step after any of them.
func (f field) parse(item string) (bits uint64, star bool, err error) {
	span, stepText, stepped := strings.Cut(item, "/")
	if strings.Contains(stepText, "/") {
		return 0, false, fmt.Errorf("too many slashes: %s", item)
	}
	low, high, ranged := strings.Cut(span, "-")
	start, end, step := f.min, f.max, 1
	if star = low == "*" || low == "?"; !star {
		if strings.Contains(high, "-") {
			return 0, false, fmt.Errorf("too many hyphens: %s", item)
		}
		if start, err = f.number(low); err != nil {
			return 0, false, err
		}
		if !stepped {
			end = start
		}
		if ranged {
			if end, err = f.number(high); err != nil {
				return 0, false, err
			}
		}
	}
	if stepped {
		n, err := strconv.ParseUint(stepText, 10, 31)
		if err != nil {
			return 0, false, fmt.Errorf("failed to parse int from %s: %s", stepText, err)
		}
		if n == 0 {
			return 0, false, fmt.Errorf("step of range should be a positive number: %s", item)
		}
		step = int(n)
	}
	switch {
	case start < f.min:
		return 0, false, fmt.Errorf("beginning of range (%d) below minimum (%d): %s", start, f.min, item)
	case end > f.max:
		return 0, false, fmt.Errorf("end of range (%d) above maximum (%d): %s", end, f.max, item)
	case start > end:
		return 0, false, fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", start, end, item)
	}
	for n := start; n <= end; n += step {
		bits |= 1 << n
	}
	return bits, star && step == 1, nil
}

func (f field) number(text string) (int, error) {
	if n, ok := f.words[strings.ToLower(text)]; ok {
		return n, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("failed to parse int from %s: %s", text, err)
	}
	if n < 0 {
		return 0, fmt.Errorf("negative number (%d) not allowed: %s", n, text)
	}
	return n, nil
}

// horizon is how far Next looks: the 29th of February on a Monday may be far.
const horizon = 5 // years

// Next is the first time after t at which the schedule is due, or zero if that
// never is, such as on a 30th of February.
//
// An hour that daylight saving skips is not made up for; one that comes twice
// is due twice.
func (s *Schedule) Next(t time.Time) time.Time {
	if s.every > 0 {
		return t.Add(s.every).Truncate(time.Second)
	}
	local := t.In(s.zone)
	local = local.Add(time.Minute - time.Duration(local.Second())*time.Second - time.Duration(local.Nanosecond()))
	last := local.Year() + horizon
	for local.Year() <= last {
		y, m, d := local.Date()
		switch {
		case !s.has(month, int(m)):
			local = time.Date(y, m+1, 1, 0, 0, 0, 0, s.zone)
		case !s.onDay(local):
			next := time.Date(y, m, d+1, 0, 0, 0, 0, s.zone)
			for next.Day() == d { // a midnight that does not exist lies before itself
				next = next.Add(time.Hour)
			}
			local = next
		case !s.has(hour, local.Hour()):
			// In elapsed time, not on the dial: an hour that comes twice would
			// lead back to itself.
			local = local.Add(time.Hour - time.Duration(local.Minute())*time.Minute)
		case !s.has(minute, local.Minute()):
			local = local.Add(time.Minute)
		default:
			return local.In(t.Location())
		}
	}
	return time.Time{}
}

func (s *Schedule) has(field, n int) bool { return s.sets[field]&(1<<n) != 0 }

func (s *Schedule) onDay(t time.Time) bool {
	inMonth, inWeek := s.has(day, t.Day()), s.has(weekday, int(t.Weekday()))
	if s.anyDay || s.anyWeekday {
		return inMonth && inWeek
	}
	return inMonth || inWeek
}
