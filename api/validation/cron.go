package validation

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// cronField is one of the five fields of a schedule.
type cronField struct {
	name     string
	min, max int
	words    map[string]int
}

var cronFields = []cronField{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of month", 1, 31, nil},
	{"month", 1, 12, words(1, "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")},
	{"day of week", 0, 6, words(0, "sun", "mon", "tue", "wed", "thu", "fri", "sat")},
}

func words(from int, names ...string) map[string]int {
	out := map[string]int{}
	for i, name := range names {
		out[name] = from + i
	}
	return out
}

// CronSchedule says what is wrong with a schedule: five fields of numbers,
// names, ranges, lists and steps, or a word such as @daily.
//
// Spec: crontab(5), as github.com/robfig/cron/v3 reads it.
func CronSchedule(schedule string) error {
	if zone, rest, ok := strings.Cut(schedule, " "); ok && (strings.HasPrefix(zone, "TZ=") || strings.HasPrefix(zone, "CRON_TZ=")) {
		schedule = strings.TrimSpace(rest)
	}
	if strings.HasPrefix(schedule, "@") {
		return cronWord(schedule)
	}
	fields := strings.Fields(schedule)
	if len(fields) != len(cronFields) {
		return fmt.Errorf("expected exactly 5 fields, found %d: %v", len(fields), fields)
	}
	for i, text := range fields {
		for item := range strings.SplitSeq(text, ",") {
			if err := cronFields[i].check(item); err != nil {
				return err
			}
		}
	}
	return nil
}

func cronWord(word string) error {
	switch word {
	case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
		return nil
	}
	if every, ok := strings.CutPrefix(word, "@every "); ok {
		if _, err := time.ParseDuration(every); err != nil {
			return fmt.Errorf("failed to parse duration %s: %s", word, err)
		}
		return nil
	}
	return fmt.Errorf("unrecognized descriptor: %s", word)
}

// check reads one item of a list: *, N, N-M, and a step after any of them.
func (f cronField) check(item string) error {
	span, step, stepped := strings.Cut(item, "/")
	if strings.Contains(step, "/") {
		return fmt.Errorf("too many slashes: %s", item)
	}
	low, high, ranged := strings.Cut(span, "-")
	start, end := f.min, f.max
	var err error
	if low != "*" && low != "?" {
		if strings.Contains(high, "-") {
			return fmt.Errorf("too many hyphens: %s", item)
		}
		if start, err = f.number(low); err != nil {
			return err
		}
		if !stepped {
			end = start
		}
		if ranged {
			if end, err = f.number(high); err != nil {
				return err
			}
		}
	}
	if stepped {
		n, err := strconv.ParseUint(step, 10, 31)
		if err != nil {
			return fmt.Errorf("failed to parse int from %s: %s", step, err)
		}
		if n == 0 {
			return fmt.Errorf("step of range should be a positive number: %s", item)
		}
	}
	switch {
	case start < f.min:
		return fmt.Errorf("beginning of range (%d) below minimum (%d): %s", start, f.min, item)
	case end > f.max:
		return fmt.Errorf("end of range (%d) above maximum (%d): %s", end, f.max, item)
	case start > end:
		return fmt.Errorf("beginning of range (%d) beyond end of range (%d): %s", start, end, item)
	}
	return nil
}

func (f cronField) number(text string) (int, error) {
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
